/* From a packet to a TCP segment. */
#pragma once

#include "recorder.h"

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };

enum { HAS_OPTIONS = 1, HAS_TIMESTAMPS = 2 };

struct segment {
	u64 time;
	u64 src[2], dst[2]; /* IPv4 addresses are mapped, as in capture.Endpoint */
	u16 sport, dport;   /* as on the wire */
	u32 seq, ack;
	u32 len;            /* payload bytes */
	u32 at;             /* where they begin */
	u16 window, ipid;
	u8 flags, ttl, opts;
	s8 wscale;          /* -1: none */
};

/* The packet at hand. Programs on packets are not preempted by one another on the
 * same CPU. */
struct packet {
	struct segment s;
	struct key key;
	u32 dir;
	u32 pad;
	u8 raw[72]; /* how it begins, from raw[2] on: so the IP header is aligned */
};

struct {
	__uint(type, MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct packet);
} packet SEC(".maps");

enum { IS_TCP, IS_OTHER, IS_FRAGMENT, IS_BAD };

enum {
	TYPE_IPV4 = 0x0800,
	TYPE_IPV6 = 0x86dd,
	TYPE_VLAN = 0x8100,
	TYPE_QINQ = 0x88a8,
	TYPE_QINQ_OLD = 0x9100,
	TYPE_QINQ_OLD2 = 0x9200,
};

enum {
	HOP_BY_HOP = 0,
	TCP = 6,
	ROUTING = 43,
	FRAGMENT = 44,
	AUTHENTICATION = 51,
	DESTINATION = 60,
	MOBILITY = 135,
	HIP = 139,
	SHIM6 = 140,
};

INLINE long load(struct __sk_buff *skb, u32 at, void *to, u32 n)
{
	return bpf_skb_load_bytes(skb, at, to, n);
}

INLINE u16 be16(const u8 *b) { return (u16)b[0] << 8 | b[1]; }
INLINE u32 be32(const u8 *b) { return (u32)b[0] << 24 | (u32)b[1] << 16 | (u32)b[2] << 8 | b[3]; }

INLINE int is_tag(u16 type)
{
	return type == TYPE_VLAN || type == TYPE_QINQ || type == TYPE_QINQ_OLD || type == TYPE_QINQ_OLD2;
}

/* has_ethernet reports whether the packet begins with an Ethernet header, and not with
 * the IP header: interfaces of both kinds have the same hooks. */
INLINE int has_ethernet(struct __sk_buff *skb, u16 type)
{
	ALIGNED u8 b[16];

	if (load(skb, 0, b, 15) || be16(b + 12) != type)
		return 0;
	switch (type) {
	case TYPE_IPV4: /* or an IPv4 header of a source in 8.0.0.0/16 */
		return b[14] >> 4 == 4 && !(b[0] >> 4 == 4 && be16(b + 2) == skb->len);
	case TYPE_IPV6:
		return b[14] >> 4 == 6 && !(b[0] >> 4 == 6 && be16(b + 4) + 40 == skb->len);
	}
	return 1;
}

/* tcp_options returns the HAS_ bits of n bytes of options, and above them 1 + the
 * shift of the window scale option. Options are read from the packet one by one: with
 * a copy of them all, the verifier follows every place where one can be. */
GLOBAL u32 tcp_options(struct __sk_buff *skb, u32 at, u32 n)
{
	u32 has = HAS_OPTIONS, end = at + n;
	ALIGNED u8 o[4];

	/* What nearly every segment carries that carries any. */
	if (n == 12 && !load(skb, at, o, 4) && be32(o) == 0x0101080a)
		return has | HAS_TIMESTAMPS;
#pragma clang loop unroll(disable)
	for (u32 k = 0; k < 40 && at < end; k++) {
		if (load(skb, at, o, 1) || o[0] == 0)
			return has;
		if (o[0] == 1) {
			at++;
			continue;
		}
		if (at + 1 >= end || load(skb, at, o, 2) || o[1] < 2 || at + o[1] > end)
			return has;
		if (o[0] == 8 && o[1] == 10)
			has |= HAS_TIMESTAMPS;
		if (o[0] == 3 && o[1] == 3) {
			if (load(skb, at + 2, o + 2, 1))
				return has;
			has = (has & 3) | (1 + (o[2] > 14 ? 14 : o[2])) << 8;
		}
		at += o[1];
	}
	return has;
}

INLINE int tcp(struct __sk_buff *skb, struct segment *s, const u8 *b, u32 at, u32 wire)
{
	u32 header = (b[12] >> 4) * 4;

	if (header < 20 || header > wire)
		return IS_BAD;
	s->sport = *(u16 *)b;
	s->dport = *(u16 *)(b + 2);
	s->seq = be32(b + 4);
	s->ack = be32(b + 8);
	s->flags = b[13];
	s->window = be16(b + 14);
	s->wscale = -1;
	s->opts = 0;
	s->len = wire - header;
	s->at = at + header;
	if (header > 20) {
		u32 has = tcp_options(skb, at + 20, header - 20);

		s->opts = has & (HAS_OPTIONS | HAS_TIMESTAMPS);
		s->wscale = (s8)(has >> 8) - 1;
	}
	return IS_TCP;
}

INLINE struct segment *at_hand(void)
{
	u32 zero = 0;
	struct packet *p = bpf_map_lookup_elem(&packet, &zero);

	return p ? &p->s : NULL;
}

