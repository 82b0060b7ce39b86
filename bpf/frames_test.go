//go:build linux

package bpf

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// cat joins pieces.
func cat(parts ...[]byte) []byte { return slices.Concat(parts...) }

func be16(v int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(v)) }

// ether makes an Ethernet frame.
func ether(kind int, payload []byte) []byte {
	return cat([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}, be16(kind), payload)
}

// vlan makes what follows the type of a tag.
func vlan(tci, kind int, payload []byte) []byte { return cat(be16(tci), be16(kind), payload) }

// ip4 makes an IPv4 packet.
func ip4(protocol byte, payload []byte) []byte { return ip4With(nil, protocol, payload) }

// ip4With makes one with options, whose length is a multiple of four.
func ip4With(options []byte, protocol byte, payload []byte) []byte {
	b := []byte{0x45 + byte(len(options)/4), 0, 0, 0, 0x12, 0x34, 0x40, 0, 61, protocol, 0, 0, 10, 1, 2, 3, 192, 168, 4, 5}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(options)+len(payload)))
	return cat(b, options, payload)
}

// ip6 makes an IPv6 packet.
func ip6(next byte, payload []byte) []byte {
	b := cat([]byte{0x60, 1, 2, 3}, be16(len(payload)), []byte{next, 57}, make([]byte, 32))
	copy(b[8:], "\x20\x01\x0d\xb8\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b")
	copy(b[24:], "\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x99")
	return cat(b, payload)
}

// tcpHeader makes a TCP header with options, which are filled up with ends.
func tcpHeader(flags byte, options []byte) []byte {
	for len(options)%4 != 0 {
		options = append(slices.Clip(options), 0)
	}
	b := []byte{0xc3, 0x50, 0x1f, 0x90, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, byte(5+len(options)/4) << 4, flags, 0xfa, 0xf0, 0, 0, 0, 0}
	return cat(b, options)
}

