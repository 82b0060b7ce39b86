/* What the recorder is told before it is loaded, and the maps that it keeps things in. */
#pragma once

#include "filter.h"
#include "recorder.h"

/* Set before the program is loaded, for each namespace. */
const volatile u32 zone;
const volatile u32 instance;      /* numbers the places: no two taps are the same */
const volatile u32 snap = SNAP;   /* bytes kept of a head */
const volatile u8 by_cgroup;      /* only connections of some control groups go up */
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
