//go:build ignore

/* facts: what the kernel knows of its TCP sockets and no packet shows.
 *
 * The hooks are BTF tracepoints, so the verifier knows the arguments' types, and
 * nothing here runs for a packet or a request: a connection costs three short
 * runs, when it is established, when it is closed and when it is destroyed.
 *
 * tcp_send_reset, tcp_receive_reset and inet_sock_set_state run in soft interrupt
 * as often as in a system call, and a soft interrupt borrows whatever task was
 * running: on loopback that of the other end. So the current task counts as the
 * owner only where the socket itself says so; see owner_of. */
#include "facts.h"

INLINE void map_address(u8 to[16], u32 address)
{
	__builtin_memset(to, 0, 10);
	to[10] = to[11] = 0xff;
	__builtin_memcpy(to + 12, &address, 4);
}

/* A socket's own addresses. Not of listeners (they have no remote one) and of
 * mini-sockets. skc_num would be the port, but tcp_set_state has let it go by then
 * (inet_put_port). */
INLINE void socket_connection(struct connection *c, const struct sock *sk)
{
	if (sk->__sk_common.skc_family == AF_INET) {
		map_address(c->local, sk->__sk_common.skc_rcv_saddr);
		map_address(c->remote, sk->__sk_common.skc_daddr);
	} else {
		READ(c->local, sk->__sk_common.skc_v6_rcv_saddr);
		READ(c->remote, sk->__sk_common.skc_v6_daddr);
	}
	u16 port = 0;
	READ(port, ((struct inet_sock *)sk)->inet_sport);
	c->local_port = ntohs(port);
	c->remote_port = ntohs(sk->__sk_common.skc_dport);
	c->netns = sk->__sk_common.skc_net.net->ns.inum;
}

enum { SYN = 0x02, ACK = 0x10 };
struct tcp_header {
	u16 source, dest;
	u32 seq, ack;
	u8 offset, flags;
};

/* The connection that a received segment is of. Returns the length of the TCP
 * header, 0 if there is none. */
INLINE u32 segment_connection(struct connection *c, const struct sk_buff *skb, struct tcp_header *tcp)
{
	u8 *head = skb->head;
	u8 *ip = head + skb->network_header;
	u8 version = 0;

	bpf_probe_read_kernel(&version, 1, ip);
	if (version >> 4 == 4) {
		u32 address[2] = {};
		bpf_probe_read_kernel(address, 8, ip + 12);
		map_address(c->remote, address[0]);
		map_address(c->local, address[1]);
	} else {
		bpf_probe_read_kernel(c->remote, 16, ip + 8);
		bpf_probe_read_kernel(c->local, 16, ip + 24);
	}
	if (bpf_probe_read_kernel(tcp, sizeof(*tcp), head + skb->transport_header))
		return 0;
	c->remote_port = ntohs(tcp->source);
	c->local_port = ntohs(tcp->dest);
	return (tcp->offset >> 4) * 4;
}

/* Where no socket says in which namespace a segment is, its route does
 * (skb_dst_dev_net in tcp_v4_send_reset). */
INLINE u32 segment_netns(const struct sk_buff *skb)
{
	struct dst_entry *dst = (void *)(skb->_skb_refdst & ~1UL); /* SKB_DST_NOREF */
	struct net_device *dev = NULL;
	struct net *net = NULL;
	u32 inum = 0;

	if (dst && !READ(dev, dst->dev) && dev && !READ(net, dev->nd_net.net) && net)
		READ(inum, net->ns.inum);
	return inum;
}

INLINE struct cgroup *socket_cgroup(const struct sock *sk)
{
	if (!has_cgroup)
		return NULL;
	if (has_cgroup_pointer)
		return sk->sk_cgrp_data.cgroup;
	struct sock_cgroup_data___word *data = (void *)&sk->sk_cgrp_data;
	u64 word = 0;
	if (core_field_exists(data->val))
		READ(word, data->val);
	return word & 3 ? NULL : (void *)(unsigned long)word; /* bits: sock_cgroup_ptr */
}

INLINE u64 cgroup_id(struct cgroup *group)
{
	struct kernfs_node *node = NULL;
	u64 id = 0;

	if (group && !READ(node, group->kn) && node)
		READ(id, node->id);
	return id;
}

/* The number that a process has in the namespace of whoever looks on; 0 if it has
 * none there. */
