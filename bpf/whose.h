/* Of which control group the socket is that a packet left. */
#pragma once

#include "maps.h"

static u64 (*bpf_skb_ancestor_cgroup_id)(void *skb, int level) = (void *)83;
static struct bpf_sock *(*bpf_sk_fullsock)(struct bpf_sock *sk) = (void *)95;

enum { UNKNOWN, OTHERS, OURS };
enum { SOCK_STREAM = 1 };
enum { LEVELS = 32 }; /* of groups that can be asked for: nobody nests them deeper */

/* sender says whether the socket that skb left is of a group that was asked for, or of
 * one below. That is not known of what came from elsewhere, since the socket goes with
 * skb only on the way to the first interface that takes it in (skb_orphan in
 * loopback_xmit and ip_rcv_core). */
GLOBAL int sender(struct __sk_buff *skb)
{
	struct bpf_sock *sk, *full;

	if (!by_cgroup)
		return UNKNOWN;
	sk = skb->sk;
	if (!sk)
		return UNKNOWN;
	/* A raw one is the kernel's, which speaks where there is no socket (tcp_v4_init),
	 * or of somebody who makes up segments. What is not full is of a listener: the
	 * helper goes there (sk_to_full_sk), and accepted sockets inherit its group. */
	full = bpf_sk_fullsock(sk);
	if (full && full->type != SOCK_STREAM)
		return UNKNOWN;
#pragma clang loop unroll(disable)
	for (int level = 0; level < LEVELS; level++) {
		u64 id = bpf_skb_ancestor_cgroup_id(skb, level);

		if (!id)
			return level ? OTHERS : UNKNOWN;
		if (bpf_map_lookup_elem(&cgroups, &id))
			return OURS;
	}
	return OTHERS;
}

/* others reports whether c is not, as far as is known, of those that were asked for:
 * nothing of it goes up, or counts for its server. */
INLINE int others(const struct conn *c) { return by_cgroup && !c->ours; }
