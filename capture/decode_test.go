package capture

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// carriers are frames that carry request.
var carriers = []struct {
	name string
	link uint32
	ipv6 bool
	data []byte
}{
	{"ethernet", 1, false, ether(etherIPv4, ip4(6, request()))},
	{"ethernet ipv6", 1, true, ether(etherIPv6, ip6(6, request()))},
	{"ipv4 options", 1, false, ether(etherIPv4, ip4Options(request()))},
	{"vlan", 1, false, ether(etherVLAN, vlan(5, etherIPv4, ip4(6, request())))},
	{"qinq", 1, true, ether(etherQinQ, vlan(5, etherVLAN, vlan(6, etherIPv6, ip6(6, request()))))},
	{"802.3 snap", 1, false, ether(8+38+requestLen+34, snap(etherIPv4, ip4(6, request())))},
	{"802.3 ip", 1, false, ether(120, cat([]byte{6, 6, 3}, ip4(6, request())))},
	{"null little-endian", 0, false, cat([]byte{2, 0, 0, 0}, ip4(6, request()))},
	{"null big-endian", 0, false, cat([]byte{0, 0, 0, 2}, ip4(6, request()))},
	{"null linux ipv6", 0, true, cat([]byte{10, 0, 0, 0}, ip6(6, request()))},
	{"null windows ipv6", 0, true, cat([]byte{23, 0, 0, 0}, ip6(6, request()))},
	{"null bsd ipv6", 0, true, cat([]byte{24, 0, 0, 0}, ip6(6, request()))},
	{"null freebsd ipv6", 0, true, cat([]byte{0, 0, 0, 28}, ip6(6, request()))},
	{"loop macos ipv6", 108, true, cat([]byte{0, 0, 0, 30}, ip6(6, request()))},
	{"raw 12", 12, false, ip4(6, request())},
	{"raw 14", 14, true, ip6(6, request())},
	{"raw 101", 101, true, ip6(6, request())},
	{"raw 228", 228, false, ip4(6, request())},
	{"raw 229", 229, true, ip6(6, request())},
	{"sll", 113, false, cat(make([]byte, 14), be16(etherIPv4), ip4(6, request()))},
	{"sll vlan", 113, false, cat(make([]byte, 14), be16(etherVLAN), vlan(9, etherIPv4, ip4(6, request())))},
	{"sll 802.2", 113, false, cat(make([]byte, 14), be16(4), snap(etherIPv4, ip4(6, request())))},
	{"sll2", 276, true, cat(be16(etherIPv6), make([]byte, 18), ip6(6, request()))},
	{"ppp hdlc", 9, false, cat([]byte{0xff, 3, 0, 0x21}, ip4(6, request()))},
	{"ppp bare", 9, true, cat([]byte{0, 0x57}, ip6(6, request()))},
	{"ppp compressed", 50, false, cat([]byte{0x21}, ip4(6, request()))},
	{"cisco hdlc", 104, false, cat([]byte{0x0f, 0, 8, 0}, ip4(6, request()))},
	{"pppoe", 1, false, ether(0x8864, cat([]byte{0x11, 0, 0, 1, 0, 20 + 32 + requestLen + 2, 0, 0x21}, ip4(6, request())))},
	{"pppoe link", 51, false, cat([]byte{0x11, 0, 0, 1, 0, 20 + 32 + requestLen + 2, 0, 0x21}, ip4(6, request()))},
	{"frame relay", 107, false, cat([]byte{0x18, 0x41, 3, 0xcc}, ip4(6, request()))},
	{"atm 802.2", 100, false, snap(etherIPv4, ip4(6, request()))},
	{"fddi", 10, false, cat([]byte{0x50}, make([]byte, 12), snap(etherIPv4, ip4(6, request())))},
	{"fibre channel", 122, false, cat(make([]byte, 16), snap(etherIPv4, ip4(6, request())))},
	{"infiniband", 242, false, cat(make([]byte, 40), be16(etherIPv4), be16(0), ip4(6, request()))},
	{"openbsd enc", 109, false, cat([]byte{2}, make([]byte, 11), ip4(6, request()))},
	{"openbsd pflog", 117, false, cat([]byte{61, 2}, make([]byte, 62), ip4(6, request()))},
	{"juniper", 178, false, cat([]byte("MGC\x80\x00\x02ab"), ether(etherIPv4, ip4(6, request())))},
	{"nflog", 239, false, cat([]byte{2, 0, 0, 42, 5, 0, 10, 0, 'x', 0, 0, 0}, le16(4+20+32+requestLen), []byte{9, 0}, ip4(6, request()))},
	{"802.11", 105, false, cat([]byte{0x08, 1}, make([]byte, 22), snap(etherIPv4, ip4(6, request())))},
	{"802.11 qos, four addresses", 105, false, cat([]byte{0x88, 3}, make([]byte, 30), snap(etherIPv4, ip4(6, request())))},
	{"802.11 aggregate", 105, false, cat([]byte{0x88, 1}, make([]byte, 22), []byte{0x80, 0}, make([]byte, 12), be16(8+20+32+requestLen), snap(etherIPv4, ip4(6, request())))},
	{"radiotap", 127, false, cat([]byte{0, 0, 8, 0, 0, 0, 0, 0, 0x08, 1}, make([]byte, 22), snap(etherIPv4, ip4(6, request())))},
	{"radiotap with padding", 127, false, cat([]byte{0, 0, 9, 0, 2, 0, 0, 0, 0x20, 0x88, 1}, make([]byte, 26), snap(etherIPv4, ip4(6, request())))},
	{"ppi", 192, false, cat([]byte{0, 0, 8, 0, 1, 0, 0, 0}, ether(etherIPv4, ip4(6, request())))},

	{"mpls", 1, false, ether(0x8847, cat([]byte{0, 1, 0, 64, 0, 2, 1, 64}, ip4(6, request())))},
	{"mpls ipv6", 1, true, ether(0x8847, cat([]byte{0, 2, 1, 64}, ip6(6, request())))},
	{"mpls pseudowire", 1, false, ether(0x8847, cat([]byte{0, 2, 1, 64, 0, 0, 0, 0}, ether(etherIPv4, ip4(6, request()))))},
	{"mpls pseudowire without control word", 1, false, ether(0x8847, cat([]byte{0, 2, 1, 64}, ether(etherIPv4, ip4(6, request()))))},
	{"mac in mac", 1, false, ether(0x88e7, cat(make([]byte, 4), ether(etherIPv4, ip4(6, request()))))},
	{"4in4", 1, false, ether(etherIPv4, outer4(4, ip4(6, request())))},
	{"6in4", 1, true, ether(etherIPv4, outer4(41, ip6(6, request())))},
	{"4in6", 1, false, ether(etherIPv6, ip6(4, ip4(6, request())))},
	{"6in6", 1, true, ether(etherIPv6, ip6(41, ip6(6, request())))},
	{"gre", 1, false, ether(etherIPv4, outer4(47, cat([]byte{0, 0, 8, 0}, ip4(6, request()))))},
	{"gre checksum key sequence", 1, true, ether(etherIPv4, outer4(47, cat([]byte{0xb0, 0, 0x86, 0xdd}, make([]byte, 12), ip6(6, request()))))},
	{"gre ethernet", 1, false, ether(etherIPv4, outer4(47, cat([]byte{0, 0, 0x65, 0x58}, ether(etherIPv4, ip4(6, request())))))},
	{"pptp", 1, false, ether(etherIPv4, outer4(47, cat([]byte{0x30, 0x81, 0x88, 0x0b}, make([]byte, 12), []byte{0xff, 3, 0, 0x21}, ip4(6, request()))))},
	{"erspan I", 1, false, ether(etherIPv4, outer4(47, cat([]byte{0, 0, 0x88, 0xbe}, ether(etherIPv4, ip4(6, request())))))},
	{"erspan II", 1, false, ether(etherIPv4, outer4(47, cat([]byte{0x10, 0, 0x88, 0xbe, 0, 0, 0, 0, 0x10}, make([]byte, 7), ether(etherIPv4, ip4(6, request())))))},
	{"erspan III", 1, false, ether(etherIPv4, outer4(47, cat([]byte{0x10, 0, 0x22, 0xeb}, []byte{0, 0, 0, 0, 0x20}, make([]byte, 10), []byte{1}, make([]byte, 8), ether(etherIPv4, ip4(6, request())))))},
	{"gre in udp", 1, false, ether(etherIPv4, outer4(17, udp(portGRE, cat([]byte{0, 0, 8, 0}, ip4(6, request())))))},
	{"mpls in udp", 1, false, ether(etherIPv4, outer4(17, udp(portMPLS, cat([]byte{0, 2, 1, 64}, ip4(6, request())))))},
	{"mpls in ip", 1, false, ether(etherIPv4, outer4(137, cat([]byte{0, 2, 1, 64}, ip4(6, request()))))},
	{"etherip", 1, false, ether(etherIPv4, outer4(97, cat([]byte{0x30, 0}, ether(etherIPv4, ip4(6, request())))))},
	{"vxlan", 1, false, ether(etherIPv4, outer4(17, udp(portVXLAN, cat([]byte{8, 0, 0, 0, 0, 0, 1, 0}, ether(etherIPv4, ip4(6, request()))))))},
	{"vxlan 8472", 1, true, ether(etherIPv6, ip6(17, udp(portVXLANOS, cat([]byte{8, 0, 0, 0, 0, 0, 1, 0}, ether(etherVLAN, vlan(1, etherIPv6, ip6(6, request())))))))},
	{"vxlan gpe", 1, false, ether(etherIPv4, outer4(17, udp(portGPE, cat([]byte{0x0c, 0, 0, 1, 0, 0, 1, 0}, ip4(6, request())))))},
	{"geneve", 1, false, ether(etherIPv4, outer4(17, udp(portGeneve, cat([]byte{1, 0, 0x65, 0x58, 0, 0, 1, 0, 1, 2, 3, 0}, ether(etherIPv4, ip4(6, request()))))))},
	{"geneve ip", 1, true, ether(etherIPv4, outer4(17, udp(portGeneve, cat([]byte{0, 0, 0x86, 0xdd, 0, 0, 1, 0}, ip6(6, request())))))},
	{"gtp", 1, false, ether(etherIPv4, outer4(17, udp(portGTP, cat([]byte{0x34, 255, 0, 8 + 20 + 32 + requestLen, 0, 0, 0, 1, 0, 0, 0, 0x85, 1, 0, 0, 0}, ip4(6, request())))))},
	{"teredo", 1, true, ether(etherIPv4, outer4(17, udp(portTeredo, cat([]byte{0, 1, 0, 0}, make([]byte, 9), make([]byte, 8), ip6(6, request())))))},
	{"authentication header", 1, false, ether(etherIPv4, ip4(51, cat([]byte{6, 4}, make([]byte, 22), request())))},
	{"ipv6 extension headers", 1, true, ether(etherIPv6, ip6(0, cat(
		[]byte{43, 0, 1, 4, 0, 0, 0, 0},                          // hop-by-hop
		[]byte{60, 0, 253, 0, 0, 0, 0, 0},                        // routing
		[]byte{44, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, // destination
		[]byte{6, 0, 0, 1, 0, 0, 0, 7}, request())))},            // first fragment
	{"vxlan in gre in mpls", 1, false, ether(0x8847, cat([]byte{0, 2, 1, 64}, outer4(47, cat([]byte{0, 0, 8, 0},
		outer4(17, udp(portVXLAN, cat([]byte{8, 0, 0, 0, 0, 0, 1, 0}, ether(etherIPv4, ip4(6, request())))))))))},
}

func le16(v int) []byte { return []byte{byte(v), byte(v >> 8)} }

// ip4Options builds an IPv4 header of 24 bytes.
func ip4Options(payload []byte) []byte {
	b := ip4(6, cat([]byte{1, 1, 1, 0}, payload))
	b[0] = 0x46
	return b
}

func decodeOne(number uint32, data []byte, wire int, s *Segment) (outcome, string) {
	var d decoder
	p := packet{link: linkFor(number), data: data, wire: wire}
	return d.decode(&p, s), d.why
}

func TestDecodeCarriers(t *testing.T) {
	for _, c := range carriers {
		t.Run(c.name, func(t *testing.T) {
			// Ethernet's padding follows: it is no payload.
			padded := cat(c.data, []byte("padding"))
			var s Segment
			if o, why := decodeOne(c.link, padded, len(padded), &s); o != isTCP {
				t.Fatalf("outcome %d %s", o, why)
			}
			src, dst := "10.0.0.1:40000", "10.0.0.2:80"
			id := uint16(0x1234)
			if c.ipv6 {
				src, dst, id = "[2001:db8::1]:40000", "[2001:db8::2]:80", 0
			}
			if s.Src.String() != src || s.Dst.String() != dst {
				t.Errorf("endpoints %v > %v", s.Src, s.Dst)
			}
			if s.Seq != 1000 || s.Ack != 2000 || s.Flags != PSH|ACK || s.Window != 502 {
				t.Errorf("header %v", &s)
			}
			if s.TTL != 61 || s.IPID != id {
				t.Errorf("ttl %d id %#x", s.TTL, s.IPID)
			}
			if !s.HasTS || !s.HasOpts || s.WScale != -1 {
				t.Errorf("options %v %v %d", s.HasTS, s.HasOpts, s.WScale)
			}
			if s.Len != requestLen || string(s.Payload) != "GET / HTTP/1.1\r\n\r\n" {
				t.Errorf("len %d payload %q", s.Len, s.Payload)
			}
		})
	}
}

// Cutting a frame anywhere yields the segment with its length on the wire, or
// says that something is cut off.
func TestDecodeCut(t *testing.T) {
	for _, c := range carriers {
		t.Run(c.name, func(t *testing.T) {
			for n := range c.data {
				var s Segment
				switch o, why := decodeOne(c.link, c.data[:n], len(c.data), &s); o {
				case isTCP:
					if s.Len != requestLen || len(s.Payload) > requestLen {
						t.Errorf("%d bytes: len %d, %d captured", n, s.Len, len(s.Payload))
					}
					if len(c.data)-n > requestLen+32-tcpWanted {
						t.Errorf("%d bytes were enough", n)
					}
				case isBad:
					if len(c.data)-n <= requestLen+32-tcpWanted {
						t.Errorf("%d bytes were not enough: %s", n, why)
					}
				case isFragment:
					t.Errorf("%d bytes are a fragment", n)
				}
			}
		})
	}
}

func TestDecodeLengths(t *testing.T) {
	edit := func(data []byte, at int, v ...byte) []byte {
		b := cat(data)
		copy(b[at:], v)
		return b
	}
	v4, v6 := ip4(6, request()), ip6(6, request())
	for _, c := range []struct {
		name     string
		data     []byte
		wire     int // on the wire, 0 for len(data)
		len      int
		captured int
	}{
		{"whole", v4, 0, requestLen, requestLen},
		{"ipv4 length 0: offload", edit(v4, 2, 0, 0), 0, requestLen, requestLen},
		{"ipv4 length 0, cut", edit(v4, 2, 0, 0), 70000, 70000 - 52, requestLen},
		{"ipv6 length 0: offload", edit(v6, 4, 0, 0), 0, requestLen, requestLen},
		{"ipv6 jumbogram, cut", edit(ip6(0, cat([]byte{6, 0, 0xc2, 4, 0, 1, 0, 0}, request())), 4, 0, 0), 100000, 100000 - 80, requestLen},
		{"snap length inside the payload", v4[:60], len(v4), requestLen, 8},
		{"snap length inside the options", v4[:44], len(v4), requestLen, 0},
		{"snap length after the window", v4[:36], len(v4), requestLen, 0},
		{"sliced, slice's length for the wire's", v4[:60], 60, requestLen, 8},
		{"no payload", ip4(6, tcpHeader(ACK, nil, "")), 0, 0, 0},
		{"first fragment", edit(v4, 6, 0x20, 0), 0, requestLen, requestLen},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s Segment
			wire := c.wire
			if wire == 0 {
				wire = len(c.data)
			}
			if o, why := decodeOne(101, c.data, wire, &s); o != isTCP {
				t.Fatalf("outcome %d %s", o, why)
			}
			if s.Len != c.len || len(s.Payload) != c.captured {
				t.Errorf("len %d, %d captured, want %d and %d", s.Len, len(s.Payload), c.len, c.captured)
			}
			if s.Seq != 1000 || s.Window != 502 {
				t.Errorf("header %v", &s)
			}
		})
	}
}