INLINE u32 number_in_namespace(struct task_struct *leader)
{
	struct pid *pid = NULL;
	u32 level = 0, found = 0;

	if (READ(pid, leader->thread_pid) || !pid)
		return 0;
	READ(level, pid->level);
#pragma unroll
	for (u32 i = 0; i < 8; i++) { /* deeper ones are possible, but nobody nests them so */
		struct upid *at = (void *)&pid->numbers + i * __builtin_preserve_type_info(*(struct upid *)0, 1);
		struct pid_namespace *ns = NULL;
		u32 inum = 0;

		if (i <= level && !READ(ns, at->ns) && ns && !READ(inum, ns->ns.inum) && inum == pid_namespace)
			READ(found, at->nr);
	}
	return found;
}

/* The current task's process as an owner. Not a kernel thread, which closes what
 * others have let go of (delayed_fput). */
INLINE int current_owner(struct owner *o)
{
	struct task_struct *task = (void *)bpf_get_current_task(), *leader = NULL;
	u32 flags = PF_KTHREAD;

	READ(flags, task->flags);
	if (flags & PF_KTHREAD || READ(leader, task->group_leader) || !leader)
		return 0;
	READ(o->command, leader->comm);
	o->cgroup = bpf_get_current_cgroup_id();
	o->pid = pid_namespace ? number_in_namespace(leader) : bpf_get_current_pid_tgid() >> 32;
	return 1;
}

/* Whether the current task is closing the socket: tcp_close locks it and shuts both
 * directions before all else. While it is locked, soft interrupts leave it alone
 * (sock_owned_by_user), so nobody else gets here. An administrator who aborts it
 * locks it too, but shuts nothing (tcp_abort). */
INLINE int being_closed(const struct sock *sk)
{
	return sk->sk_lock.owned && sk->sk_shutdown == SHUTDOWN_MASK;
}

/* The owner of a socket, as far as the kernel can tell. Returns PENDING if a
 * process has the socket open that will have to close it yet. new_state is the one
 * that the socket is just entering, or 0. */
INLINE int owner_of(struct owner *o, const struct sock *sk, const struct connection *c, u8 new_state)
{
	u8 state = sk->__sk_common.skc_state;

	o->cgroup = cgroup_id(socket_cgroup(sk));
	/* Before it is established, what is known is of an earlier connection. */
	struct owner *closer = state == SYN_SENT || state == SYN_RECV ? NULL : bpf_map_lookup_elem(&closers, c);
	if (closer) {
		*o = *closer;
		return 0;
	}
	if (sk->sk_socket) {
		/* shutdown() is the only other way to these two states, and only who has
		 * the socket open can call it (tcp_close_state). */
		int known = being_closed(sk) || ((new_state == FIN_WAIT1 || new_state == LAST_ACK) && sk->sk_lock.owned);
		return known && current_owner(o) ? 0 : PENDING;
	}
	/* Not accepted yet. Closing the listener ends it, by the same task, which has
	 * not locked it (inet_csk_listen_stop). */
	u64 task = bpf_get_current_pid_tgid();
	struct place *p = bpf_map_lookup_elem(&stopping, &task);
	if (p && p->netns == c->netns && p->port == c->local_port && !sk->sk_lock.owned)
		current_owner(o);
	return 0;
}

INLINE int of_interest(const struct connection *c, u32 set)
{
	if (set & BY_PORT && !has_port(c->local_port, c->remote_port))
		return 0;
	if (set & BY_NETNS && !bpf_map_lookup_elem(&namespaces, &c->netns))
		return 0;
	if (set & BY_PREFIX && !has_address(c->local, c->remote))
		return 0;
	return 1;
}

/* Whether the owner is of those that were asked for, by process or by cgroup; with
 * a process that is not known (yet), user space decides. */
INLINE int of_owner(const struct owner *o, const struct sock *sk, u32 set)
{
	if (!(set & (BY_PROCESS | BY_CGROUP)))
		return 1;
	if (set & BY_PROCESS && ((sk && !o->pid) || bpf_map_lookup_elem(&processes, &o->pid)))
		return 1;
	if (!(set & BY_CGROUP))
		return 0;
	if (bpf_map_lookup_elem(&cgroups, &o->cgroup))
		return 1;
	struct cgroup *group = sk ? socket_cgroup(sk) : NULL;
#pragma unroll
	for (int i = 0; i < 16; i++) { /* containers have cgroups below their own */
		struct cgroup_subsys_state *parent = NULL;
		u64 id = cgroup_id(group);

		if (id && bpf_map_lookup_elem(&cgroups, &id))
			return 1;
		if (!group || READ(parent, group->self.parent) || !parent || READ(group, parent->cgroup))
			break;
	}
	return 0;
}

