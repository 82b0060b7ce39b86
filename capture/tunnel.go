package capture

import (
	"encoding/binary"
	"errors"

	"github.com/google/gopacket"
)

// This file reads the headers that are met seldom: below IP, between IP and TCP,
// and around IP.
//
// gopacket's layers of the same names (v1.1.19) are used where they neither
// allocate nor need the whole packet. They are not for Geneve (its options
// allocate, and those of 248 bytes and more overflow an index), GTP (prints to
// standard output), radiotap (copies every packet, and moves bytes in the buffer
// that it is given), 802.11 (allocates), MPLS, PPP and PPPoE (made for
// gopacket.Packet only).

// peel decodes the header at the start of b with one of gopacket's layers and
// returns its length. Some layers of gopacket index beyond short input.
func peel(l gopacket.DecodingLayer, b []byte) (n int, err error) {
	defer func() {
		if recover() != nil {
			err = errCutOff
		}
	}()
	if err := l.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
		return 0, err
	}
	return len(b) - len(l.LayerPayload()), nil
}

var errCutOff = errors.New("header is cut off")

// otherEtherType decodes what follows an EtherType that is not IP or a VLAN tag.
func (d *decoder) otherEtherType(t uint16, b []byte, wire int, s *Segment) outcome {
	if !d.deeper() {
		return d.tooDeep()
	}
	switch {
	case t < 0x0600: // a length: IEEE 802.3
		if int(t) < len(b) {
			b = b[:t]
		}
		return d.logicalLink(b, wire, s)
	case t == 0x8847 || t == 0x8848:
		return d.mpls(b, wire, s)
	case t == 0x8864:
		return d.pppoe(b, wire, s)
	case t == 0x6558: // transparent Ethernet bridging
		return d.ethernet(b, wire, s)
	case t == 0x880b:
		return d.ppp(b, wire, s)
	case t == 0x88e7 && len(b) >= 4: // provider backbone bridging
		return d.ethernet(b[4:], wire-4, s)
	}
	return isOther
}

// logicalLink decodes an IEEE 802.2 header.
func (d *decoder) logicalLink(b []byte, wire int, s *Segment) outcome {
	n, err := peel(&d.llc, b)
	if err != nil {
		return d.bad("802.2 header is cut off")
	}
	b, wire = b[n:], wire-n
	switch {
	case d.llc.DSAP == 0x06 && d.llc.SSAP == 0x06:
		return d.ip(b, wire, s)
	case d.llc.DSAP != 0xaa || d.llc.SSAP != 0xaa:
		return isOther
	}
	if n, err = peel(&d.snap, b); err != nil {
		return d.bad("SNAP header is cut off")
	}
	if o := d.snap.OrganizationalCode; o[0] != 0 || o[1] != 0 || o[2] != 0 && o[2] != 0xf8 {
		return isOther // the type is one of that organisation's own
	}
	if d.snap.Type < 0x0600 {
		return isOther
	}
	return d.etherType(uint16(d.snap.Type), b[n:], wire-n, s)
}

// mpls decodes a stack of labels. Nothing says what is under it: it is guessed
// from the next four bits, as routers do.
func (d *decoder) mpls(b []byte, wire int, s *Segment) outcome {
	for last := false; !last; b, wire = b[4:], wire-4 {
		if len(b) < 4 {
			return d.bad("MPLS label is cut off")
		}
		last = b[2]&1 != 0
	}
	switch {
	case len(b) == 0:
		return d.bad("MPLS labels without a packet")
	case b[0]>>4 == 4 || b[0]>>4 == 6:
		return d.ip(b, wire, s)
	case len(b) >= 4 && b[0] == 0 && b[1] == 0: // the control word of an Ethernet pseudowire (RFC 4385)
		return d.ethernet(b[4:], wire-4, s)
	}
	return d.ethernet(b, wire, s) // a pseudowire without one
}

// pppoe decodes a PPPoE session header.
func (d *decoder) pppoe(b []byte, wire int, s *Segment) outcome {
	if len(b) < 6 {
		return d.bad("PPPoE header is cut off")
	}
	if b[1] != 0 { // discovery
		return isOther
	}
	return d.ppp(b[6:], wire-6, s)
}

// ppp decodes a PPP frame, with or without HDLC framing around it, and what looks
// like it: Cisco's HDLC.
func (d *decoder) ppp(b []byte, wire int, s *Segment) outcome {
	if len(b) < 4 {
		return d.bad("PPP header is cut off")
	}
	switch {
	case b[0] == 0xff && b[1] == 0x03:
		b, wire = b[2:], wire-2
	case (b[0] == 0x0f || b[0] == 0x8f) && b[1] == 0:
		return d.etherType(binary.BigEndian.Uint16(b[2:]), b[4:], wire-4, s)
	}
	protocol, n := uint16(b[0]), 1 // RFC 1661: odd if it is compressed to one byte
	if b[0]&1 == 0 {
		protocol, n = binary.BigEndian.Uint16(b), 2
	}
	b, wire = b[n:], wire-n
	switch protocol {
	case 0x21:
		return d.ipv4(b, wire, s)
	case 0x57:
		return d.ipv6(b, wire, s)
	case 0x281, 0x283:
		return d.mpls(b, wire, s)
	}
	return isOther
}

// frameRelay decodes RFC 2427 with addresses of two bytes.
func (d *decoder) frameRelay(b []byte, wire int, s *Segment) outcome {
	if len(b) < 4 {
		return d.bad("frame relay header is cut off")
	}
	if b[1]&1 == 0 || b[2] != 3 {
		// Cisco's frames have an EtherType in this place.
		return d.etherType(binary.BigEndian.Uint16(b[2:]), b[4:], wire-4, s)
	}
	switch b[3] {
	case 0xcc, 0x8e:
		return d.ip(b[4:], wire-4, s)
	}
	return isOther
}

