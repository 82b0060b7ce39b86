//go:build ignore

/* The recorder: keeps, for every connection, the last segments that matter, and
 * sends them up when it ends. One program for TCX and for socket filters. */
#include "keep.h"
#include "look.h"

char LICENSE[] SEC("license") = "GPL";

/* rest begins a new record where the last one and its stream ended. */
INLINE void rest(struct conn *c)
{
	c->up = 0;
	if (c->reset) /* it lives on */
		opened(c);
	c->reset = 0;
	c->wide = 0;
	c->hurries = c->hurried = 0;
	for (int i = 0; i < 2; i++) {
		c->half[i].n = 0;
		c->half[i].bare.kind = 0;
		c->half[i].bytes = 0;
		c->from[i] = c->half[i].next;
		c->turns[i] = c->half[i].turns;
	}
}

INLINE void over(struct conn *c, struct counters *n)
{
	closed(c);
	n->closed++;
	bpf_map_delete_elem(&conns, &c->key);
}

INLINE int shake(struct conn *c, const struct segment *s, int dir)
{
	int i = s->flags & ACK ? 1 : 0;

	if (c->shakes & 1 << i)
		return 1; /* sent again */
	if (c->client < 0) {
		c->client = i ? !dir : dir;
		opened(c);
	}
	keep(&c->shake[i], s, BARE);
	c->shake[i].len = 0; /* data in it (RFC 7413) is kept as data */
	c->shakes |= 1 << i;
	return 0;
}

/* another reports whether the SYN s begins another connection than c. */
INLINE int another(const struct conn *c, const struct segment *s, int dir)
{
	if ((s->flags & (SYN | ACK)) != SYN)
		return 0;
	if (c->shakes & 1 && c->shake[0].seq == s->seq && c->client == dir)
		return 0;
	return c->reset || c->half[0].fin || c->half[1].fin || !c->half[!dir].packets;
}

INLINE struct conn *enter(struct key *k, const struct segment *s, struct counters *n)
{
	u32 zero = 0;
	struct conn *c = bpf_map_lookup_elem(&blank, &zero);

	if (!c || bpf_map_update_elem(&conns, k, c, ANY)) {
		n->full++;
		return NULL;
	}
	c = bpf_map_lookup_elem(&conns, k);
	if (!c)
		return NULL;
	c->type = RECORD;
	c->zone = zone;
	c->key = *k;
	c->born = s->time;
	c->client = c->speaking = -1;
	n->opened++;
	return c;
}

/* own notes whose socket h is. It stays in the group in which it was made. */
INLINE void own(struct conn *c, struct half *h, int whose, struct counters *n)
{
	u64 before = c->half[0].packets + c->half[1].packets;

	if (whose == UNKNOWN)
		return;
	h->asked = 1;
	if (whose != OURS)
		return;
	c->ours = 1;
	opened(c);
	n->filtered -= before;
	n->segments += before;
}

/* finished reports whether both ends have closed, and know it of each other. */
INLINE int finished(const struct half *h, const struct half *p)
{
	return h->fin && p->fin && (s32)(p->acked - h->next) > 0 && (s32)(h->acked - p->next) > 0;
}

/* pass is for a segment of a connection that is not ours: nobody is told. */
INLINE void pass(struct conn *c, struct half *h, const struct half *p, const struct segment *s, int up, struct counters *n)
{
	if (up)
		c->due = 1;
	if (s->flags & FIN) {
		h->fin = 1;
		h->next = s->seq + s->len;
	}
	if (s->flags & RST || finished(h, p))
		over(c, n);
}

