/* What facts.c knows of the kernel's sockets, what goes up from it, and its maps. */
#pragma once
#include "filter.h"

static u64 (*bpf_get_current_task)(void) = (void *)35;
static u64 (*bpf_jiffies64)(void) = (void *)118;
static long (*bpf_dynptr_read)(void *dst, u64 len, const void *src, u64 offset, u64 flags) = (void *)201;

/* The fields that are read. Typedefs of structures without names match by the
 * names of their members. */
struct ns_common {
	u32 inum;
} CORE;
struct net {
	struct ns_common ns;
} CORE;
typedef struct {
	struct net *net;
} CORE possible_net_t;
struct in6_addr {
	union {
		u8 u6_addr8[16];
	} in6_u;
} CORE;
struct sock_common {
	u32 skc_daddr;
	u32 skc_rcv_saddr;
	u16 skc_dport;
	u16 skc_family;
	volatile u8 skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	unsigned long skc_flags;
} CORE;
struct kernfs_node {
	u64 id; /* a number of its own since Linux 5.5 (67c0496e87d1) */
} CORE;
struct cgroup;
struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
} CORE;
struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
} CORE;
/* One word for the group and two old controllers until Linux 5.16 (8520e224f547). */
struct sock_cgroup_data {
	struct cgroup *cgroup;
} CORE;
struct sock_cgroup_data___word {
	u64 val;
} CORE;
struct sk_buff_head {
	struct sk_buff *next;
} CORE;
typedef struct {
	int owned;
} CORE socket_lock_t;
struct inode {
	unsigned long i_ino;
} CORE;
struct file {
	struct inode *f_inode;
} CORE;
struct socket {
	struct file *file;
} CORE;
struct sock {
	struct sock_common __sk_common;
	struct sk_buff_head sk_receive_queue;
	struct socket *sk_socket;
	socket_lock_t sk_lock;
	void *sk_user_data;
	int sk_err;
	u8 sk_shutdown;
	u16 sk_protocol;
	struct sock_cgroup_data sk_cgrp_data;
} CORE;
struct inet_sock {
	u16 inet_sport;
} CORE;
struct inet_connection_sock {
	const void *icsk_ulp_ops;
	struct {
		u32 lrcvtime;
	} icsk_ack;
} CORE;
struct tcp_sock {
	u32 copied_seq;
	u32 rcv_nxt;
	u32 lsndtime;
} CORE;
struct net_device {
	possible_net_t nd_net;
} CORE;
struct dst_entry {
	struct net_device *dev;
} CORE;
struct sk_buff {
	unsigned long _skb_refdst;
	u32 len, data_len;
	u16 transport_header, network_header;
	u32 tail; /* an offset where pointers have 64 bits: NET_SKBUFF_DATA_USES_OFFSET */
	u8 *head, *data;
	char cb[48];
} CORE;
struct tcp_skb_cb {
	u32 seq;
} CORE;
struct pid_namespace {
	struct ns_common ns;
} CORE;
struct upid {
	int nr;
	struct pid_namespace *ns;
} CORE;
struct pid {
	u32 level;
	struct upid numbers[1];
} CORE;
struct task_struct {
	u32 flags;
	int tgid;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	char comm[16];
} CORE;
/* Their numbers are the running kernel's: enumerator() asks for them. */
enum sock_flags { SOCK_DONE = 1 };
enum sk_rst_reason { SK_RST_REASON_TCP_FLAGS = 6 };
#define enumerator(type, name) __builtin_preserve_enum_value(*(enum type *)name, 1)

struct bpf_dynptr {
	u64 opaque[2];
} __attribute__((aligned(8)));
extern int bpf_dynptr_from_skb(const struct sk_buff *skb, u64 flags, struct bpf_dynptr *ptr) __attribute__((section(".ksyms"), weak));

#define READ(to, from) bpf_probe_read_kernel(&(to), sizeof(to), &(from))