func TestDecodeOthers(t *testing.T) {
	edit := func(data []byte, at int, v ...byte) []byte {
		b := cat(data)
		copy(b[at:], v)
		return b
	}
	v4, v6 := ip4(6, request()), ip6(6, request())
	var deep []byte = v4
	for range maxHeaders + 1 {
		deep = outer4(4, deep)
	}
	for _, c := range []struct {
		name string
		link uint32
		data []byte
		want outcome
		why  string
	}{
		{"arp", 1, ether(0x0806, make([]byte, 28)), isOther, ""},
		{"udp", 101, ip4(17, udp(53, make([]byte, 20))), isOther, ""},
		{"udp on a tunnel's port", 101, ip4(17, udp(portVXLAN, make([]byte, 40))), isOther, ""},
		{"icmp that quotes tcp", 101, ip4(1, cat(make([]byte, 8), v4)), isOther, ""},
		{"icmpv6", 101, ip6(58, make([]byte, 8)), isOther, ""},
		{"no next header", 101, ip6(59, nil), isOther, ""},
		{"esp", 101, ip4(50, make([]byte, 30)), isOther, ""},
		{"spanning tree", 1, ether(38, cat([]byte{0x42, 0x42, 3}, make([]byte, 35))), isOther, ""},
		{"802.11 beacon", 105, cat([]byte{0x80, 0}, make([]byte, 40)), isOther, ""},
		{"802.11 encrypted", 105, cat([]byte{0x08, 0x41}, make([]byte, 60)), isOther, ""},
		{"pppoe discovery", 1, ether(0x8863, make([]byte, 20)), isOther, ""},
		{"ppp lcp", 9, []byte{0xff, 3, 0xc0, 0x21, 1, 1, 0, 4}, isOther, ""},
		{"null with another family", 0, []byte{7, 0, 0, 0, 1, 2, 3}, isOther, ""},

		{"later fragment", 101, edit(v4, 6, 0x20, 1), isFragment, ""},
		{"last fragment", 101, edit(v4, 6, 0, 99), isFragment, ""},
		{"later fragment of udp", 101, edit(ip4(17, udp(53, nil)), 6, 0, 99), isFragment, ""},
		{"ipv6 later fragment", 101, ip6(44, cat([]byte{6, 0, 0, 9, 0, 0, 0, 7}, request())), isFragment, ""},
		{"later fragment in a tunnel", 101, outer4(4, edit(v4, 6, 0, 1)), isFragment, ""},
		{"later fragment of a tunnel", 101, edit(outer4(4, v4), 6, 0, 1), isFragment, ""},

		{"empty", 1, nil, isBad, "Ethernet header is cut off"},
		{"wrong version", 1, ether(etherIPv4, v6), isBad, "IPv4 header with another version in it"},
		{"neither version", 101, []byte{0x50, 0}, isBad, "IP version is neither 4 nor 6"},
		{"header length 16", 101, edit(v4, 0, 0x44), isBad, "IPv4 header length below 20"},
		{"total length below header", 101, edit(v4, 2, 0, 19), isBad, "IPv4 total length below the header's"},
		{"tcp header length 16", 101, edit(v4, 32, 0x40), isBad, "TCP header length below 20"},
		{"tcp header too long", 101, edit(ip4(6, tcpHeader(SYN, nil, "")), 32, 0xf0), isBad, "TCP header longer than its packet"},
		{"tcp header in pieces", 101, edit(ip4(6, request()[:8]), 6, 0x20, 0), isBad, "packet too short for a TCP header"},
		{"nested too deeply", 101, deep, isBad, "headers are nested too deeply"},
		{"link type", 147, v4, isBad, "link type is not supported"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s Segment
			o, why := decodeOne(c.link, c.data, len(c.data), &s)
			if o != c.want || why != c.why {
				t.Errorf("outcome %d %q, want %d %q", o, why, c.want, c.why)
			}
		})
	}
}