INLINE u32 filters_set(void)
{
	u32 zero = 0, *set = bpf_map_lookup_elem(&filters, &zero);
	return set ? *set : 0;
}

INLINE struct record *begin(u8 kind, const struct connection *c, const struct owner *o)
{
	struct record *r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);
	if (!r) {
		__sync_fetch_and_add(&lost, 1);
		return NULL;
	}
	/* All but the head, whose length is said. */
	__builtin_memset(r, 0, __builtin_offsetof(struct record, head));
	r->time = bpf_ktime_get_ns();
	r->kind = kind;
	__builtin_memcpy(r->local, c->local, 16);
	__builtin_memcpy(r->remote, c->remote, 16);
	r->local_port = c->local_port;
	r->remote_port = c->remote_port;
	r->netns = c->netns;
	r->cgroup = o->cgroup;
	r->pid = o->pid;
	__builtin_memcpy(r->command, o->command, 16);
	return r;
}

/* Waking a task for each record would cost more than the record. */
INLINE void submit(struct record *r)
{
	u64 flags = bpf_ringbuf_query(&ring, RB_AVAIL_DATA) >= wakeup_bytes ? RB_FORCE_WAKEUP : RB_NO_WAKEUP;
	bpf_ringbuf_submit(r, flags);
}

/* What had been received in order and not been read: tcp_inq() without urgent data.
 * A FIN takes a number too, until end of file has been read. Not where the kernel
 * itself reads ahead of the application (TLS, MPTCP, sockmap): there it says
 * nothing. */
INLINE int unread_of(const struct sock *sk, u32 *unread, u32 *rcv_nxt)
{
	const void *ulp = NULL;
	u32 copied = 0;

	READ(ulp, ((struct inet_connection_sock *)sk)->icsk_ulp_ops);
	if (ulp || sk->sk_user_data)
		return 0;
	READ(*rcv_nxt, ((struct tcp_sock *)sk)->rcv_nxt);
	READ(copied, ((struct tcp_sock *)sk)->copied_seq);
	*unread = *rcv_nxt - copied;
	if (*unread && sk->__sk_common.skc_flags >> enumerator(sock_flags, SOCK_DONE) & 1)
		--*unread;
	return 1;
}

/* The verifier must see the bound of a length where it is used: the compiler is made
 * to forget that it knows it. */
INLINE u64 bounded(u64 len)
{
	if (len > HEAD)
		len = HEAD;
	asm volatile("" : "+r"(len));
	return len;
}

INLINE void copy_head(struct record *r, const void *from, u64 len)
{
	len = bounded(len);
	if (len <= HEAD && !bpf_probe_read_kernel(r->head, len, from))
		r->head_len = len;
}

/* The beginning of what was received and not read. Only what is in the buffer's
 * linear part: pages have no address here. */
INLINE void queue_head(struct record *r, const struct sock *sk)
{
	struct sk_buff *skb = sk->sk_receive_queue.next;
	u32 seq = 0, copied = 0, len = 0, paged = 0;
	u8 *data = NULL;

	if (!skb || (void *)skb == (void *)&sk->sk_receive_queue)
		return;
	READ(seq, ((struct tcp_skb_cb *)&skb->cb)->seq);
	READ(copied, ((struct tcp_sock *)sk)->copied_seq);
	READ(len, skb->len);
	READ(paged, skb->data_len);
	READ(data, skb->data);
	u32 skip = copied - seq;
	len -= paged;
	if ((s32)skip < 0 || skip >= len)
		return;
	copy_head(r, data + skip, len - skip);
}

/* The number that /proc/PID/fd shows for a socket, 0 if no file has it. */
INLINE u64 socket_inode(const struct sock *sk)
{
	struct socket *socket = sk->sk_socket;
	struct file *file = NULL;
	struct inode *inode = NULL;
	unsigned long number = 0;

	if (socket && !READ(file, socket->file) && file && !READ(inode, file->f_inode) && inode)
		READ(number, inode->i_ino);
	return number;
}