INLINE int record(struct __sk_buff *skb, u64 tap)
{
	struct packet *at;
	struct segment *s;
	struct counters *n;
	struct conn *c;
	struct half *h, *p;
	struct key *k;
	u32 zero = 0, dir;
	int up;

	n = bpf_map_lookup_elem(&counts, &zero);
	at = bpf_map_lookup_elem(&packet, &zero);
	if (!n || !at)
		return 0;
	n->packets++;
	n->bytes += skb->len;
	switch (look(skb)) {
	case IS_TCP:
		break;
	case IS_FRAGMENT:
		n->fragments++;
		return 0;
	case IS_BAD:
		n->undecodable++;
		return 0;
	case IS_FILTERED:
		n->filtered++;
		return 0;
	default:
		n->other++;
		return 0;
	}
	s = &at->s;
	k = &at->key;
	dir = at->dir & 1;
	if (everything) {
		n->segments++;
		send_up(skb, 0, 0);
		return 0;
	}
	c = bpf_map_lookup_elem(&conns, k);
	if (c && unlikely(s->flags & SYN) && another(c, s, dir)) {
		if (!c->up && !others(c)) /* it ended, and nobody was told */
			send_record();
		over(c, n);
		c = NULL;
	}
	if (unlikely(!c)) {
		if (s->flags & (RST | FIN)) {
			if (by_cgroup && sender(skb) != OURS) {
				n->filtered++;
				return 0;
			}
			n->segments++;
			send_up(skb, 0, 0);
			return 0;
		}
		if (s->len == 0 && !(s->flags & SYN)) {
			n->segments++;
			return 0; /* an acknowledgement of what was before */
		}
		c = enter(k, s, n);
		if (!c)
			return 0;
	}
	h = &c->half[dir];
	p = &c->half[!dir];
	if (others(c) && !h->asked) /* where it is seen again its socket may not be known any more */
		own(c, h, sender(skb), n);
	if (h->tap != tap) {
		/* The same packet on its way through the host, unless where it was seen
		 * first has been silent: routes change. */
		if (h->tap && s->time - h->last < 1000000000) {
			n->repeated++;
			return 0;
		}
		h->tap = tap;
	}
	if (others(c))
		n->filtered++;
	else
		n->segments++;
	h->packets++;
	h->last = s->time;
	p->probes = 0;
	if (s->flags & ACK)
		h->acked = s->ack;
	up = 0;
	if (unlikely(s->flags & SYN)) {
		up = shake(c, s, dir);
		if (!h->seen) {
			h->seen = 1;
			h->next = s->seq + 1;
			c->from[dir] = h->next;
		}
		s->seq++; /* data in a SYN is behind it (RFC 7413) */
		if (s->len && !c->up)
			up |= data(skb, c, h, p, s, dir);
		s->seq--;
	} else if (unlikely(s->flags & (RST | FIN))) {
		up = 1;
	} else if (s->len == 0) {
		if (unlikely(c->shakes == 3 && dir == (u32)c->client && !p->turns &&
			     (!h->n || h->ring[0].time == c->shake[0].time && h->n == 1))) {
			c->shakes |= 4;
			keep(&c->shake[2], s, BARE);
		} else if (!c->up) {
			if (h->seen && s->seq == h->next - 1) {
				h->probes++;
				up = h->probes >= 2;
			}
			keep(&h->bare, s, BARE);
		}
		if (!h->seen) {
			h->seen = 1;
			h->next = s->seq;
			c->from[dir] = s->seq;
		}
	} else {
		if (!h->seen)
			c->from[dir] = s->seq;
		if (!c->up)
			up = data(skb, c, h, p, s, dir);
		else if ((s32)(s->seq + s->len - h->next) > 0 || !h->seen) {
			/* The stream shows it: only what later records need is noted. */
			h->seen = 1;
			h->next = s->seq + s->len;
			h->bytes += s->len;
			h->last_data = s->time;
			if (c->speaking != (s8)dir) {
				c->speaking = dir;
				h->turns++;
				h->first = s->seq;
			}
		}
	}
	if (others(c)) {
		pass(c, h, p, s, up, n);
		return 0;
	}
	if (by_cgroup && c->due) {
		c->due = 0;
		up = up ? up : 1;
	}
	if (!c->up) {
		if (!up)
			return 0;
		/* The record has the segment already, but for one that ends the connection
		 * and one that was seen twice. */
		send_record();
		if (!(s->flags & (SYN | FIN | RST)) && up != NOT_KEPT)
			return 0;
	}
	send_up(skb, c->born, c->sealed | c->wide);
	if (s->flags & RST) {
		/* Whether the other end takes it, what follows shows: user space takes the
		 * connection away when nothing has for a while. */
		closed(c);
		c->quick = 0;
		c->reset = 1;
		c->streamed = 0;
	} else if (s->flags & FIN) {
		h->fin = 1;
		h->next = s->seq + s->len;
		c->streamed = 0;
	} else if (finished(h, p)) {
		over(c, n);
		return 0;
	}
	if (c->streamed < STREAMED)
		c->streamed++;
	else if (!c->pipelined)
		rest(c);
	return 0;
}

/* LO is the loopback interface's index in every namespace (LOOPBACK_IFINDEX in
 * include/net/flow.h). What passes it is seen twice: it counts when it comes in, or,
 * if its socket matters, which is forgotten by then, when it goes out. */
#define LO 1
#define OUTGOING 4 /* PACKET_OUTGOING */

INLINE u64 tap_of(const struct __sk_buff *skb, u32 out)
{
	return (u64)(instance + 1) << 40 | (u64)skb->ifindex << 1 | out;
}

#define NEXT -1 /* TCX_NEXT: whatever else is attached goes on */

SEC("tc")
int record_in(struct __sk_buff *skb)
{
	if (!(by_cgroup && skb->ifindex == LO))
		record(skb, tap_of(skb, 0));
	return NEXT;
}

SEC("tc")
int record_out(struct __sk_buff *skb)
{
	if (by_cgroup || skb->ifindex != LO)
		record(skb, tap_of(skb, 1));
	return NEXT;
}

/* Where there is no TCX: the filter of a packet socket, which gets nothing. */
SEC("socket")
int record_socket(struct __sk_buff *skb)
{
	u32 out = skb->pkt_type == OUTGOING;

	if (!(out && skb->ifindex == LO))
		record(skb, tap_of(skb, out));
	return 0;
}

struct {
	__uint(type, MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} recorders SEC(".maps");

/* What is attached to the socket: the size of a filter counts as memory of the socket's
 * options (sk_filter_charge), which may have 20 kB before Linux 6.7. The recorder is
 * larger, and what is jumped to does not count. */
SEC("socket")
int enter_socket(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &recorders, 0);
	return 0;
}
