/* What the recorder keeps and sends up. bpf/record.go reads the same bytes: all
 * fields are in the machine's order, and there are no holes. */
#pragma once

#include "kernel.h"

enum {
	SLOTS = 8,        /* segments that are kept of each direction */
	HEADS = 2,        /* of how many of them the beginning is kept */
	SNAP = 1024,      /* bytes of that beginning, at most */
	STEP = 256,       /* by which it grows where it comes in several segments */
	TAIL = 32,        /* bytes of the end of other segments: a chunk's end, an alert of TLS */
	WIDE = 8192,      /* bytes of segments that go up by themselves, where records of TLS are to be followed */
	STREAMED = 64,    /* segments that go up one by one after a record */
	BUCKETS = 128,    /* of idle times, four for each doubling; the first holds all below QUICK */
	QUICK = 32768000, /* nanoseconds: no idle timer is that short, and no limit of clients */
	BATCH = 64,       /* so many of those are counted at once: the servers' table is far away */
};

/* Which kind of segment a slot keeps. */
enum {
	FIRST = 1, /* the first of a burst: data after the other end spoke, or the beginning of a message */
	LAST,      /* the latest of the burst, or the latest before a pause in it */
	AGAIN,     /* a first one that was sent again */
	BARE,      /* no data */
};

struct slot {
	u64 time; /* CLOCK_MONOTONIC */
	u32 seq;
	u32 ack;
	u32 len;
	u32 skipped;  /* bytes of the burst between its first segment and this one */
	u32 turn;     /* bursts of this direction up to this one */
	u16 packets;  /* that bore those bytes; saturates */
	u16 window;
	u16 ipid;
	u8 flags;
	u8 ttl;
	u8 kind;
	s8 wscale;
	u8 opts; /* bit 0: options; bit 1: time stamps */
	u8 head; /* 1 + index in half.heads of its first bytes; 0: not kept */
	u32 ended; /* bytes of tail */
	u8 tail[TAIL];
	u32 pad;
};

/* How a burst begins. Many servers write a head line by line. */
struct head {
	u32 turn; /* of the slot that it belongs to */
	u32 len;
	u8 bytes[SNAP];
};

/* One direction. Only packets of this direction write to it: one CPU at a time, but
 * for the rare case that its sender moves, so it has no lock. */
struct half {
	u64 packets;
	u64 bytes;     /* payload since the record began */
	u64 last;      /* the time of its latest segment */
	u64 last_data; /* and of its latest one with data */
	u64 tap;       /* where this direction is watched */
	u32 next;      /* sequence number behind its data */
	u32 acked;     /* of the other direction */
	u32 turns;
	u32 n;         /* slots used so far; the latest is ring[(n - 1) % SLOTS] */
	u32 first;     /* sequence number of the burst's first byte */
	u32 spare;
	u8 seen;       /* next is known */
	u8 fin;        /* its FIN was seen, at next */
	u8 probes;     /* keep-alive probes since the other end was last heard */
	u8 interim;    /* what it sent last was an interim response */
	u8 asked;      /* the control group of its socket is known, see by_cgroup */
	u8 pad[3];
	struct slot bare; /* its latest segment without data */
	struct slot ring[SLOTS];
};

/* Endpoints in the order of their bytes: a is the lesser. */
struct key {
	u64 a[2], b[2];
	u16 pa, pb; /* as on the wire */
	u32 zone;   /* of loopback addresses, else 0 */
};

/* What comes up, told apart by its first word. */
enum {
	RECORD = 1,
	SEGMENT = 2,
};

/* A connection: what it was up to. */
struct conn {
	u32 type; /* RECORD */
	u32 zone; /* where it was met first */
	struct key key;
	u64 born;
	u32 from[2];  /* next of each half when the record began */
	u32 turns[2]; /* and how many turns there had been */
	s8 client;    /* which half; -1: not known */
	s8 speaking;  /* which half delivered data last; -1: none */
	u8 up;        /* its segments go up one by one */
	u8 streamed;  /* how many have, since the record */
	u8 shakes;    /* which of shake are there, a bit for each */
	u8 told;      /* a record of it has gone up: its handshake is known */
	u8 reset;     /* a RST was seen */
	u8 sealed;    /* it speaks TLS */
	u8 pipelined; /* a request was sent before the last one was answered */
	u8 tunnel;    /* it leaves HTTP, or tried to */
	u8 wide;      /* what goes up is to have more of its payload */
	u8 hurries;   /* a bit for each of the latest requests, 1 if it came at once behind a response */
	u8 hurried;   /* how many did before the latest two */
	u8 quick;     /* requests after less than QUICK that its server's load does not count yet */
	u8 ours;      /* a socket of it is of a control group that was asked for */
	u8 due;       /* it was to go up before that was known */
	struct slot shake[3]; /* SYN, SYN-ACK, and the ACK of that */
	struct half half[2];
	/* Of turns 1, 3, ... of half 0 and of half 1, and then of turns 2, 4, ...: most
	 * short connections end without the latter, which then do not go up. */
	struct head heads[HEADS * 2];
};

/* A segment that goes up by itself; its payload follows, if it has any. */
struct event {
	u32 type; /* SEGMENT */
	u32 dir;  /* 0: from key.a */
	u32 zone;
	u32 snap; /* bytes of payload that are there */
	struct key key;
	u64 born; /* of its connection; 0 if that is not kept */
	struct slot slot;
};

struct full_event {
	struct event e;
	u8 payload[SNAP];
};

struct wide_event {
	struct event e;
	u8 payload[WIDE];
};

/* A server's connections, by its endpoint. */
struct endpoint {
	u64 addr[2];
	u16 port;
	u16 pad;
	u32 zone;
};

struct load {
	u64 opened, closed;
	u64 reuses;
	u64 longest; /* nanoseconds */
	u32 idle[BUCKETS];
};

struct counters {
	u64 packets;     /* that the program saw */
	u64 bytes;       /* their lengths */
	u64 segments;    /* of TCP, that passed the filter */
	u64 other;       /* not TCP */
	u64 fragments;
	u64 undecodable;
	u64 filtered;    /* by what they are, or by whose; those of connections that are not ours yet, too */
	u64 repeated;    /* seen on another interface before */
	u64 opened;      /* connections that were entered into the map */
	u64 closed;      /* and taken out of it here */
	u64 full;        /* segments of connections for which there was no room */
	u64 records;     /* that went up */
	u64 events;      /* segments that went up by themselves */
	u64 lost_records; /* for which the ring had no room */
	u64 lost_events;
};
