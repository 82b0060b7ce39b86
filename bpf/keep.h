/* What is kept of the data of a connection: how bursts begin and how they end. */
#pragma once

#include "load.h"
#include "send.h"

enum { REQUEST = 1, RESPONSE, TUNNEL, PREFACE };

/* begins says what four bytes in the order of the wire begin: a message (RFC 9112,
 * section 2.1), of the methods that are in use, or the preface of HTTP/2 (RFC 9113,
 * section 3.4). */
INLINE int begins(u32 b)
{
	switch (ntohl(b)) {
	case 0x50524920: /* PRI */
		return PREFACE;
	case 0x48545450: /* HTTP */
		return RESPONSE;
	case 0x434f4e4e: /* CONNECT */
		return TUNNEL;
	case 0x47455420: /* GET */
	case 0x504f5354: /* POST */
	case 0x50555420: /* PUT */
	case 0x48454144: /* HEAD */
	case 0x44454c45: /* DELETE */
	case 0x4f505449: /* OPTIONS */
	case 0x50415443: /* PATCH */
	case 0x54524143: /* TRACE */
	case 0x50555247: /* PURGE */
	case 0x51554552: /* QUERY */
	case 0x50524f50: /* PROPFIND, PROPPATCH */
	case 0x4d4b434f: /* MKCOL */
	case 0x434f5059: /* COPY */
	case 0x4d4f5645: /* MOVE */
	case 0x4c4f434b: /* LOCK */
	case 0x554e4c4f: /* UNLOCK */
	case 0x5245504f: /* REPORT */
	case 0x53454152: /* SEARCH */
		return REQUEST;
	}
	return 0;
}

INLINE struct slot *push(struct half *h, const struct segment *s, u8 kind)
{
	struct slot *to = &h->ring[h->n % SLOTS];

	keep(to, s, kind);
	to->turn = h->turns;
	h->n++;
	return to;
}

INLINE struct head *head_of(struct conn *c, const struct half *h, int dir)
{
	u32 i = (h->turns + 1) % HEADS * 2 + (dir & 1);

	OPAQUE(i);
	return &c->heads[i % (HEADS * 2)];
}

INLINE void keep_head(struct __sk_buff *skb, struct head *hd, struct half *h, const struct segment *s, struct slot *to)
{
	u32 have = s->len < snap ? s->len : snap;

	if (have > SNAP)
		have = SNAP;
	hd->turn = h->turns;
	hd->len = 0;
	if (have == 0 || load(skb, s->at, hd->bytes, AT_LEAST_1(have, SNAP)))
		return;
	hd->len = have;
	to->head = 1;
	if (s->len > have)
		keep_tail(skb, s, to);
}

/* grow_head adds what follows it at once to the beginning of a burst. */
INLINE void grow_head(struct __sk_buff *skb, struct head *hd, struct half *h, const struct segment *s)
{
	u32 left = s->len, at = s->at;

	if (hd->turn != h->turns || s->seq - h->first != hd->len)
		return;
#pragma clang loop unroll(full)
	for (int i = 0; i < 3; i++) {
		u32 off = hd->len, n = left < STEP ? left : STEP;

		OPAQUE(off);
		if (n == 0 || off > SNAP - STEP || off + n > snap)
			return;
		if (load(skb, at, hd->bytes + off, AT_LEAST_1(n, STEP)))
			return;
		hd->len = off + n;
		at += n;
		left -= n;
	}
}

/* PAUSE is how long a sender must have been silent for what it sent before to be
 * kept as well: it may end a response, and what comes now the connection. */
#define PAUSE 200000000ULL

/* keep_last keeps a segment that continues a burst. At most two of each burst are
 * kept beside its first: the latest, and the latest before a pause. */
INLINE void keep_last(struct __sk_buff *skb, struct half *h, const struct segment *s)
{
	struct slot *to = &h->ring[(h->n - 1) % SLOTS], *before = &h->ring[(h->n - 2) % SLOTS];
	u32 skipped, packets;

	if (!h->n || to->kind != LAST || to->turn != h->turns) {
		to = push(h, s, LAST);
	} else if (s->time - to->time < PAUSE) {
		skipped = to->skipped + to->len;
		packets = to->packets + 1;
		keep(to, s, LAST);
		to->turn = h->turns;
		to->skipped = skipped;
		to->packets = packets > 0xffff ? 0xffff : packets;
	} else if (h->n > 1 && before->kind == LAST && before->turn == h->turns) {
		skipped = before->skipped + before->len + to->skipped;
		packets = before->packets + 1 + to->packets;
		*before = *to;
		before->skipped = skipped;
		before->packets = packets > 0xffff ? 0xffff : packets;
		keep(to, s, LAST);
		to->turn = h->turns;
	} else {
		to = push(h, s, LAST);
	}
	keep_tail(skb, s, to);
}

/* status returns the first digit of a response's status, 0 if h does not begin one. A
 * response that leaves HTTP (101) counts as 10. */
INLINE u32 status(const struct head *hd)
{
	const u8 *b = hd->bytes;

	if (hd->len < 12 || begins(*(u32 *)b) != RESPONSE)
		return 0;
	if (b[9] == '1' && b[10] == '0' && b[11] == '1')
		return 10;
	return b[9] - '0';
}

