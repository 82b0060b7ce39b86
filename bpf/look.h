/* From a packet to the segment and the connection that it is of. */
#pragma once

#include "maps.h"
#include "parse.h"

INLINE int wanted(const struct segment *s)
{
	u32 zero = 0, *by = bpf_map_lookup_elem(&filters, &zero);

	if (!by)
		return 0;
	if (*by & BY_PORT && !has_port(ntohs(s->sport), ntohs(s->dport)))
		return 0;
	if (*by & BY_PREFIX && !has_address(s->src, s->dst))
		return 0;
	return 1;
}

INLINE int is_loopback(const u64 *addr)
{
	const u32 *w = (const u32 *)addr;

	if (addr[0])
		return 0;
	if (w[2] == htonl(0xffff))
		return (ntohl(w[3]) >> 24) == 127;
	return w[2] == 0 && w[3] == htonl(1);
}

/* key_of returns the direction of s: 0 if its source is the lesser endpoint. */
INLINE u32 key_of(const struct segment *s, struct key *k)
{
	u32 dir;

	if (s->src[0] != s->dst[0])
		dir = s->src[0] > s->dst[0];
	else if (s->src[1] != s->dst[1])
		dir = s->src[1] > s->dst[1];
	else
		dir = s->sport > s->dport;
	if (dir) {
		k->a[0] = s->dst[0], k->a[1] = s->dst[1], k->pa = s->dport;
		k->b[0] = s->src[0], k->b[1] = s->src[1], k->pb = s->sport;
	} else {
		k->a[0] = s->src[0], k->a[1] = s->src[1], k->pa = s->sport;
		k->b[0] = s->dst[0], k->b[1] = s->dst[1], k->pb = s->dport;
	}
	k->zone = zone && (is_loopback(s->src) || is_loopback(s->dst)) ? zone : 0;
	return dir;
}

enum { IS_FILTERED = IS_BAD + 1 };

/* look fills in packet. */
GLOBAL int look(struct __sk_buff *skb)
{
	u32 zero = 0;
	struct packet *p = bpf_map_lookup_elem(&packet, &zero);
	int what;

	if (!p)
		return IS_BAD;
	if (ntohs((u16)skb->protocol) != TYPE_IPV4 || !common(skb, p)) {
		what = parse(skb);
		if (what != IS_TCP)
			return what;
	}
	if (!wanted(&p->s))
		return IS_FILTERED;
	p->s.time = replayed ? skb->tstamp : bpf_ktime_get_ns();
	p->dir = key_of(&p->s, &p->key);
	return IS_TCP;
}