/* States of sockets, as BPF_TCP_* in include/uapi/linux/bpf.h; and others that
 * have had their number since they were there. */
enum {
	ESTABLISHED = 1, SYN_SENT = 2, SYN_RECV = 3, FIN_WAIT1 = 4, FIN_WAIT2 = 5, TIME_WAIT = 6,
	CLOSE = 7, CLOSE_WAIT = 8, LAST_ACK = 9, LISTEN = 10, CLOSING = 11, NEW_SYN_RECV = 12,
};
enum { AF_INET = 2, AF_INET6 = 10, IPPROTO_TCP = 6 };
enum { EPIPE = 32, ECONNABORTED = 103, ECONNRESET = 104, ECONNREFUSED = 111 };
enum { SHUTDOWN_MASK = 3 };
enum { PF_KTHREAD = 0x00200000 };

/* Set by user space before loading, from BTF. The verifier then leaves out what a
 * kernel does not have. */
const volatile u8 has_reason;		/* tcp_send_reset has a third argument */
const volatile u8 has_cgroup;		/* sockets know their cgroup */
const volatile u8 has_cgroup_pointer;	/* as a pointer */
const volatile u8 has_dynptr;		/* tracing programs may read all of a packet */
const volatile u8 want_closes;		/* tell of every close */
const volatile u32 pid_namespace;	/* whose numbers processes have; 0: the first */
const volatile u32 wakeup_bytes;	/* with so much in the ring, user space is woken */

enum kind { RESET_SENT = 1, RESET_RECEIVED = 2, CLOSED = 3, OWNED = 5 };

enum {
	ACTIVE = 1,	/* answers no segment */
	UNREAD = 2,	/* unread and rcv_nxt hold */
	SEGMENT = 4,	/* seq, ack and len hold */
	IDLE = 8,	/* idle holds */
	SOCKET = 16,	/* state holds */
	PENDING = 32,	/* an OWNED may come: a process has the socket open */
	LISTENER = 64,	/* inode is of the listening socket */
};

#define HEAD 256

/* What goes up. Go's bpf/facts.go has the same. */
struct record {
	u64 time;	/* CLOCK_MONOTONIC */
	u64 socket;	/* tells sockets apart as long as they live */
	u64 cgroup;	/* of the owner; 0 if not known */
	u64 inode;	/* as in /proc/PID/fd; 0 if no file has the socket */
	u8 local[16], remote[16];
	u16 local_port, remote_port;
	u32 netns;
	u32 reason, unread, rcv_nxt;
	u32 idle;	/* ticks of the kernel */
	u32 seq, ack, len;
	u32 pid;	/* of the owner; 0 if not known */
	char command[16];
	u8 kind, state, new_state, flags;
	u16 head_len, pad;
	u8 head[HEAD];
};
const struct record *unused_record __attribute__((unused));

struct connection {
	u8 local[16], remote[16];
	u16 local_port, remote_port;
	u32 netns;
};

struct owner {
	u64 cgroup;
	u32 pid;
	char command[16];
	u32 pad;
};

struct place {
	u32 netns;
	u16 port, pad;
};

struct {
	__uint(type, MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} ring SEC(".maps");

/* Who closed a connection that the kernel goes on with, and that segments may
 * still come for when it is gone. */
struct {
	__uint(type, MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct connection);
	__type(value, struct owner);
} closers SEC(".maps");

/* Sockets that were told of without an owner: who closes one is its owner. */
struct {
	__uint(type, MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, u8);
} pending_sockets SEC(".maps");

/* The port whose listener a task is just closing. */
struct {
	__uint(type, MAP_TYPE_LRU_HASH);
	__uint(max_entries, 256);
	__type(key, u64);
	__type(value, struct place);
} stopping SEC(".maps");

struct {
	__uint(type, MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, u8);
} namespaces SEC(".maps");
struct {
	__uint(type, MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, u8);
} processes SEC(".maps");

/* Records that found the ring full. */
u64 lost;
