package capture

import "encoding/binary"

// A link says what the packets of an interface begin with.
type link struct {
	kind   linkKind
	big    bool   // the capture is big-endian, for headers in the byte order of the machine
	number uint32 // as registered, see linkFor
	zone   uint16 // of the interface, see Zones
}

type linkKind uint8

const (
	linkUnknown linkKind = iota
	linkEthernet
	linkIP         // an IP packet at once
	linkNull       // an address family in four bytes of either byte order
	linkSLL        // Linux "cooked", version 1
	linkSLL2       // and 2
	linkPPP        // with or without HDLC framing, or Cisco HDLC
	linkPPPoE      // a PPPoE session header
	link80211      // IEEE 802.11
	linkRadiotap   // IEEE 802.11 behind a radiotap header
	linkPPI        // a PPI header that names another link type
	linkLLC        // IEEE 802.2
	linkFrameRelay // RFC 2427
	linkNFLOG      // Linux netfilter log
	linkIPoIB      // IP over InfiniBand
	linkPflog      // OpenBSD packet filter log
	linkEnc        // OpenBSD IPsec
	linkJuniperEth // Ethernet behind a Juniper header
	linkFibre      // IP over Fibre Channel
	linkFDDI       // FDDI
)

// linkKinds are the link types that are read, by their registered numbers
// (https://www.tcpdump.org/linktypes.html).
var linkKinds = map[uint32]linkKind{
	0: linkNull, 108: linkNull,
	1: linkEthernet,
	9: linkPPP, 50: linkPPP, 104: linkPPP, 166: linkPPP,
	10: linkFDDI,
	// 12 and 14 are what some systems call 101; 228 and 229 say the version.
	12: linkIP, 14: linkIP, 101: linkIP, 228: linkIP, 229: linkIP,
	51:  linkPPPoE,
	100: linkLLC, // ATM, RFC 2684
	105: link80211,
	107: linkFrameRelay,
	109: linkEnc,
	113: linkSLL,
	117: linkPflog,
	122: linkFibre,
	127: linkRadiotap,
	178: linkJuniperEth,
	192: linkPPI,
	239: linkNFLOG,
	242: linkIPoIB,
	276: linkSLL2,
}

// linkFor returns the link for a registered number; its kind is linkUnknown if it
// is not one that is read.
func linkFor(number uint32) link { return link{kind: linkKinds[number], number: number} }

// linkName names link types that are met and not read.
func linkName(number uint32) string {
	switch number {
	case 6:
		return "token ring"
	case 7:
		return "ARCNET"
	case 8:
		return "SLIP"
	case 119, 163:
		return "802.11 with a Prism or AVS header"
	case 147:
		return "user-defined"
	case 187, 201:
		return "Bluetooth"
	case 189, 220, 249:
		return "USB"
	case 195, 215, 230, 283:
		return "IEEE 802.15.4"
	case 197:
		return "ERF"
	case 227:
		return "CAN bus"
	case 252:
		return "PDUs exported by Wireshark"
	case 253:
		return "netlink"
	case 271:
		return "vsock"
	}
	return ""
}

// link decodes a packet that does not begin with an Ethernet header.
func (d *decoder) link(l link, b []byte, wire int, s *Segment) outcome {
	switch l.kind {
	case linkEthernet:
		return d.ethernet(b, wire, s)
	case linkIP:
		return d.ip(b, wire, s)
	case linkNull:
		return d.null(b, wire, s)
	case linkSLL:
		if len(b) < 16 {
			break
		}
		return d.cooked(binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint16(b[14:]), b[16:], wire-16, s)
	case linkSLL2:
		if len(b) < 20 {
			break
		}
		return d.cooked(binary.BigEndian.Uint16(b[8:]), binary.BigEndian.Uint16(b), b[20:], wire-20, s)
	case linkPPP:
		return d.ppp(b, wire, s)
	case linkPPPoE:
		return d.pppoe(b, wire, s)
	case link80211:
		return d.wlan(b, wire, false, s)
	case linkRadiotap:
		return d.radiotap(b, wire, s)
	case linkPPI:
		return d.ppi(b, wire, s)
	case linkLLC:
		return d.logicalLink(b, wire, s)
	case linkFrameRelay:
		return d.frameRelay(b, wire, s)
	case linkNFLOG:
		return d.nflog(l.big, b, wire, s)
	case linkIPoIB:
		if len(b) < 44 {
			break
		}
		return d.etherType(binary.BigEndian.Uint16(b[40:]), b[44:], wire-44, s)
	case linkPflog:
		if len(b) < 4 || len(b) < (int(b[0])+3)&^3 {
			break
		}
		n := (int(b[0]) + 3) &^ 3
		return d.ip(b[n:], wire-n, s)
	case linkEnc:
		if len(b) < 12 {
			break
		}
		return d.ip(b[12:], wire-12, s)
	case linkJuniperEth:
		return d.juniper(b, wire, s)
	case linkFibre:
		if len(b) < 16 {
			break
		}
		return d.logicalLink(b[16:], wire-16, s)
	case linkFDDI:
		if len(b) < 13 {
			break
		}
		if b[0]&0xf0 != 0x50 {
			return isOther // no LLC frame
		}
		return d.logicalLink(b[13:], wire-13, s)
	case linkUnknown:
		return d.bad("link type is not supported")
	}
	return d.bad("link header is cut off")
}