// radiotap decodes 802.11 behind a radiotap header.
func (d *decoder) radiotap(b []byte, wire int, s *Segment) outcome {
	const (
		more    = 1 << 31 // another word of presence bits follows
		hasTSFT = 1 << 0
		hasFlag = 1 << 1
	)
	if len(b) < 8 {
		return d.bad("radiotap header is cut off")
	}
	n := int(binary.LittleEndian.Uint16(b[2:]))
	if n < 8 || n > len(b) {
		return d.bad("radiotap header with a wrong length")
	}
	present := binary.LittleEndian.Uint32(b[4:])
	at := 8
	for p := present; p&more != 0 && at+4 <= n; at += 4 {
		p = binary.LittleEndian.Uint32(b[at:])
	}
	if present&hasTSFT != 0 {
		at = (at+7)&^7 + 8
	}
	padded := present&hasFlag != 0 && at < n && b[at]&0x20 != 0
	return d.wlan(b[n:], wire-n, padded, s)
}

// wlan decodes an 802.11 frame. padded says that its header is padded to a
// multiple of four bytes.
func (d *decoder) wlan(b []byte, wire int, padded bool, s *Segment) outcome {
	if len(b) < 24 {
		if len(b) >= 1 && b[0]>>2&3 != 2 {
			return isOther // the others have shorter headers
		}
		return d.bad("802.11 header is cut off")
	}
	const (
		data      = 2
		noData    = 4 // bits of a data frame's subtype
		qos       = 8
		bothDS    = 0x03 // bits of the flags
		protected = 0x40
		order     = 0x80
	)
	subtype, flags := b[0]>>4, b[1]
	if b[0]>>2&3 != data || subtype&noData != 0 || flags&protected != 0 {
		return isOther
	}
	if b[22]&0x0f != 0 {
		return isFragment
	}
	n := 24
	if flags&bothDS == bothDS {
		n += 6
	}
	aggregate := false
	if subtype&qos != 0 {
		aggregate = len(b) > n && b[n]&0x80 != 0
		n += 2
		if flags&order != 0 {
			n += 4
		}
	}
	if padded {
		n = (n + 3) &^ 3
	}
	if aggregate {
		n += 14 // the first frame in it has a header like Ethernet's; the others are not looked into
	}
	if len(b) < n {
		return d.bad("802.11 header is cut off")
	}
	return d.logicalLink(b[n:], wire-n, s)
}

// ipProtocol decodes what follows an IP header, TCP excepted. Extension headers
// of IPv6 are met under IPv4 too, in an authentication header.
func (d *decoder) ipProtocol(protocol byte, b []byte, wire int, s *Segment) outcome {
	for {
		if !d.deeper() {
			return d.tooDeep()
		}
		n := 0
		switch protocol {
		case ipTCP:
			return d.tcp(b, wire, s)
		case ipUDP:
			return d.udp(b, wire, s)
		case ipIPv4, ipIPv6, ipIPIP, ipEncap:
			return d.ip(b, wire, s)
		case ipGRE:
			return d.greHeader(b, wire, s)
		case ipMPLS:
			return d.mpls(b, wire, s)
		case ipEtherIP:
			if len(b) < 2 {
				return d.bad("EtherIP header is cut off")
			}
			return d.ethernet(b[2:], wire-2, s)
		case ipHopByHop, ipRouting, ipDstOpts, ipMobility, ipHIP, ipShim6:
			var err error
			if n, err = peel(&d.ext, b); err != nil {
				return d.bad("IPv6 extension header is cut off")
			}
			protocol = byte(d.ext.NextHeader)
		case ipFragment:
			if len(b) < 8 {
				return d.bad("IPv6 fragment header is cut off")
			}
			if binary.BigEndian.Uint16(b[2:])>>3 != 0 {
				return isFragment
			}
			protocol, n = b[0], 8
		case ipAH:
			if len(b) < 8 || len(b) < (int(b[1])+2)*4 {
				return d.bad("authentication header is cut off")
			}
			protocol, n = b[0], (int(b[1])+2)*4
		default:
			return isOther
		}
		b, wire = b[n:], wire-n
	}
}

// greHeader decodes GRE (RFC 2784, 2890, 1701), PPTP's variant (RFC 2637), and
// ERSPAN in its three types.
func (d *decoder) greHeader(b []byte, wire int, s *Segment) outcome {
	n, err := peel(&d.gre, b)
	if err != nil {
		return d.bad("GRE header is cut off")
	}
	sequenced := d.gre.SeqPresent
	b, wire = b[n:], wire-n
	switch t := uint16(d.gre.Protocol); t {
	case 0x88be:
		if sequenced { // type II; type I has no header
			if n, err = peel(&d.erspan, b); err != nil {
				return d.bad("ERSPAN header is cut off")
			}
			b, wire = b[n:], wire-n
		}
		return d.ethernet(b, wire, s)
	case 0x22eb: // type III
		if len(b) < 12 {
			return d.bad("ERSPAN header is cut off")
		}
		n = 12
		if b[11]&1 != 0 { // a platform's subheader
			n = 20
		}
		if len(b) < n {
			return d.bad("ERSPAN header is cut off")
		}
		return d.ethernet(b[n:], wire-n, s)
	case 0x880b:
		if len(b) == 0 {
			return isOther // an acknowledgement of PPTP
		}
		return d.ppp(b, wire, s)
	default:
		if t < 0x0600 {
			return isOther
		}
		return d.etherType(t, b, wire, s)
	}
}
