/* What the programs need of the kernel's types and of its helpers. Structures
 * name only the fields that are read: CO-RE finds them in the running kernel
 * whatever else surrounds them, and what is not there can be asked for with
 * bpf_core_field_exists. No generated vmlinux.h is needed, nor any header but
 * this, so that the objects depend on nothing but the compiler. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char s8;
typedef short s16;
typedef int s32;
typedef long long s64;

#define NULL ((void *)0)
#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
/* Global functions are verified once, and not for each way that leads to them, which
 * keeps the whole far below the verifier's limit. They take only numbers besides the
 * packet: what else they find is left in a map. */
#define GLOBAL __attribute__((noinline))
#define CORE __attribute__((preserve_access_index))
#define ALIGNED __attribute__((aligned(8)))

/* Definitions of maps in BTF (Documentation/bpf/btf.rst). */
#define __uint(name, value) int (*name)[value]
#define __type(name, value) typeof(value) *name

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* OPAQUE hides from the compiler what it knows of x: a check that the verifier needs
 * then stays, and is of what is used. */
#define OPAQUE(x) asm volatile("" : "+r"(x))

/* AT_LEAST_1 bounds n, which is neither 0 nor above most, a power of two, for the
 * verifier: before Linux 6.8 it does not learn from a comparison with 0 that a size is
 * above that. The compiler, which does, may not see through it. */
#define AT_LEAST_1(n, most) ({ u32 _n = (n); OPAQUE(_n); ((_n - 1) & ((most) - 1)) + 1; })

/* Accesses that the compiler may not tear, repeat or leave out. */
#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile typeof(x) *)&(x) = (value))

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define ntohs(x) __builtin_bswap16(x)
#define ntohl(x) __builtin_bswap32(x)
#else
#define ntohs(x) (x)
#define ntohl(x) (x)
#endif
#define htons(x) ntohs(x)
#define htonl(x) ntohl(x)

/* Relocations of bpf_core_field_exists and bpf_core_enum_value; see
 * __builtin_preserve_field_info in LLVM's documentation. */
#define core_field_exists(field) __builtin_preserve_field_info(field, 2)

/* Map types and flags (include/uapi/linux/bpf.h). */
enum {
	MAP_TYPE_HASH = 1,
	MAP_TYPE_ARRAY = 2,
	MAP_TYPE_PROG_ARRAY = 3,
	MAP_TYPE_PERCPU_ARRAY = 6,
	MAP_TYPE_LRU_HASH = 9,
	MAP_TYPE_LPM_TRIE = 11,
	MAP_TYPE_SK_STORAGE = 24,
	MAP_TYPE_RINGBUF = 27,
};
enum { NO_PREALLOC = 1 };
enum { ANY = 0, NOEXIST = 1, EXIST = 2 };
enum { RB_NO_WAKEUP = 1, RB_FORCE_WAKEUP = 2 };
enum { RB_AVAIL_DATA = 0, RB_RING_SIZE = 1 };

/* Helpers, by their numbers in that file. */
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static long (*bpf_tail_call)(void *ctx, void *programs, u32 index) = (void *)12;
static u64 (*bpf_get_current_pid_tgid)(void) = (void *)14;
static long (*bpf_get_current_comm)(void *buf, u32 size) = (void *)16;
static long (*bpf_skb_load_bytes)(const void *skb, u32 offset, void *to, u32 len) = (void *)26;
static u64 (*bpf_get_current_cgroup_id)(void) = (void *)80;
static void *(*bpf_sk_storage_get)(void *map, void *sk, void *value, u64 flags) = (void *)107;
static long (*bpf_probe_read_kernel)(void *dst, u32 size, const void *src) = (void *)113;
static long (*bpf_ringbuf_output)(void *ring, void *data, u64 size, u64 flags) = (void *)130;
static void *(*bpf_ringbuf_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*bpf_ringbuf_submit)(void *data, u64 flags) = (void *)132;
static void (*bpf_ringbuf_discard)(void *data, u64 flags) = (void *)133;
static u64 (*bpf_ringbuf_query)(void *ring, u64 flags) = (void *)134;

/* Socket buffers as programs on packets see them (include/uapi/linux/bpf.h). Its
 * layout is stable, so no relocation. */
struct __sk_buff {
	u32 len;
	u32 pkt_type;
	u32 mark;
	u32 queue_mapping;
	u32 protocol;
	u32 vlan_present;
	u32 vlan_tci;
	u32 vlan_proto;
	u32 priority;
	u32 ingress_ifindex;
	u32 ifindex;
	u32 unused[25]; /* up to data_meta */
	u64 flow_keys;
	u64 tstamp;
	u32 wire_len;
	u32 gso_segs;
	struct bpf_sock *sk;
};

/* The same of sockets. */
struct bpf_sock {
	u32 bound_dev_if;
	u32 family;
	u32 type;
};
