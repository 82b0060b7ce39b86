package capture

import (
	"strings"
	"sync"
)

// Zones name the network namespaces whose loopback addresses were seen: what
// 127.0.0.1 is in one is not what it is in another. They may be used by several
// goroutines at once.
//
// A zone's number is made from its name, so that a live capture and what it wrote
// have the same ones, whatever was seen first.
type Zones struct {
	mu    sync.Mutex
	names map[uint16]string
}

// maxZoneName bounds what a file can have kept for each of its 65535 zones.
const maxZoneName = 256

// Add returns the number of a namespace; that of "" is 0.
func (z *Zones) Add(name string) uint16 {
	if name = name[:min(len(name), maxZoneName)]; name == "" {
		return 0
	}
	h := uint32(2166136261) // FNV-1a
	for i := range len(name) {
		h = (h ^ uint32(name[i])) * 16777619
	}
	n := uint16(h>>16) ^ uint16(h)
	if n == 0 {
		n = 1
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.names == nil {
		z.names = map[uint16]string{}
	}
	z.names[n] = name
	return n
}

// addInterface returns the number of the namespace that the name of an interface
// begins with, as in a [Recording]: Linux's own names have no slash.
func (z *Zones) addInterface(name string) uint16 {
	return z.Add(name[:max(0, strings.LastIndexByte(name, '/'))])
}

// Name returns the namespace of an endpoint that has one, else "".
func (z *Zones) Name(e Endpoint) string {
	if z == nil || e.Zone == 0 {
		return ""
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.names[e.Zone]
}

// setZone notes in which namespace a segment was seen, if that makes a difference.
func (s *Segment) setZone(zone uint16) {
	s.Src.Zone, s.Dst.Zone = 0, 0
	if zone == 0 {
		return
	}
	if isLoopback(&s.Src.Addr) {
		s.Src.Zone = zone
	}
	if isLoopback(&s.Dst.Addr) {
		s.Dst.Zone = zone
	}
}

// Loopback reports whether e is of an address that means another host in each
// network namespace.
func (e *Endpoint) Loopback() bool { return isLoopback(&e.Addr) }

// Locate gives the endpoints of a fact the zones that segments have which are seen
// in the place of that name.
func (z *Zones) Locate(f *SocketFact, place string) {
	zone := z.Add(place)
	for _, e := range []*Endpoint{&f.Local, &f.Remote} {
		if e.Zone = 0; isLoopback(&e.Addr) {
			e.Zone = zone
		}
	}
}

// isLoopback reports whether a is in 127.0.0.0/8 (RFC 1122, section 3.2.1.3) or is
// ::1 (RFC 4291, section 2.5.3).
func isLoopback(a *[16]byte) bool {
	switch [12]byte(a[:12]) {
	case [12]byte{10: 0xff, 11: 0xff}:
		return a[12] == 127
	case [12]byte{}:
		return [4]byte(a[12:]) == [4]byte{3: 1}
	}
	return false
}
