//go:build ignore

/* The recorder: keeps, for every connection, the last segments that matter, and
 * sends them up when it ends. One program for TCX and for socket filters. */
#include "filter.h"
#include "recorder.h"
#include "parse.h"

char LICENSE[] SEC("license") = "GPL";

/* Set before the program is loaded, for each namespace. */
const volatile u32 zone;
const volatile u32 instance;      /* numbers the places: no two taps are the same */
const volatile u32 snap = SNAP;   /* bytes kept of a head */
const volatile u8 everything;     /* every segment goes up: for tests of the parser */
const volatile u8 replayed;       /* packets bear their times: for tests of the record */
const volatile u64 ring_quarter;  /* when the reader must be woken */

/* Only what a variable has for its type is described to bpf2go. */
const struct event *as_event __attribute__((unused));

struct {
	__uint(type, MAP_TYPE_HASH);
	__uint(map_flags, NO_PREALLOC);
	__uint(max_entries, 32768);
	__type(key, struct key);
	__type(value, struct conn);
} conns SEC(".maps");

/* What a new connection begins as; on the stack there is no room for it. */
struct {
	__uint(type, MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct conn);
} blank SEC(".maps");

struct {
	__uint(type, MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} ring SEC(".maps");

struct {
	__uint(type, MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct endpoint);
	__type(value, struct load);
} servers SEC(".maps");

struct {
	__uint(type, MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct load);
} blank_load SEC(".maps");

struct {
	__uint(type, MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct counters);
} counts SEC(".maps");

INLINE u64 wake(void)
{
	/* The reader looks by itself now and then: only a burst must wake it. */
	return bpf_ringbuf_query(&ring, RB_AVAIL_DATA) >= ring_quarter ? RB_FORCE_WAKEUP : RB_NO_WAKEUP;
}

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
 * the greater endpoint if client is 0. */
GLOBAL int account(u32 what, u32 client, u64 idle)
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
	if (what == CLOSED) {
		__sync_fetch_and_add(&l->closed, 1);
		return 0;
	}
	__sync_fetch_and_add(&l->reuses, 1);
	if (idle > l->longest)
		l->longest = idle;
	b = bucket(idle);
	if (b < BUCKETS)
		__sync_fetch_and_add(&l->idle[b], 1);
	return 0;
}

/* rest begins a new record where the last one and its stream ended. */
INLINE void rest(struct conn *c)
{
	c->up = 0;
	if (c->reset && c->client >= 0) /* it lives on */
		account(OPENED, c->client, 0);
	c->reset = 0;
	c->wide = 0;
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
	if (c->client >= 0 && !c->reset)
		account(CLOSED, c->client, 0);
	n->closed++;
	bpf_map_delete_elem(&conns, &c->key);
}

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

INLINE void keep_tail(struct __sk_buff *skb, const struct segment *s, struct slot *to)
{
	u32 n = s->len < TAIL ? s->len : TAIL;

	if (n > 0 && n <= TAIL && !load(skb, s->at + s->len - n, to->tail, AT_LEAST_1(n, TAIL)))
		to->ended = n;
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
		account(OPENED, c->client, 0);
	}
	if (c->client == dir) {
		if (p->last_data && c->speaking >= 0 && s->time > p->last_data)
			account(REUSED, dir, s->time - p->last_data);
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
		if (!up && what != REQUEST)
			up = 1;
	}
	c->speaking = dir;
	h->last_data = s->time;
	return up;
}

INLINE int shake(struct conn *c, const struct segment *s, int dir)
{
	int i = s->flags & ACK ? 1 : 0;

	if (c->shakes & 1 << i)
		return 1; /* sent again */
	if (c->client < 0) {
		c->client = i ? !dir : dir;
		account(OPENED, c->client, 0);
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
		if (!c->up) /* it ended, and nobody was told */
			send_record();
		over(c, n);
		c = NULL;
	}
	if (unlikely(!c)) {
		if (s->flags & (RST | FIN)) {
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
	if (h->tap != tap) {
		/* The same packet on its way through the host, unless where it was seen
		 * first has been silent: routes change. */
		if (h->tap && s->time - h->last < 1000000000) {
			n->repeated++;
			return 0;
		}
		h->tap = tap;
	}
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
		if (c->client >= 0 && !c->reset)
			account(CLOSED, c->client, 0);
		c->reset = 1;
		c->streamed = 0;
	} else if (s->flags & FIN) {
		h->fin = 1;
		h->next = s->seq + s->len;
		c->streamed = 0;
	} else if (h->fin && p->fin && (s32)(p->acked - h->next) > 0 && (s32)(h->acked - p->next) > 0) {
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
 * include/net/flow.h). What passes it is seen twice: it counts when it comes in. */
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
	record(skb, tap_of(skb, 0));
	return NEXT;
}

SEC("tc")
int record_out(struct __sk_buff *skb)
{
	if (skb->ifindex != LO)
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