func TestDecodeOptions(t *testing.T) {
	for _, c := range []struct {
		name    string
		options []byte
		hasTS   bool
		scale   int8
	}{
		{"linux syn", []byte{2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7}, true, 7},
		{"windows syn", []byte{2, 4, 5, 180, 1, 3, 3, 8, 1, 1, 4, 2}, false, 8},
		{"scale 0", []byte{3, 3, 0, 0}, false, 0},
		{"scale above what is allowed", []byte{3, 3, 200, 0}, false, 14},
		{"after the end", []byte{0, 3, 3, 7}, false, -1},
		{"length 0", []byte{2, 0, 3, 3, 7, 0, 0, 0}, false, -1},
		{"longer than the header", []byte{1, 1, 8, 200}, false, -1},
		{"sack and time stamps", []byte{1, 1, 5, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}, true, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s Segment
			b := ip4(6, tcpHeader(SYN, c.options, ""))
			if o, why := decodeOne(101, b, len(b), &s); o != isTCP {
				t.Fatalf("outcome %d %s", o, why)
			}
			if s.HasTS != c.hasTS || s.WScale != c.scale || !s.HasOpts {
				t.Errorf("time stamps %v, scale %d", s.HasTS, s.WScale)
			}
		})
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	var d decoder
	var s Segment
	for _, c := range carriers {
		p := packet{link: linkFor(c.link), data: c.data, wire: len(c.data)}
		if n := testing.AllocsPerRun(100, func() { d.decode(&p, &s) }); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

func TestFilter(t *testing.T) {
	data := ip4(6, request())
	v6 := ip6(6, request())
	for _, c := range []struct {
		name         string
		ports, hosts string
		data         []byte
		want         bool
	}{
		{"empty", "", "", data, true},
		{"server's port", "80", "", data, true},
		{"client's port", "1,39999-40001", "", data, true},
		{"other port", "81-39999", "", data, false},
		{"address", "", "10.0.0.2", data, true},
		{"prefix", "", "192.168.0.0/16,10.0.0.0/8", data, true},
		{"prefix with a host part", "", "10.9.9.9/8", data, true},
		{"mapped address", "", "::ffff:10.0.0.1", data, true},
		{"mapped prefix", "", "::ffff:10.0.0.0/104", data, true},
		{"everything of IPv6", "", "::/0", data, false},
		{"other address", "", "10.0.0.3", data, false},
		{"port, not the address", "80", "10.0.0.3", data, false},
		{"port and address", "80", "10.0.0.1", data, true},
		{"ipv6 prefix", "", "2001:db8::/32", v6, true},
		{"ipv6 and ipv4 prefix", "", "0.0.0.0/0", v6, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f Filter
			var err error
			if c.ports != "" {
				if f.Ports, err = ParsePorts(c.ports); err != nil {
					t.Fatal(err)
				}
			}
			if c.hosts != "" {
				if f.Prefixes, err = ParsePrefixes(c.hosts); err != nil {
					t.Fatal(err)
				}
			}
			var s Segment
			decodeOne(101, c.data, len(c.data), &s)
			if got := f.Match(&s); got != c.want {
				t.Errorf("%v", got)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	for list, want := range map[string]string{
		"0":                       `port 0: a port is between 1 and 65535`,
		"70000":                   `port 70000: a port is between 1 and 65535`,
		"99999999999999999999999": `port 99999999999999999999999: a port is between 1 and 65535`,
		"http":                    `port "http": not a port number; examples are 8080, 80,443 and 8000-8100`,
		"80,":                     `port "": not a port number; examples are 8080, 80,443 and 8000-8100`,
		"-80":                     `port "": not a port number; examples are 8080, 80,443 and 8000-8100`,
		"90-80":                   `port range "90-80": its first port is above its last`,
		"80-90-100":               `port "90-100": not a port number; examples are 8080, 80,443 and 8000-8100`,
	} {
		if got, err := ParsePorts(list); err == nil || err.Error() != want {
			t.Errorf("ports %q: %v, %v", list, got, err)
		}
	}
	for list, want := range map[string]string{
		"localhost":    `host "localhost": not an IP address or prefix; names are not looked up`,
		"fe80::1%eth0": `host "fe80::1%eth0": not an IP address or prefix; names are not looked up`,
		"":             `host "": not an IP address or prefix; names are not looked up`,
		"10.0.0.0/33":  `host "10.0.0.0/33": not an IP prefix such as 10.0.0.0/8 or 2001:db8::/32`,
	} {
		if got, err := ParsePrefixes(list); err == nil || err.Error() != want {
			t.Errorf("hosts %q: %v, %v", list, got, err)
		}
	}
	got, err := ParsePorts(" 80, 8000-8100 ")
	if err != nil || len(got) != 2 || got[0] != (PortRange{80, 80}) || got[1] != (PortRange{8000, 8100}) {
		t.Errorf("%v %v", got, err)
	}
	hosts, err := ParsePrefixes("10.1.2.3/8, ::1")
	if err != nil || len(hosts) != 2 || hosts[0] != netip.MustParsePrefix("10.0.0.0/8") || hosts[1] != netip.MustParsePrefix("::1/128") {
		t.Errorf("%v %v", hosts, err)
	}
}

func BenchmarkDecode(b *testing.B) {
	data := ether(etherIPv4, ip4(6, request()))
	var d decoder
	var s Segment
	p := packet{link: linkFor(1), data: data, wire: len(data)}
	b.ReportAllocs()
	for b.Loop() {
		binary.LittleEndian.PutUint16(data[38:], uint16(s.Frame))
		if d.decode(&p, &s) != isTCP {
			b.Fatal(d.why)
		}
	}
}
