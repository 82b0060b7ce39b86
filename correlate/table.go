package correlate

import (
	"encoding/binary"
	"math/bits"

	"whyreset/capture"
)

// A table finds the connection that two endpoints belong to, whichever of them
// sent the segment. It is open-addressed and its hash is the same in both
// directions, so that one look-up serves both and the caller learns the
// direction for free. A Go map over the 40-byte four-tuple took twice as long.
type table struct {
	slots []slot // a power of two of them
	used  int
	seed  uint64 // random per tracker: peers choose ports, and must not choose collisions
}

type slot struct {
	hash uint32 // never 0 in a used slot
	conn *conn
}

func newTable(seed uint64) *table {
	return &table{slots: make([]slot, 1<<10), seed: seed}
}

func (t *table) hashEndpoint(e *capture.Endpoint) uint64 {
	hi := binary.LittleEndian.Uint64(e.Addr[0:8])
	lo := binary.LittleEndian.Uint64(e.Addr[8:16])
	port := uint64(e.Zone)<<16 | uint64(e.Port)
	h, l := bits.Mul64(lo^port<<32^t.seed, hi^0x9e3779b97f4a7c15)
	return h ^ l ^ port*0xd6e8feb86659fd93
}

func (t *table) hash(a, b *capture.Endpoint) uint32 { return slotHash(t.longHash(a, b)) }

// longHash is wide enough to stand for a and b where a mistake in 2^64 is no harm.
func (t *table) longHash(a, b *capture.Endpoint) uint64 {
	h, l := bits.Mul64((t.hashEndpoint(a)+t.hashEndpoint(b))^t.seed, 0xa0761d6478bd642f)
	return h ^ l
}

func slotHash(h uint64) uint32 {
	if x := uint32(h); x != 0 {
		return x
	}
	return 1
}

// find returns the connection between src and dst, and which of its halves src
// is; nil if there is none.
func (t *table) find(src, dst *capture.Endpoint, hash uint32) (*conn, int) {
	mask := uint32(len(t.slots) - 1)
	for i := hash & mask; t.slots[i].hash != 0; i = (i + 1) & mask {
		if t.slots[i].hash != hash {
			continue
		}
		c := t.slots[i].conn
		if c.ep[0] == *src && c.ep[1] == *dst {
			return c, 0
		}
		if c.ep[0] == *dst && c.ep[1] == *src {
			return c, 1
		}
	}
	return nil, 0
}

// insert adds c, which must not be in the table, under c.hash.
func (t *table) insert(c *conn) {
	if t.used*4 >= len(t.slots)*3 {
		old := t.slots
		t.slots = make([]slot, 2*len(old))
		for _, s := range old {
			if s.hash != 0 {
				t.place(s)
			}
		}
	}
	t.place(slot{c.hash, c})
	t.used++
}

func (t *table) place(s slot) {
	mask := uint32(len(t.slots) - 1)
	i := s.hash & mask
	for t.slots[i].hash != 0 {
		i = (i + 1) & mask
	}
	t.slots[i] = s
}

// remove takes c out, closing the run of slots behind it so that no look-up
// meets a hole where it should go on.
func (t *table) remove(c *conn) {
	mask := uint32(len(t.slots) - 1)
	i := c.hash & mask
	for t.slots[i].conn != c {
		if t.slots[i].hash == 0 {
			return
		}
		i = (i + 1) & mask
	}
	for j := (i + 1) & mask; t.slots[j].hash != 0; j = (j + 1) & mask {
		home := t.slots[j].hash & mask
		if (j-home)&mask >= (j-i)&mask {
			t.slots[i] = t.slots[j]
			i = j
		}
	}
	t.slots[i] = slot{}
	t.used--
}
