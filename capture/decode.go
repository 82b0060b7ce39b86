package capture

import (
	"encoding/binary"

	"github.com/google/gopacket/layers"
)

// An outcome says what a packet turned out to be.
type outcome uint8

const (
	isTCP      outcome = iota
	isOther            // well formed, and not TCP
	isFragment         // of an IP packet, and not its first
	isBad              // decoder.why says why
)

// maxHeaders bounds how deep headers may be nested: real tunnels stay below ten.
const maxHeaders = 32

// A decoder finds the TCP segment in a packet.
//
// Link headers, VLAN tags, IP and TCP are read by hand, in decode.go and link.go:
// 16 ns for a packet, where gopacket's DecodingLayerParser takes 62 for the same
// headers, and cannot be told how long the packet was on the wire. The rest is in
// tunnel.go and udp.go and uses gopacket's layers where those serve.
//
// Its methods take the captured bytes b of something that is wire bytes long, and
// fill in s. len(b) never exceeds wire. What follows a packet's own length, such
// as the padding of a short Ethernet frame, is cut off both.
type decoder struct {
	why    string // why the last packet isBad
	depth  int    // headers so far that may hold another packet
	vxlan  layers.VXLAN
	gre    layers.GRE
	erspan layers.ERSPANII
	llc    layers.LLC
	snap   layers.SNAP
	ext    layers.IPv6ExtensionSkipper
}

// decode finds the segment in p. The fields of s are valid if it returns isTCP;
// Time, Frame and File are the caller's to set.
func (d *decoder) decode(p *packet, s *Segment) outcome {
	d.depth = 0
	if p.link.kind == linkEthernet {
		return d.ethernet(p.data, p.wire, s)
	}
	return d.link(p.link, p.data, p.wire, s)
}

func (d *decoder) bad(why string) outcome {
	d.why = why
	return isBad
}

// deeper counts a header that may hold another packet.
func (d *decoder) deeper() bool {
	d.depth++
	return d.depth <= maxHeaders
}

func (d *decoder) tooDeep() outcome { return d.bad("headers are nested too deeply") }

// EtherTypes that are followed, and that are read in more than one place.
const (
	etherIPv4     = 0x0800
	etherIPv6     = 0x86dd
	etherVLAN     = 0x8100
	etherQinQ     = 0x88a8
	etherQinQOld  = 0x9100
	etherQinQOld2 = 0x9200
)

func (d *decoder) ethernet(b []byte, wire int, s *Segment) outcome {
	if len(b) < 14 {
		return d.bad("Ethernet header is cut off")
	}
	return d.etherType(binary.BigEndian.Uint16(b[12:]), b[14:], wire-14, s)
}

// etherType decodes what follows an EtherType.
func (d *decoder) etherType(t uint16, b []byte, wire int, s *Segment) outcome {
	for {
		switch t {
		case etherIPv4:
			return d.ipv4(b, wire, s)
		case etherIPv6:
			return d.ipv6(b, wire, s)
		case etherVLAN, etherQinQ, etherQinQOld, etherQinQOld2:
			if len(b) < 4 {
				return d.bad("VLAN tag is cut off")
			}
			t = binary.BigEndian.Uint16(b[2:])
			b, wire = b[4:], wire-4
		default:
			return d.otherEtherType(t, b, wire, s)
		}
	}
}

// IP protocol numbers.
const (
	ipHopByHop  = 0
	ipIPv4      = 4
	ipTCP       = 6
	ipUDP       = 17
	ipIPv6      = 41
	ipRouting   = 43
	ipFragment  = 44
	ipGRE       = 47
	ipAH        = 51
	ipDstOpts   = 60
	ipIPIP      = 94
	ipEtherIP   = 97
	ipEncap     = 98
	ipMobility  = 135
	ipMPLS      = 137
	ipHIP       = 139
	ipShim6     = 140
	ipv4MinLen  = 20
	ipv6Len     = 40
	tcpMinLen   = 20
	tcpWanted   = 16 // of its header: up to the window
	mappedIPv4  = 0xffff0000
	moreAndFrag = 0x1fff // the fragment offset
)

// ip decodes an IP packet of the version that its first byte says.
func (d *decoder) ip(b []byte, wire int, s *Segment) outcome {
	if len(b) == 0 {
		return d.bad("IP header is cut off")
	}
	switch b[0] >> 4 {
	case 4:
		return d.ipv4(b, wire, s)
	case 6:
		return d.ipv6(b, wire, s)
	}
	return d.bad("IP version is neither 4 nor 6")
}