/* What a full socket has to say, one that has been connected. */
INLINE void describe(struct record *r, const struct sock *sk, int pending)
{
	u32 sent = 0, received = 0, unread = 0, rcv_nxt = 0;

	r->socket = (unsigned long)sk;
	if (unread_of(sk, &unread, &rcv_nxt)) {
		r->flags |= UNREAD;
		r->unread = unread;
		r->rcv_nxt = rcv_nxt;
		if (unread)
			queue_head(r, sk);
	}
	READ(sent, ((struct tcp_sock *)sk)->lsndtime);
	READ(received, ((struct inet_connection_sock *)sk)->icsk_ack.lrcvtime);
	u32 now = bpf_jiffies64();
	r->idle = now - sent < now - received ? now - sent : now - received;
	r->flags |= IDLE;
	if (pending) {
		u64 key = (unsigned long)sk;
		u8 one = 1;

		bpf_map_update_elem(&pending_sockets, &key, &one, ANY);
		r->flags |= PENDING;
		r->inode = socket_inode(sk);
	}
}

/* The segment that a reset answers. */
INLINE void segment(struct record *r, const struct sk_buff *skb, const struct tcp_header *tcp, u32 header)
{
	u64 offset = (u64)(unsigned long)(skb->head + skb->transport_header + header) - (u64)(unsigned long)skb->data;
	u32 len = skb->len;

	r->seq = ntohl(tcp->seq);
	r->ack = tcp->flags & ACK ? ntohl(tcp->ack) : 0;
	r->flags |= SEGMENT;
	if (offset >= len)
		return;
	r->len = len - offset;
	if (has_dynptr) {
		struct bpf_dynptr packet;
		u64 wanted = bounded(len - offset);

		if (wanted <= HEAD && !bpf_dynptr_from_skb(skb, 0, &packet) && !bpf_dynptr_read(r->head, wanted, &packet, offset, 0))
			r->head_len = wanted;
		return;
	}
	u32 linear = len - skb->data_len;
	if (offset < linear)
		copy_head(r, skb->data + offset, linear - offset);
}

