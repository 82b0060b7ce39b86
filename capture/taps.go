package capture

import (
	"encoding/binary"
	"math/bits"
	"time"
)

// On all interfaces of a host the packets of its containers are seen several
// times: on the container's veth, on the bridge, on the NIC. A taps tells which
// sightings are of a packet that was seen already.
//
// The interface and the direction where a packet was seen first are its home.
// Another one like it at home is another packet, such as a retransmission: it is
// never dropped. One like it elsewhere, soon after, is the same packet on its way.
// So what matters is not how alike two packets look but where they pass.
type taps struct {
	seen []sighting // by hash
}

// A sighting is of a packet at home.
type sighting struct {
	hash uint64
	time Time
	tap  uint64 // interface and direction
}

const (
	// tapWindow is how long a packet may take from one interface to the next; a
	// queue with a delay may be in between. It is below what the shortest
	// retransmission time-out of TCP is, 200 ms.
	tapWindow = 150 * time.Millisecond
	// tapSlots bounds the packets that are between two interfaces: 192 KiB, which
	// stay in a cache.
	tapSlots = 1 << 13
)

func newTaps() *taps { return &taps{seen: make([]sighting, tapSlots)} }

// again reports whether s, seen at tap, was seen at another one just before.
func (t *taps) again(s *Segment, tap uint64) bool {
	h := hashSegment(s)
	e := &t.seen[h%tapSlots]
	if e.hash == h && e.tap != tap {
		if d := s.Time.Sub(e.time); -tapWindow < d && d < tapWindow {
			return true
		}
	}
	*e = sighting{h, s.Time, tap}
	return false
}

// hashSegment hashes what a packet keeps from interface to interface: everything
// but the time to live and the checksums, which offloading fills in later.
func hashSegment(s *Segment) uint64 {
	mix := func(a, b uint64) uint64 {
		h, l := bits.Mul64(a^0x9e3779b97f4a7c15, b^0xe7037ed1a0b428db)
		return h ^ l
	}
	half := func(e *Endpoint) uint64 {
		return mix(binary.LittleEndian.Uint64(e.Addr[:]), binary.LittleEndian.Uint64(e.Addr[8:])+uint64(uint32(e.Zone)<<16|uint32(e.Port))*0xd6e8feb86659fd93)
	}
	h := mix(half(&s.Src), bits.RotateLeft64(half(&s.Dst), 17))
	h = mix(h, uint64(s.Seq)<<32|uint64(s.Ack))
	return mix(h, uint64(s.Len)<<40|uint64(s.Flags)<<32|uint64(s.Window)<<16|uint64(s.IPID))
}
