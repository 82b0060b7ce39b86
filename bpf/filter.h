/* What the programs look at. All of it can be changed while they run: filter.go. */
#pragma once

#include "kernel.h"

enum { BY_PORT = 1, BY_PREFIX = 2, BY_NETNS = 4, BY_PROCESS = 8, BY_CGROUP = 16 };

/* Which of these hold; of each, one of its map's must match. */
struct {
	__uint(type, MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} filters SEC(".maps");

/* A bit for each port. */
struct ports {
	u64 set[1024];
};

struct {
	__uint(type, MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct ports);
} ports SEC(".maps");

/* Of IPv6 and IPv4-mapped addresses. */
struct prefix {
	u32 bits;
	u8 address[16];
};

struct {
	__uint(type, MAP_TYPE_LPM_TRIE);
	__uint(map_flags, NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct prefix);
	__type(value, u8);
} prefixes SEC(".maps");

/* Control groups, with those below them, by the inode numbers of their directories. */
struct {
	__uint(type, MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, u8);
} cgroups SEC(".maps");

/* word_of returns which word of the set a port is in, with a bound that the verifier
 * sees: to the compiler it goes without saying. */
INLINE u32 word_of(u16 port)
{
	u32 word = port >> 6;

	OPAQUE(word);
	return word & 1023;
}

/* has_port reports whether one of two ports is among those that are looked at. */
INLINE int has_port(u16 a, u16 b)
{
	u32 zero = 0;
	struct ports *p = bpf_map_lookup_elem(&ports, &zero);

	return p && (p->set[word_of(a)] >> (a & 63) | p->set[word_of(b)] >> (b & 63)) & 1;
}

/* has_address is the same of two addresses. */
INLINE int has_address(const void *a, const void *b)
{
	struct prefix p = {.bits = 128};

	__builtin_memcpy(p.address, a, 16);
	if (bpf_map_lookup_elem(&prefixes, &p))
		return 1;
	__builtin_memcpy(p.address, b, 16);
	return bpf_map_lookup_elem(&prefixes, &p) != NULL;
}
