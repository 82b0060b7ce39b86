package capture

import "encoding/binary"

// UDP ports of tunnels. What comes to one need not be a tunnel's: what does not
// look like its header is taken for something else.
const (
	portGTP     = 2152
	portTeredo  = 3544
	portGRE     = 4754 // RFC 8086
	portVXLAN   = 4789
	portGPE     = 4790 // VXLAN generic protocol extension
	portGeneve  = 6081
	portMPLS    = 6635 // RFC 7510
	portVXLANOS = 8472 // Linux's VXLAN before it had a number: flannel, Cilium
)

func (d *decoder) udp(b []byte, wire int, s *Segment) outcome {
	if len(b) < 16 { // with less than eight bytes in it, it is no tunnel
		return isOther
	}
	src, dst := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	b, wire = b[8:], wire-8
	switch dst {
	case portVXLAN, portVXLANOS:
		n, err := peel(&d.vxlan, b)
		if err != nil || !d.vxlan.ValidIDFlag {
			return isOther
		}
		return d.ethernet(b[n:], wire-n, s)
	case portGPE:
		return d.vxlanGPE(b, wire, s)
	case portGeneve:
		return d.geneve(b, wire, s)
	case portGTP:
		return d.gtp(b, wire, s)
	case portGRE:
		if b[0]&0x4f != 0 || b[1] != 0 {
			return isOther
		}
		return d.greHeader(b, wire, s)
	case portMPLS:
		return d.mpls(b, wire, s)
	}
	if src == portTeredo || dst == portTeredo {
		return d.teredo(b, wire, s)
	}
	return isOther
}

func (d *decoder) vxlanGPE(b []byte, wire int, s *Segment) outcome {
	if b[0]&0x0c != 0x0c { // instance and next protocol are valid
		return isOther
	}
	next := b[3]
	b, wire = b[8:], wire-8
	switch next {
	case 1, 2:
		return d.ip(b, wire, s)
	case 3:
		return d.ethernet(b, wire, s)
	case 5:
		return d.mpls(b, wire, s)
	}
	return isOther
}

func (d *decoder) geneve(b []byte, wire int, s *Segment) outcome {
	if b[0]>>6 != 0 { // its version
		return isOther
	}
	n := 8 + int(b[0]&0x3f)*4
	t := binary.BigEndian.Uint16(b[2:])
	if t < 0x0600 {
		return isOther
	}
	if len(b) < n {
		return d.bad("Geneve options are cut off")
	}
	return d.etherType(t, b[n:], wire-n, s)
}

// gtp decodes GTP-U, the tunnels of mobile networks.
func (d *decoder) gtp(b []byte, wire int, s *Segment) outcome {
	const (
		versionMask  = 0xf0
		version1     = 0x30
		anyOptional  = 0x07
		hasExtension = 0x04
		userData     = 255
	)
	if b[0]&versionMask != version1 || b[1] != userData {
		return isOther
	}
	n := 8
	if b[0]&anyOptional != 0 {
		n = 12
		if len(b) < n {
			return d.bad("GTP header is cut off")
		}
		for next := b[11]; b[0]&hasExtension != 0 && next != 0; next = b[n-1] {
			if len(b) <= n || b[n] == 0 || len(b) < n+int(b[n])*4 {
				return d.bad("GTP extension header is cut off")
			}
			n += int(b[n]) * 4
		}
	}
	if len(b) == n || b[n]>>4 != 4 && b[n]>>4 != 6 {
		return isOther // not IP: the bearer may be of another kind
	}
	return d.ip(b[n:], wire-n, s)
}

// teredo decodes IPv6 over UDP (RFC 4380).
func (d *decoder) teredo(b []byte, wire int, s *Segment) outcome {
	n := 0
	if b[0] == 0 && b[1] == 1 { // authentication
		n = 13 + int(b[2]) + int(b[3])
	}
	if len(b) >= n+8 && b[n] == 0 && b[n+1] == 0 { // origin
		n += 8
	}
	if len(b) <= n || b[n]>>4 != 6 {
		return isOther
	}
	return d.ipv6(b[n:], wire-n, s)
}