GLOBAL int ipv4(struct __sk_buff *skb, u32 at)
{
	struct segment *s = at_hand();
	ALIGNED u8 b[40]; /* most headers have no options, and all of TCP's are this long */
	u32 header, total;

	if (!s || at > 64)
		return IS_BAD;
	if (load(skb, at, b, 40)) {
		if (load(skb, at, b, 20) || b[0] >> 4 != 4 || (b[0] & 15) < 5)
			return IS_BAD;
		if (be16(b + 6) & 0x1fff)
			return IS_FRAGMENT;
		return b[9] == TCP ? IS_BAD : IS_OTHER;
	}
	header = (b[0] & 15) * 4;
	if (b[0] >> 4 != 4 || header < 20)
		return IS_BAD;
	total = be16(b + 2);
	if (total == 0)
		total = skb->len - at;
	if (total < header)
		return IS_BAD;
	if (be16(b + 6) & 0x1fff)
		return IS_FRAGMENT;
	if (b[9] != TCP)
		return IS_OTHER;
	if (total - header < 20)
		return IS_BAD;
	s->ttl = b[8];
	s->ipid = be16(b + 4);
	s->src[0] = s->dst[0] = 0;
	((u32 *)s->src)[2] = ((u32 *)s->dst)[2] = htonl(0xffff);
	((u32 *)s->src)[3] = *(u32 *)(b + 12);
	((u32 *)s->dst)[3] = *(u32 *)(b + 16);
	if (header > 20 && load(skb, at + header, b + 20, 20))
		return IS_BAD;
	return tcp(skb, s, b + 20, at + header, total - header);
}

GLOBAL int ipv6(struct __sk_buff *skb, u32 at)
{
	struct segment *s = at_hand();
	ALIGNED u8 b[40];
	u32 length;
	u8 next;

	if (!s || at > 64 || load(skb, at, b, 40) || b[0] >> 4 != 6)
		return IS_BAD;
	length = be16(b + 4);
	next = b[6];
	s->ttl = b[7];
	s->ipid = 0;
	__builtin_memcpy(s->src, b + 8, 16);
	__builtin_memcpy(s->dst, b + 24, 16);
	if (length == 0) /* a jumbogram, or a segmentation offload to come */
		length = skb->len - at - 40;
	at += 40;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 8; i++) {
		u32 n;

		if (next == TCP) {
			if (length > 1 << 20 || load(skb, at, b, 20))
				return IS_BAD;
			return tcp(skb, s, b, at, length);
		}
		switch (next) {
		case HOP_BY_HOP:
		case ROUTING:
		case DESTINATION:
		case MOBILITY:
		case HIP:
		case SHIM6:
		case FRAGMENT:
		case AUTHENTICATION:
			break;
		default:
			return IS_OTHER;
		}
		if (load(skb, at, b, 8))
			return IS_BAD;
		n = (b[1] + 1) * 8;
		if (next == FRAGMENT) {
			if (be16(b + 2) >> 3)
				return IS_FRAGMENT;
			n = 8;
		} else if (next == AUTHENTICATION) {
			n = (b[1] + 2) * 4;
		}
		next = b[0];
		if (n > length)
			return IS_BAD;
		at += n;
		length -= n;
	}
	return IS_BAD;
}

/* common parses what nearly every packet is: Ethernet, IPv4 and TCP, at most with
 * timestamps. It reads the packet once. */
INLINE int common(struct __sk_buff *skb, struct packet *p)
{
	struct segment *s = &p->s;
	u8 *link = p->raw + 2, *ip = link + 14, *b = ip + 20;
	u32 total, header;

	if (skb->len >= 66 ? load(skb, 0, link, 66) : load(skb, 0, link, 54))
		return 0;
	total = be16(ip + 2);
	header = (b[12] >> 4) * 4;
	if (be16(link + 12) != TYPE_IPV4 || ip[0] != 0x45 || link[0] >> 4 == 4 || ip[9] != TCP ||
	    be16(ip + 6) & 0x1fff || total < 20 + header || b[13] & SYN)
		return 0;
	s->opts = 0;
	if (header == 32) {
		if (skb->len < 66 || be32(b + 20) != 0x0101080a)
			return 0;
		s->opts = HAS_OPTIONS | HAS_TIMESTAMPS;
	} else if (header != 20) {
		return 0;
	}
	s->ttl = ip[8];
	s->ipid = be16(ip + 4);
	s->src[0] = s->dst[0] = 0;
	((u32 *)s->src)[2] = ((u32 *)s->dst)[2] = htonl(0xffff);
	((u32 *)s->src)[3] = *(u32 *)(ip + 12);
	((u32 *)s->dst)[3] = *(u32 *)(ip + 16);
	s->sport = *(u16 *)b;
	s->dport = *(u16 *)(b + 2);
	s->seq = be32(b + 4);
	s->ack = be32(b + 8);
	s->flags = b[13];
	s->window = be16(b + 14);
	s->wscale = -1;
	s->len = total - 20 - header;
	s->at = 34 + header;
	return 1;
}

INLINE int parse(struct __sk_buff *skb)
{
	u16 type = ntohs((u16)skb->protocol);
	u32 at = has_ethernet(skb, type) ? 14 : 0;
	ALIGNED u8 b[4];

#pragma clang loop unroll(disable)
	for (int i = 0; i < 4; i++) {
		if (type == TYPE_IPV4)
			return ipv4(skb, at);
		if (type == TYPE_IPV6)
			return ipv6(skb, at);
		if (!is_tag(type))
			return IS_OTHER;
		if (load(skb, at, b, 4))
			return IS_BAD;
		type = be16(b + 2);
		at += 4;
	}
	return IS_OTHER;
}