// segments are TCP segments of all kinds.
func segments() [][]byte {
	times := []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}
	options := [][]byte{
		nil, times,
		{2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7}, // Linux's SYN
		{3, 3, 14}, {3, 3, 15}, {3, 3, 255}, {3, 3, 0},
		{3, 2, 7, 0}, {3, 4, 7, 7}, {3, 0, 7}, {3, 1, 3, 3}, {3, 3}, {3}, // malformed
		{8, 10, 1, 2}, {8, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {8, 9, 1, 2, 3, 4, 5, 6, 7},
		{8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 3, 3, 9}, {3, 3, 9, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8},
		{3, 3, 9, 3, 3, 4}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 5},
		{0, 3, 3, 9}, {1, 0, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}, // behind the end
		bytes.Repeat([]byte{1}, 40), cat(bytes.Repeat([]byte{1}, 37), []byte{3, 3, 6}), cat(bytes.Repeat([]byte{1}, 38), []byte{3, 3}),
		{5, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2},                                            // a selective acknowledgement
		{254, 40, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2}, // beyond
		{254, 255}, {1, 1, 8, 10}, {1, 1, 8, 11, 0, 0, 0, 1, 0, 0, 0, 2},
	}
	var all [][]byte
	for _, o := range options {
		for _, flags := range []byte{0x02, 0x18} {
			all = append(all, cat(tcpHeader(flags, o), []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")))
		}
	}
	for flags := range 256 {
		all = append(all, tcpHeader(byte(flags), times))
	}
	for _, n := range []int{1, 2, 7, 8, 9, 63, 64, 511, 512, 513, 1023, 1448, 3000, 60000} {
		all = append(all, cat(tcpHeader(0x10, times), bytes.Repeat([]byte("abcdefg"), n/7+1)[:n]))
	}
	for _, words := range []byte{0, 1, 4, 6, 14, 15} { // a header length that is not so
		b := tcpHeader(0x10, times)
		b[12] = words << 4
		all = append(all, b, cat(b, make([]byte, 64)))
	}
	for n := range 20 { // half a header
		all = append(all, tcpHeader(0x10, nil)[:n])
	}
	return all
}

// extended puts IPv6 extension headers before a segment.
func extended(segment []byte) [][]byte {
	header := func(next byte, words int) []byte { return cat([]byte{next, byte(words)}, make([]byte, words*8+6)) }
	auth := func(next byte, words int) []byte { return cat([]byte{next, byte(words)}, make([]byte, words*4+6)) }
	fragment := func(next byte, offset, more int) []byte {
		return cat([]byte{next, 0}, be16(offset<<3|more), []byte{0, 0, 0, 7})
	}
	all := [][]byte{
		ip6(0, cat(header(6, 0), segment)), ip6(43, cat(header(6, 2), segment)), ip6(60, cat(header(6, 1), segment)),
		ip6(44, cat(fragment(6, 0, 1), segment)), ip6(44, cat(fragment(6, 0, 0), segment)), ip6(44, cat(fragment(6, 185, 1), segment)), ip6(44, cat(fragment(6, 1, 1), segment)),
		ip6(51, cat(auth(6, 4), segment)), ip6(51, cat(auth(6, 1), segment)), ip6(51, cat(auth(6, 0), segment)),
		ip6(135, cat(header(6, 0), segment)), ip6(139, cat(header(6, 0), segment)), ip6(140, cat(header(6, 0), segment)),
		ip6(0, cat(header(43, 0), header(60, 1), fragment(51, 0, 1), auth(60, 4), header(6, 0), segment)),
		ip6(0, cat(header(6, 255), segment)), ip6(50, segment), ip6(59, segment), ip6(17, segment), ip6(58, segment), ip6(41, ip6(6, segment)), ip6(4, ip4(6, segment)),
		ip6(0, header(6, 0)), ip6(0, header(6, 1)[:9]),
	}
	for n := 6; n <= 9; n++ {
		b := segment
		next := byte(6)
		for range n {
			b = cat(header(next, 0), b)
			next = 60
		}
		all = append(all, ip6(60, b))
	}
	jumbo := ip6(6, segment)
	jumbo[4], jumbo[5] = 0, 0
	return append(all, jumbo)
}

// packets4 are IPv4 packets around a segment.
func packets4(segment []byte) [][]byte {
	edit := func(b []byte, at int, v ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], v)
		return b
	}
	plain := ip4(6, segment)
	all := [][]byte{
		ip4With([]byte{1, 1, 1, 0}, 6, segment), ip4With(make([]byte, 40), 6, segment), ip4With([]byte{7, 7, 4, 1, 2, 3, 4, 0}, 6, segment),
		edit(plain, 6, 0x20, 0), edit(plain, 6, 0x20, 1), edit(plain, 6, 0, 99), edit(plain, 6, 0x60, 0), edit(plain, 6, 0x80, 0),
		edit(plain, 2, 0, 0), edit(plain, 2, 0, 19), edit(plain, 2, 0, 20), edit(plain, 2, 0, 39), edit(plain, 2, 0, 40), edit(plain, 2, 0xff, 0xff),
		edit(plain, 0, 0x44), edit(plain, 0, 0x4f), edit(plain, 0, 0x65), edit(plain, 0, 0x55),
		edit(plain, 2, 0, byte(len(plain)-1)), edit(plain, 2, 0, byte(len(plain)+1)),
		ip4(17, cat([]byte{0, 53, 0, 53}, be16(8+20), make([]byte, 22))), ip4(1, cat(make([]byte, 8), plain)), ip4(4, plain), ip4(41, ip6(6, segment)),
		ip4(47, cat([]byte{0, 0, 8, 0}, plain)), ip4(50, plain), ip4(51, cat([]byte{6, 4}, make([]byte, 22), segment)), ip4(60, cat([]byte{6, 0}, make([]byte, 6), segment)),
		ip4(17, cat([]byte{0xc0, 0, 0x12, 0xb5}, be16(16+14+len(plain)), []byte{0, 0, 8, 0, 0, 0, 0, 0, 1, 0}, ether(0x0800, plain))), // VXLAN
	}
	for n := range 20 {
		all = append(all, plain[:n])
	}
	return all
}