SEC("tp_btf/tcp_send_reset")
int send_reset(u64 *ctx)
{
	const struct sock *sk = (void *)ctx[0];
	const struct sk_buff *skb = (void *)ctx[1];
	u32 reason = has_reason ? ctx[2] : 0, set = filters_set();
	struct connection c = {};
	struct owner o = {};
	struct tcp_header tcp = {};
	u8 state = sk ? sk->__sk_common.skc_state : 0;
	/* These three are not struct sock, or have no connection of their own. */
	int full = sk && state != TIME_WAIT && state != NEW_SYN_RECV && state != LISTEN;
	u32 header = 0;
	int pending = 0;

	if (skb) {
		header = segment_connection(&c, skb, &tcp);
		c.netns = sk ? sk->__sk_common.skc_net.net->ns.inum : segment_netns(skb);
		if (!header)
			return 0;
	} else if (full) {
		socket_connection(&c, sk);
	} else {
		return 0;
	}
	if (!of_interest(&c, set))
		return 0;
	if (full) {
		pending = owner_of(&o, sk, &c, 0);
	} else {
		/* The connection is gone, or all but gone: what is known is who closed it.
		 * But not if the segment is of a new one, which the listener answers for
		 * other reasons, or which begins with it. */
		int gone = !(tcp.flags & SYN) && (state != LISTEN || (has_reason && reason == enumerator(sk_rst_reason, SK_RST_REASON_TCP_FLAGS)));
		struct owner *closer = gone ? bpf_map_lookup_elem(&closers, &c) : NULL;
		if (closer)
			o = *closer;
		else if (state == LISTEN)
			o.cgroup = cgroup_id(socket_cgroup(sk)); /* accepted sockets inherit it */
	}
	if (!of_owner(&o, full || state == LISTEN ? sk : NULL, set))
		return 0;
	struct record *r = begin(RESET_SENT, &c, &o);
	if (!r)
		return 0;
	r->reason = reason;
	if (!skb)
		r->flags |= ACTIVE;
	if (sk) {
		r->flags |= SOCKET;
		r->state = state;
	}
	if (full)
		describe(r, sk, pending);
	else if (state == LISTEN && !o.pid)
		r->inode = socket_inode(sk);
	if (skb) {
		r->head_len = 0; /* the segment's own counts, not what was there before it */
		segment(r, skb, &tcp, header);
	}
	submit(r);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int receive_reset(u64 *ctx)
{
	const struct sock *sk = (void *)ctx[0];
	u32 set = filters_set();
	struct connection c = {};
	struct owner o = {};

	socket_connection(&c, sk);
	if (!of_interest(&c, set))
		return 0;
	int pending = owner_of(&o, sk, &c, 0);
	if (!of_owner(&o, sk, set))
		return 0;
	struct record *r = begin(RESET_RECEIVED, &c, &o);
	if (!r)
		return 0;
	r->flags |= SOCKET;
	r->state = sk->__sk_common.skc_state;
	describe(r, sk, pending);
	if (r->state == SYN_SENT)
		r->flags &= ~(UNREAD | IDLE); /* nothing has been sent or received */
	submit(r);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int set_state(u64 *ctx)
{
	const struct sock *sk = (void *)ctx[0];
	u32 before = ctx[1], after = ctx[2];

	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	struct connection c = {};
	struct owner o = {};
	if (after == ESTABLISHED) {
		/* Whoever closed an earlier connection between the same ports has nothing
		 * to do with this one. */
		socket_connection(&c, sk);
		if (bpf_map_lookup_elem(&closers, &c)) /* looking takes no lock */
			bpf_map_delete_elem(&closers, &c);
		return 0;
	}
	if (before == LISTEN) {
		if (after == CLOSE && being_closed(sk)) {
			u64 task = bpf_get_current_pid_tgid();
			struct place p = {.netns = sk->__sk_common.skc_net.net->ns.inum};
			u16 port = 0;

			READ(port, ((struct inet_sock *)sk)->inet_sport);
			p.port = ntohs(port);
			bpf_map_update_elem(&stopping, &task, &p, ANY);
		}
		return 0;
	}
	if ((before != ESTABLISHED && before != SYN_RECV && before != CLOSE_WAIT) || after == CLOSE_WAIT)
		return 0;
	u32 set = filters_set();
	socket_connection(&c, sk);
	if (!of_interest(&c, set))
		return 0;
	/* A close after everything had been read is nothing to tell of, and where a reset
	 * is sent or was received, that is told of itself. */
	int tell = want_closes;
	if (!tell) {
		u32 unread = 0, rcv_nxt = 0;
		int error = sk->sk_err;

		tell = unread_of(sk, &unread, &rcv_nxt) && unread &&
		       !(after == CLOSE && (!error || error == ECONNRESET || error == EPIPE || error == ECONNABORTED || error == ECONNREFUSED));
	}
	/* Who has sent a FIN before sends no request after it. */
	if (!tell && after == LAST_ACK)
		return 0;
	int pending = owner_of(&o, sk, &c, after);
	if (o.pid && after != LAST_ACK)
		bpf_map_update_elem(&closers, &c, &o, ANY);
	if (!tell)
		return 0;
	if (!of_owner(&o, sk, set))
		return 0;
	struct record *r = begin(CLOSED, &c, &o);
	if (!r)
		return 0;
	r->flags |= SOCKET;
	r->state = before;
	r->new_state = after;
	describe(r, sk, pending);
	submit(r);
	return 0;
}

/* The last reference of a process to its socket is gone. If that ended before, by
 * a reset, nothing else tells whose it was. */
SEC("tp_btf/tcp_destroy_sock")
int destroy_sock(u64 *ctx)
{
	const struct sock *sk = (void *)ctx[0];
	u64 key = (unsigned long)sk;
	struct connection c = {};
	struct owner o = {};

	if (!sk->sk_lock.owned) /* by a soft interrupt, after close() */
		return 0;
	u64 task = bpf_get_current_pid_tgid();
	if (bpf_map_lookup_elem(&stopping, &task))
		bpf_map_delete_elem(&stopping, &task);
	if (!bpf_map_lookup_elem(&pending_sockets, &key))
		return 0;
	bpf_map_delete_elem(&pending_sockets, &key);
	socket_connection(&c, sk);
	if (!current_owner(&o))
		return 0;
	bpf_map_update_elem(&closers, &c, &o, ANY);
	struct record *r = begin(OWNED, &c, &o);
	if (!r)
		return 0;
	r->socket = key;
	submit(r);
	return 0;
}

char licence[] SEC("license") = "Dual BSD/GPL";