/* head_ends reports whether the header section ends within what is kept. */
INLINE int head_ends(const struct head *hd)
{
	u32 last = 0;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < SNAP; i++) {
		if (i >= hd->len)
			return 0;
		last = last << 8 | hd->bytes[i];
		if (last == 0x0d0a0d0a)
			return 1;
	}
	return 0;
}

/* MOMENT is how soon behind a response a request under TLS may be the rest of an
 * upload that was answered early. A client that is always that quick is told by how
 * often it was, see restOfUpload in correlate. */
#define MOMENT 10000000ULL

/* hurry notes whether a request came at once behind a response. */
INLINE void hurry(struct conn *c, u64 idle)
{
	u64 away = 0; /* the client, from here and back */

	if (c->shakes == 7)
		away = c->shake[2].time - c->shake[1].time;
	if (c->hurries & 2 && c->hurried < 255)
		c->hurried++;
	c->hurries = c->hurries << 1 | (idle < away + MOMENT);
}

enum { NOT_KEPT = 2 };

/* data keeps what matters of a segment with data. It returns whether the connection is
 * to go up, and NOT_KEPT if the segment has to go up by itself behind it. */
INLINE int data(struct __sk_buff *skb, struct conn *c, struct half *h, struct half *p, const struct segment *s, int dir)
{
	u32 end = s->seq + s->len, four = 0;
	struct slot *to;
	struct head *hd;
	int what, up = 0;

	if (h->seen && (s32)(end - h->next) <= 0) {
		/* Seen before; or it fills a hole, as far as this can tell. */
		if (s->len == 1 && end == h->next && h->last_data && s->time - h->last_data > 500000000) {
			h->probes++;
			keep(&h->bare, s, BARE);
			return h->probes >= 2;
		}
		if (s->seq == h->first && h->turns && (c->speaking == dir || h->interim)) {
			push(h, s, AGAIN);
			return 1;
		}
		if (h->n)
			h->ring[(h->n - 1) % SLOTS].skipped += s->len;
		return 0;
	}
	h->next = end;
	h->seen = 1;
	h->bytes += s->len;
	if (c->speaking == dir && h->turns) {
		if (s->len >= 4 && !load(skb, s->at, &four, 4)) {
			what = begins(four);
			if (what && (what == RESPONSE) == (c->client != dir)) {
				/* Pipelined, or content that looks like it: whose turn it is does
				 * not tell requests apart any more. */
				c->pipelined = 1;
				h->last_data = s->time;
				return NOT_KEPT;
			}
		}
		hd = head_of(c, h, dir);
		grow_head(skb, hd, h, s);
		keep_last(skb, h, s);
		h->last_data = s->time;
		return 0;
	}
	to = &h->ring[(h->n - 1) % SLOTS];
	if (h->interim && h->n && to->kind == FIRST && to->turn == h->turns && s->len >= 12 &&
	    !load(skb, s->at + 9, &four, 1) && *(u8 *)&four == '1') {
		/* Another interim response takes the place of the last. */
		u32 skipped = to->skipped + to->len;

		keep(to, s, FIRST);
		to->turn = h->turns;
		to->skipped = skipped;
	} else {
		h->turns++;
		to = push(h, s, FIRST);
	}
	h->first = s->seq;
	h->interim = 0;
	hd = head_of(c, h, dir);
	keep_head(skb, hd, h, s, to);
	four = hd->len >= 4 ? *(u32 *)hd->bytes : 0;
	what = begins(four);
	if (unlikely(s->len > hd->len) && what && what != PREFACE && !head_ends(hd)) {
		/* Too long to be kept, and nothing behind it could be read: it goes up. */
		h->n--;
		c->wide = 1;
		up = NOT_KEPT;
	}
	if (unlikely(c->client < 0) && what) {
		c->client = what == RESPONSE ? !dir : dir;
		opened(c);
	}
	if (c->client == dir) {
		if (p->last_data && c->speaking >= 0 && s->time > p->last_data)
			reused(c, dir, s->time - p->last_data);
		if (c->sealed && h->turns > 3) /* the first ones are of the handshake */
			hurry(c, s->time - p->last_data);
		if (what == TUNNEL)
			c->tunnel = 1;
		/* Whatever else a client sends when it is its turn has to be followed. */
		if (!up && what != REQUEST && !c->sealed && !(c->tunnel && c->told))
			up = 1;
	} else {
		u32 st = status(hd);

		if (st == 10) { /* Switching Protocols */
			c->tunnel = 1;
			up = up ? up : 1;
		} else if (st == 1 && !up) { /* the client's turn goes on */
			h->interim = 1;
			h->last_data = s->time;
			return 0;
		}
	}
	if (c->speaking < 0) {
		/* How it begins decides how all else is read. */
		c->sealed = (ntohl(four) >> 8 & 0xffff00) == 0x160300;
		if (c->sealed && s->len > hd->len && up != NOT_KEPT) { /* the ClientHello is read whole */
			h->n--;
			up = NOT_KEPT;
		}
		if (!up && what != REQUEST)
			up = 1;
	}
	c->speaking = dir;
	h->last_data = s->time;
	return up;
}