// madeFrames are frames that try every branch of the parser.
func madeFrames() [][]byte {
	var all [][]byte
	for _, s := range segments() {
		all = append(all, ether(0x0800, ip4(6, s)), ether(0x86dd, ip6(6, s)))
	}
	short := cat(tcpHeader(0x18, []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}), []byte("GET / HTTP/1.1\r\n\r\n"))
	for _, p := range packets4(short) {
		all = append(all, ether(0x0800, p), ether(0x8100, vlan(5, 0x0800, p)))
	}
	for _, p := range extended(short) {
		all = append(all, ether(0x86dd, p), ether(0x88a8, vlan(5, 0x8100, vlan(6, 0x86dd, p))))
	}
	v4, v6 := ip4(6, short), ip6(6, short)
	// A tag's priority looks like an IP version where there is no tag.
	for tci := 0; tci < 0x10000; tci += 0x0f45 {
		for _, tag := range []int{0x8100, 0x88a8, 0x9100, 0x9200} {
			all = append(all, ether(tag, vlan(tci, 0x0800, v4)), ether(tag, vlan(tci, 0x86dd, v6)), ether(tag, vlan(tci, 0x8100, vlan(1, 0x0800, v4))))
		}
		all = append(all, ether(0x8100, vlan(tci, 0x0806, make([]byte, 28))), ether(0x8100, vlan(tci, 0x0806, v4)),
			ether(0x8100, vlan(tci, 40, cat([]byte{0x42, 0x42, 3}, make([]byte, 57)))), ether(0x8100, vlan(tci, 0x88cc, make([]byte, 60))))
	}
	tagged := v4
	kind := 0x0800
	for range 5 {
		tagged = vlan(7, kind, tagged)
		kind = 0x8100
		all = append(all, ether(kind, tagged))
	}
	// The tag is not part of it, but the type is that of one.
	all = append(all, ether(0x8100, v4), ether(0x8100, v6), ether(0x88a8, v4))
	all = append(all, ether(0x0806, make([]byte, 28)), ether(0x0800, v6), ether(0x86dd, v4), ether(0x8847, cat([]byte{0, 1, 1, 64}, v4)),
		ether(0x8864, cat([]byte{0x11, 0, 0, 1}, be16(len(v4)+2), []byte{0, 0x21}, v4)), ether(len(v4)+8, cat([]byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, v4)))
	for _, pad := range []int{1, 6, 60} { // behind the packet, as short frames have
		all = append(all, ether(0x0800, cat(v4, make([]byte, pad))), ether(0x86dd, cat(v6, make([]byte, pad))), ether(0x0800, cat(ip4(6, tcpHeader(0x10, nil)), make([]byte, pad))))
	}
	for n := 0; n <= len(v4)+14; n++ { // cut off
		all = append(all, ether(0x0800, v4)[:n])
	}
	for n := 0; n <= len(v6)+14; n++ {
		all = append(all, ether(0x86dd, v6)[:n])
	}
	return all
}

// damage returns a copy of b with something wrong.
func damage(random *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	for range 1 + random.IntN(3) {
		if len(b) == 0 {
			return b
		}
		at := random.IntN(min(len(b), 110)) // in the headers, mostly
		switch random.IntN(6) {
		case 0:
			b[at] ^= 1 << random.IntN(8)
		case 1:
			b[at] = byte(random.Uint32())
		case 2:
			b[at] = []byte{0, 1, 4, 6, 0x45, 0x60, 0x7f, 0x80, 0xff}[random.IntN(9)]
		case 3:
			b = b[:random.IntN(len(b)+1)]
		case 4:
			b = append(b, make([]byte, random.IntN(20))...)
		case 5:
			if at+2 <= len(b) {
				binary.BigEndian.PutUint16(b[at:], []uint16{0, 1, 5, 20, 40, 0x0800, 0x86dd, 0x8100, 0xffff}[random.IntN(9)])
			}
		}
	}
	return b
}