func (d *decoder) ipv4(b []byte, wire int, s *Segment) outcome {
	if len(b) < ipv4MinLen {
		return d.bad("IPv4 header is cut off")
	}
	if b[0]>>4 != 4 {
		return d.bad("IPv4 header with another version in it")
	}
	header := int(b[0]&15) * 4
	if header < ipv4MinLen {
		return d.bad("IPv4 header length below 20")
	}
	// The packet may be longer than the frame that is said to hold it: some
	// devices that slice packets also give the slice's length for the wire's.
	total := int(binary.BigEndian.Uint16(b[2:]))
	if total == 0 {
		total = wire // a segmentation offload to come: the length does not fit
	}
	if total < header {
		return d.bad("IPv4 total length below the header's")
	}
	if len(b) > total {
		b = b[:total]
	}
	if len(b) < header {
		return d.bad("IPv4 header is cut off")
	}
	if binary.BigEndian.Uint16(b[6:])&moreAndFrag != 0 {
		return isFragment
	}
	s.TTL = b[8]
	s.IPID = binary.BigEndian.Uint16(b[4:])
	mapIPv4(&s.Src.Addr, b[12:])
	mapIPv4(&s.Dst.Addr, b[16:])
	if b[9] == ipTCP {
		return d.tcp(b[header:], total-header, s)
	}
	return d.ipProtocol(b[9], b[header:], total-header, s)
}

// mapIPv4 stores an IPv4 address as an IPv4-mapped IPv6 one.
func mapIPv4(a *[16]byte, b []byte) {
	binary.LittleEndian.PutUint64(a[:8], 0)
	binary.LittleEndian.PutUint64(a[8:], mappedIPv4|uint64(binary.LittleEndian.Uint32(b))<<32)
}

func (d *decoder) ipv6(b []byte, wire int, s *Segment) outcome {
	if len(b) < ipv6Len {
		return d.bad("IPv6 header is cut off")
	}
	if b[0]>>4 != 6 {
		return d.bad("IPv6 header with another version in it")
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length == 0 {
		length = wire - ipv6Len // a jumbogram, or a segmentation offload to come
	}
	s.TTL = b[7]
	s.IPID = 0
	s.Src.Addr = [16]byte(b[8:24])
	s.Dst.Addr = [16]byte(b[24:40])
	next := b[6]
	b = b[ipv6Len:]
	if len(b) > length {
		b = b[:length]
	}
	if next == ipTCP {
		return d.tcp(b, length, s)
	}
	return d.ipProtocol(next, b, length, s)
}

func (d *decoder) tcp(b []byte, wire int, s *Segment) outcome {
	if len(b) < tcpWanted {
		if wire < tcpMinLen {
			return d.bad("packet too short for a TCP header")
		}
		return d.bad("TCP header is cut off")
	}
	header := int(b[12]>>4) * 4
	if header < tcpMinLen {
		return d.bad("TCP header length below 20")
	}
	if header > wire {
		return d.bad("TCP header longer than its packet")
	}
	s.Src.Port = binary.BigEndian.Uint16(b)
	s.Dst.Port = binary.BigEndian.Uint16(b[2:])
	s.Seq = binary.BigEndian.Uint32(b[4:])
	s.Ack = binary.BigEndian.Uint32(b[8:])
	s.Flags = Flags(b[13])
	s.Window = binary.BigEndian.Uint16(b[14:])
	s.HasTS = false
	s.HasOpts = header > tcpMinLen
	s.WScale = -1
	s.Len = wire - header
	s.Payload = nil
	if len(b) > header {
		s.Payload = b[header:]
	}
	if header > tcpMinLen && len(b) > tcpMinLen {
		tcpOptions(b[tcpMinLen:min(header, len(b))], s)
	}
	return isTCP
}

// tcpOptions reads the options of a TCP header, as far as they are there and make
// sense: they decide nothing about the segment itself.
func tcpOptions(o []byte, s *Segment) {
	// What nearly every segment carries that carries any.
	if len(o) == 12 && binary.BigEndian.Uint32(o) == 0x0101080a {
		s.HasTS = true
		return
	}
	for len(o) > 0 {
		switch o[0] {
		case 0: // end of options
			return
		case 1: // padding
			o = o[1:]
			continue
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			return
		}
		switch {
		case o[0] == 3 && o[1] == 3:
			s.WScale = int8(min(o[2], 14)) // RFC 7323: more than 14 means 14
		case o[0] == 8 && o[1] == 10:
			s.HasTS = true
		}
		o = o[o[1]:]
	}
}
