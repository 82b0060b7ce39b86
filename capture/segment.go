// Package capture turns packets into TCP segments.
//
// A [Source] yields every TCP segment of a saved capture, or of a live one, in
// capture order. The package knows nothing of connections or of HTTP: it says
// what was on the wire, when, and what it could not read.
package capture

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"strconv"
	"time"
)

// A Time is an instant in nanoseconds since 1970-01-01 00:00 UTC, as the
// capture recorded it; it is never the current time. It is an integer because
// several are compared for every packet.
type Time int64

// Std returns t as a time.Time in UTC.
func (t Time) Std() time.Time { return time.Unix(0, int64(t)).UTC() }

// Sub returns t-u.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t - u) }

// Add returns t+d.
func (t Time) Add(d time.Duration) Time { return t + Time(d) }

// An Endpoint is an IP address and a TCP port. IPv4 addresses are kept as
// IPv4-mapped IPv6 ones. It holds no pointer, so that comparing and hashing one
// is a matter of three words; netip.AddrPort is for people, this is for tables.
type Endpoint struct {
	Addr [16]byte
	Port uint16
	Zone uint16 // of a loopback address, where several namespaces are listened in: see Zones; else 0
}

// EndpointFrom returns the Endpoint of ap.
func EndpointFrom(ap netip.AddrPort) Endpoint {
	return Endpoint{Addr: ap.Addr().As16(), Port: ap.Port()}
}

// AddrPort returns e as a netip.AddrPort, with IPv4-mapped addresses unmapped.
func (e Endpoint) AddrPort() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(e.Addr).Unmap(), e.Port)
}

// String returns "10.0.0.1:80" or "[2001:db8::1]:80".
func (e Endpoint) String() string { return e.AddrPort().String() }

// Compare orders endpoints by address and then by port.
func (e Endpoint) Compare(f Endpoint) int {
	for i := 0; i < 16; i += 8 {
		a, b := binary.BigEndian.Uint64(e.Addr[i:]), binary.BigEndian.Uint64(f.Addr[i:])
		if a != b {
			return cmp.Compare(a, b)
		}
	}
	return cmp.Or(cmp.Compare(e.Port, f.Port), cmp.Compare(e.Zone, f.Zone))
}

// Flags are the control bits of a TCP header (RFC 9293, section 3.1).
type Flags uint8

// The control bits, in the order of the header's fourteenth byte.
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// Has reports whether every bit of g is set in f.
func (f Flags) Has(g Flags) bool { return f&g == g }

// String returns the letters that tcpdump users know, such as "SA" or "R".
func (f Flags) String() string {
	const letters = "FSRPAUEC"
	var b []byte
	for i := range len(letters) {
		if f&(1<<i) != 0 {
			b = append(b, letters[i])
		}
	}
	if len(b) == 0 {
		return "-"
	}
	return string(b)
}

// A Segment is one TCP segment as it appeared on the wire.
type Segment struct {
	Time     Time     // when the capture saw it
	Src, Dst Endpoint // as in the innermost IP header
	Seq, Ack uint32   // as in the TCP header, not relative; Ack may hold anything if the ACK bit is clear
	Flags    Flags
	TTL      uint8  // IPv4 time to live or IPv6 hop limit
	HasTS    bool   // carries the TCP timestamp option (RFC 7323)
	HasOpts  bool   // the TCP header is longer than 20 bytes
	Window   uint16 // as in the header, not scaled
	WScale   int8   // shift of the window scale option, -1 if there is none (it only occurs with SYN)
	IPID     uint16 // IPv4 identification; 0 under IPv6
	Len      int    // payload bytes on the wire
	Payload  []byte // the captured part of the payload, at most Len bytes; overwritten by the next call to Next
	Frame    uint64 // the packet's number in its file, from 1, as Wireshark counts
	File     int    // index into Source.Files of the file that holds it
	// Elided tells of what a recorder saw and did not keep; nil if nothing was left
	// out.
	Elided *Elision
}

// Has reports whether the segment has every one of the given flags.
func (s *Segment) Has(f Flags) bool { return s.Flags&f == f }

// String describes the segment for debugging and for test failures.
func (s *Segment) String() string {
	return s.Time.Std().Format("15:04:05.000000") + " " + s.Src.String() + " > " + s.Dst.String() + " " +
		s.Flags.String() + " seq " + strconv.FormatUint(uint64(s.Seq), 10) + " ack " + strconv.FormatUint(uint64(s.Ack), 10) +
		" len " + strconv.Itoa(s.Len)
}

// A Source yields TCP segments in capture order.
type Source interface {
	// Next fills in s. It returns io.EOF after the last segment of a file and
	// net.ErrClosed once Close has been called. After any other error the
	// source is at its end: what it has yielded before still holds.
	Next(s *Segment) error
	// Lasting reports whether payloads stay as they are for as long as the
	// source is reachable, instead of until the next call to Next.
	Lasting() bool
	// Files names what Segment.File indexes: file names for saved captures.
	Files() []string
	// Zones names the zones of endpoints.
	Zones() *Zones
	// Stats describes the capture so far.
	Stats() Stats
	// Close releases the source and unblocks a concurrent Next.
	Close() error
}

// Stats count what a source has met so far.
type Stats struct {
	Packets     uint64         // packets in the capture
	Bytes       uint64         // their lengths on the wire
	Segments    uint64         // TCP segments yielded
	Filtered    uint64         // TCP segments left out by the Filter
	Other       uint64         // packets that are well formed and not TCP
	Fragments   uint64         // IP fragments after the first of a packet: not looked into
	Undecodable uint64         // packets that could not be read as what they claim to be
	FirstBad    string         // where and why the first undecodable packet was met, "" if none
	Missed      uint64         // packets that the capturing system says it lost
	Repeated    uint64         // packets of a live capture that were seen on another interface before: not yielded
	FileBytes   int64          // bytes of the input read so far, before decompression
	FileSize    int64          // size of all input, 0 if it is not known
	First, Last Time           // earliest and latest packet time; zero without packets
	End         Time           // until when packets were captured, whether any came or not; zero if that is not known
	Recorder    *RecorderStats // of a recorder in the kernel; nil without one
}