// framesOf reads the packets of a capture as Ethernet frames of the lengths that they
// had on the wire. What cannot be made into one is counted in n.
func framesOf(name string, n tally) ([][]byte, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		b, _ = io.ReadAll(z) // as far as it goes
	case bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		b, _ = io.ReadAll(z)
	}
	var all [][]byte
	add := func(link uint32, data []byte, wire int) {
		f := asEthernet(link, data)
		if f == nil {
			n["packets of other link types"]++
			return
		}
		// What a snap length cut off is filled up: in the kernel, packets are whole.
		if missing := min(wire, 1<<17) - len(data); missing > 0 {
			n["packets that a snap length cut"]++
			f = append(f, make([]byte, missing)...)
		}
		all = append(all, f)
	}
	if len(b) < 24 {
		return nil, errNoCapture
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch order.Uint32(b) {
		case 0xa1b2c3d4, 0xa1b23c4d:
			readPcap(b, order, add)
			return all, nil
		}
		if order.Uint32(b) == 0x0a0d0d0a && order.Uint32(b[8:]) == 0x1a2b3c4d {
			readPcapng(b, order, add)
			return all, nil
		}
	}
	return nil, errNoCapture
}

var errNoCapture = errors.New("no capture")

func readPcap(b []byte, order binary.ByteOrder, add func(link uint32, data []byte, wire int)) {
	link := order.Uint32(b[20:]) & 0xffff
	for b = b[24:]; len(b) >= 16; {
		have, wire := int(order.Uint32(b[8:])), int(order.Uint32(b[12:]))
		if have > len(b)-16 {
			return
		}
		add(link, b[16:16+have], wire)
		b = b[16+have:]
	}
}

func readPcapng(b []byte, order binary.ByteOrder, add func(link uint32, data []byte, wire int)) {
	var links []uint32
	for len(b) >= 12 {
		kind, size := order.Uint32(b), int(order.Uint32(b[4:]))
		if kind == 0x0a0d0d0a {
			order = binary.LittleEndian
			if binary.BigEndian.Uint32(b[8:]) == 0x1a2b3c4d {
				order = binary.BigEndian
			}
			size, links = int(order.Uint32(b[4:])), nil
		}
		if size < 12 || size > len(b) {
			return
		}
		body := b[8 : size-4]
		switch {
		case kind == 1 && len(body) >= 8:
			links = append(links, uint32(order.Uint16(body)))
		case kind == 6 && len(body) >= 20:
			have, wire, at := int(order.Uint32(body[12:])), int(order.Uint32(body[16:])), int(order.Uint32(body))
			if have <= len(body)-20 && at < len(links) {
				add(links[at], body[20:20+have], wire)
			}
		}
		b = b[size:]
	}
}

// asEthernet gives a packet of another link type the header of an Ethernet frame.
func asEthernet(link uint32, b []byte) []byte {
	var kind uint16
	switch {
	case link == 1:
		return bytes.Clone(b)
	case link == 113 && len(b) >= 16: // Linux "cooked"
		kind, b = binary.BigEndian.Uint16(b[14:]), b[16:]
	case link == 276 && len(b) >= 20:
		kind, b = binary.BigEndian.Uint16(b), b[20:]
	case (link == 0 || link == 108) && len(b) >= 5:
		b = b[4:]
	case slices.Contains([]uint32{12, 14, 101, 228, 229}, link) && len(b) >= 1:
	default:
		return nil
	}
	if kind == 0 {
		kind = 0x0800
		if b[0]>>4 == 6 {
			kind = 0x86dd
		}
	}
	return ether(int(kind), b)
}
