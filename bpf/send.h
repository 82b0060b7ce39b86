/* What goes up: segments by themselves, and records of connections. */
#pragma once

#include "maps.h"
#include "parse.h"

INLINE u64 wake(void)
{
	/* The reader looks by itself now and then: only a burst must wake it. */
	return bpf_ringbuf_query(&ring, RB_AVAIL_DATA) >= ring_quarter ? RB_FORCE_WAKEUP : RB_NO_WAKEUP;
}

INLINE void keep(struct slot *to, const struct segment *s, u8 kind)
{
	to->time = s->time;
	to->seq = s->seq;
	to->ack = s->ack;
	to->len = s->len;
	to->skipped = 0;
	to->turn = 0;
	to->packets = 0;
	to->window = s->window;
	to->ipid = s->ipid;
	to->flags = s->flags;
	to->ttl = s->ttl;
	to->kind = kind;
	to->wscale = s->wscale;
	to->opts = s->opts;
	to->head = 0;
	to->ended = 0;
}

INLINE void keep_tail(struct __sk_buff *skb, const struct segment *s, struct slot *to)
{
	u32 n = s->len < TAIL ? s->len : TAIL;

	if (n > 0 && n <= TAIL && !load(skb, s->at + s->len - n, to->tail, AT_LEAST_1(n, TAIL)))
		to->ended = n;
}

INLINE void fill(struct event *e, const struct packet *p, u64 born)
{
	e->type = SEGMENT;
	e->dir = p->dir;
	e->zone = zone;
	e->key = p->key;
	e->born = born;
	keep(&e->slot, &p->s, 0);
	e->snap = 0;
}

/* send_up sends the packet at hand up by itself; it belongs to a connection that was
 * born then. */
GLOBAL int send_up(struct __sk_buff *skb, u64 born, u32 wide)
{
	u32 zero = 0, have;
	struct packet *p = bpf_map_lookup_elem(&packet, &zero);
	struct counters *n = bpf_map_lookup_elem(&counts, &zero);

	if (!p || !n)
		return 0;
	have = p->s.len;
	if (have == 0) {
		struct event *e = bpf_ringbuf_reserve(&ring, sizeof(*e), 0);

		if (!e) {
			n->lost_events++;
			return 0;
		}
		fill(e, p, born);
		bpf_ringbuf_submit(e, wake());
	} else if (wide && have > snap) {
		struct wide_event *w = bpf_ringbuf_reserve(&ring, sizeof(*w), 0);

		if (!w) {
			n->lost_events++;
			return 0;
		}
		fill(&w->e, p, born);
		if (have > WIDE)
			have = WIDE;
		if (have > 0 && !load(skb, p->s.at, w->payload, AT_LEAST_1(have, WIDE)))
			w->e.snap = have;
		if (have < p->s.len)
			keep_tail(skb, &p->s, &w->e.slot);
		bpf_ringbuf_submit(w, wake());
	} else {
		struct full_event *e = bpf_ringbuf_reserve(&ring, sizeof(*e), 0);

		if (!e) {
			n->lost_events++;
			return 0;
		}
		fill(&e->e, p, born);
		if (have > snap)
			have = snap;
		if (have > SNAP)
			have = SNAP;
		if (have > 0 && !load(skb, p->s.at, e->payload, AT_LEAST_1(have, SNAP)))
			e->e.snap = have;
		if (have < p->s.len)
			keep_tail(skb, &p->s, &e->e.slot);
		bpf_ringbuf_submit(e, wake());
	}
	n->events++;
	return 0;
}

/* send_record sends up what is kept of the connection at hand. */
GLOBAL int send_record(void)
{
	u32 zero = 0;
	struct packet *p = bpf_map_lookup_elem(&packet, &zero);
	struct counters *n = bpf_map_lookup_elem(&counts, &zero);
	struct conn *c;
	long failed;

	if (!p || !n)
		return 0;
	c = bpf_map_lookup_elem(&conns, &p->key);
	if (!c)
		return 0;
	/* The verifier wants sizes that it knows. */
	if (c->half[0].turns <= 1 && c->half[1].turns <= 1)
		failed = bpf_ringbuf_output(&ring, c, sizeof(*c) - 2 * sizeof(struct head), wake());
	else
		failed = bpf_ringbuf_output(&ring, c, sizeof(*c), wake());
	if (failed)
		n->lost_records++;
	else
		n->records++;
	c->told = 1;
	c->up = 1;
	c->streamed = 0;
	return 0;
}