// null decodes what the loopback interfaces of BSD, macOS and Windows capture: an
// address family, whose number for IPv6 differs from system to system, in the byte
// order of the machine or, on OpenBSD, of the network.
func (d *decoder) null(b []byte, wire int, s *Segment) outcome {
	if len(b) < 4 {
		return d.bad("link header is cut off")
	}
	family := binary.LittleEndian.Uint32(b)
	if family > 0xffff {
		family = binary.BigEndian.Uint32(b)
	}
	switch family {
	case 2:
		return d.ipv4(b[4:], wire-4, s)
	case 10, 23, 24, 28, 30: // Linux, Windows, BSD and OpenBSD, FreeBSD, macOS
		return d.ipv6(b[4:], wire-4, s)
	}
	return isOther
}

// cooked decodes what follows a Linux cooked header: hardware is the device's
// ARPHRD type, which gives the protocol its meaning.
func (d *decoder) cooked(hardware, protocol uint16, b []byte, wire int, s *Segment) outcome {
	switch hardware {
	case 803: // ARPHRD_IEEE80211_RADIOTAP
		return d.radiotap(b, wire, s)
	case 824: // ARPHRD_NETLINK: a netlink family
		return isOther
	}
	switch protocol {
	case 1, 3: // Novell's frames; every kind
		return isOther
	case 4: // ETH_P_802_2
		return d.logicalLink(b, wire, s)
	}
	return d.etherType(protocol, b, wire, s)
}

func (d *decoder) ppi(b []byte, wire int, s *Segment) outcome {
	if len(b) < 8 {
		return d.bad("PPI header is cut off")
	}
	n := int(binary.LittleEndian.Uint16(b[2:]))
	if n < 8 || n > len(b) {
		return d.bad("PPI header with a wrong length")
	}
	l := linkFor(binary.LittleEndian.Uint32(b[4:]))
	if !d.deeper() {
		return d.tooDeep()
	}
	return d.link(l, b[n:], wire-n, s)
}

// nflog decodes a packet that netfilter logged: attributes in the byte order of
// the machine, one of which is the packet.
func (d *decoder) nflog(big bool, b []byte, wire int, s *Segment) outcome {
	if len(b) < 4 {
		return d.bad("NFLOG header is cut off")
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if big {
		order = binary.BigEndian
	}
	family := b[0]
	b, wire = b[4:], wire-4
	for len(b) >= 4 {
		n, typ := int(order.Uint16(b)), order.Uint16(b[2:])
		if n < 4 {
			return d.bad("NFLOG attribute with a wrong length")
		}
		if typ&0x7fff == 9 { // NFULA_PAYLOAD
			if family != 2 && family != 10 {
				return isOther
			}
			wire = min(wire, n)
			return d.ip(b[4:min(n, len(b))], wire-4, s)
		}
		n = (n + 3) &^ 3
		if n > len(b) {
			break
		}
		b, wire = b[n:], wire-n
	}
	return d.bad("NFLOG attributes are cut off before the packet")
}

// juniper decodes Ethernet behind a Juniper header of variable length.
func (d *decoder) juniper(b []byte, wire int, s *Segment) outcome {
	const (
		hasNoLink     = 0x02
		hasExtensions = 0x80
	)
	if len(b) < 6 || b[0] != 0x4d || b[1] != 0x47 || b[2] != 0x43 {
		return d.bad("Juniper header without its magic number")
	}
	n := 4
	if b[3]&hasExtensions != 0 {
		n = 6 + int(binary.BigEndian.Uint16(b[4:]))
	}
	if n > len(b) {
		return d.bad("Juniper header is cut off")
	}
	if b[3]&hasNoLink != 0 {
		return d.null(b[n:], wire-n, s)
	}
	return d.ethernet(b[n:], wire-n, s)
}
