/* How much each server has to do: its connections, and how long they were idle. */
#pragma once

#include "parse.h"
#include "whose.h"

INLINE u32 bucket(u64 ns)
{
	u64 us = ns / 1000;
	u32 log = 0;

	if (us >> 32)
		return BUCKETS - 1;
	for (u32 step = 16; step > 0; step >>= 1)
		if (us >> (log + step))
			log += step;
	if (log < 2)
		return log;
	return log * 4 + (us >> (log - 2) & 3);
}

enum { OPENED, CLOSED, REUSED };

/* account notes what the connection at hand does to the load of its server, which is
 * the greater endpoint if client is 0: it is used again after it had been idle, or that
 * and quick times more after less than QUICK. */
GLOBAL int account(u32 what, u32 client, u64 idle, u32 quick)
{
	u32 zero = 0, b;
	struct packet *p = bpf_map_lookup_elem(&packet, &zero);
	struct endpoint e = {};
	struct load *l;

	if (!p)
		return 0;
	e.zone = p->key.zone;
	if (client == 0)
		e.addr[0] = p->key.b[0], e.addr[1] = p->key.b[1], e.port = p->key.pb;
	else
		e.addr[0] = p->key.a[0], e.addr[1] = p->key.a[1], e.port = p->key.pa;
	l = bpf_map_lookup_elem(&servers, &e);
	if (!l) {
		l = bpf_map_lookup_elem(&blank_load, &zero);
		if (!l)
			return 0;
		bpf_map_update_elem(&servers, &e, l, NOEXIST);
		l = bpf_map_lookup_elem(&servers, &e);
		if (!l)
			return 0;
	}
	if (what == OPENED) {
		__sync_fetch_and_add(&l->opened, 1);
		return 0;
	}
	if (quick) {
		__sync_fetch_and_add(&l->reuses, quick);
		__sync_fetch_and_add(&l->idle[0], quick);
	}
	if (what == CLOSED) {
		__sync_fetch_and_add(&l->closed, 1);
		return 0;
	}
	if (idle > l->longest)
		l->longest = idle;
	if (idle < QUICK)
		return 0;
	__sync_fetch_and_add(&l->reuses, 1);
	b = bucket(idle);
	if (b < BUCKETS)
		__sync_fetch_and_add(&l->idle[b], 1);
	return 0;
}

/* opened notes that the connection at hand is open, once it is known who its client is. */
INLINE void opened(const struct conn *c)
{
	if (c->client >= 0 && !others(c))
		account(OPENED, c->client, 0, 0);
}

/* closed is its counterpart. */
INLINE void closed(const struct conn *c)
{
	if (c->client >= 0 && !c->reset && !others(c))
		account(CLOSED, c->client, 0, c->quick);
}

/* reused notes that the connection at hand was used again. */
INLINE void reused(struct conn *c, u32 dir, u64 idle)
{
	if (others(c) || (idle < QUICK && ++c->quick < BATCH))
		return;
	account(REUSED, dir, idle, c->quick);
	c->quick = 0;
}
