package capture

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// Writers for test captures. They write what they are told, right or wrong.

// A pcapWriter writes a pcap file.
type pcapWriter struct {
	bytes.Buffer
	order  binary.ByteOrder
	record int
}

func newPcap(order binary.ByteOrder, magic, linkType uint32) *pcapWriter {
	w := &pcapWriter{order: order, record: 16}
	if magic == 0xa1b2cd34 {
		w.record = 24
	}
	w.u32(magic)
	w.u16(2)
	w.u16(4)
	w.u32(0)
	w.u32(0)
	w.u32(0) // a snap length that is not to be believed
	w.u32(linkType)
	return w
}

func (w *pcapWriter) u16(v uint16) { b := [2]byte{}; w.order.PutUint16(b[:], v); w.Write(b[:]) }
func (w *pcapWriter) u32(v uint32) { b := [4]byte{}; w.order.PutUint32(b[:], v); w.Write(b[:]) }

func (w *pcapWriter) packet(sec, frac uint32, data []byte, wire int) {
	w.u32(sec)
	w.u32(frac)
	w.u32(uint32(len(data)))
	w.u32(uint32(wire))
	w.Write(make([]byte, w.record-16))
	w.Write(data)
}

// pcapOf returns an ordinary pcap file with the given frames, a second apart.
func pcapOf(linkType uint32, frames ...[]byte) []byte {
	w := newPcap(binary.LittleEndian, 0xa1b2c3d4, linkType)
	for i, f := range frames {
		w.packet(1700000000+uint32(i), 0, f, len(f))
	}
	return w.Bytes()
}

// An ngWriter writes a pcapng file.
type ngWriter struct {
	bytes.Buffer
	order binary.ByteOrder
}

// opt returns an option of a block.
func (w *ngWriter) opt(code uint16, value ...byte) []byte {
	b := binary16(w.order, code)
	b = append(b, binary16(w.order, uint16(len(value)))...)
	b = append(b, value...)
	return pad4(b)
}

func binary16(order binary.ByteOrder, v uint16) []byte {
	b := make([]byte, 2)
	order.PutUint16(b, v)
	return b
}

func (w *ngWriter) u32(v uint32) []byte {
	b := make([]byte, 4)
	w.order.PutUint32(b, v)
	return b
}

func (w *ngWriter) u64(v uint64) []byte {
	b := make([]byte, 8)
	w.order.PutUint64(b, v)
	return b
}

func pad4(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }

func (w *ngWriter) block(typ uint32, parts ...[]byte) {
	body := pad4(bytes.Join(parts, nil))
	w.Write(w.u32(typ))
	w.Write(w.u32(uint32(len(body) + 12)))
	w.Write(body)
	w.Write(w.u32(uint32(len(body) + 12)))
}

func newPcapng(order binary.ByteOrder) *ngWriter {
	w := &ngWriter{order: order}
	w.section(order)
	return w
}

func (w *ngWriter) section(order binary.ByteOrder) {
	w.order = order
	w.block(blockSection, w.u32(0x1a2b3c4d), binary16(order, 1), binary16(order, 0), w.u64(1<<64-1))
}

func (w *ngWriter) iface(linkType uint16, snapLen uint32, options ...[]byte) {
	w.block(blockInterface, binary16(w.order, linkType), binary16(w.order, 0), w.u32(snapLen), bytes.Join(options, nil))
}

func (w *ngWriter) enhanced(iface uint32, ticks uint64, data []byte, wire int, options ...[]byte) {
	w.block(blockEnhanced, w.u32(iface), w.u32(uint32(ticks>>32)), w.u32(uint32(ticks)),
		w.u32(uint32(len(data))), w.u32(uint32(wire)), pad4(bytes.Clone(data)), bytes.Join(options, nil))
}

func (w *ngWriter) simple(data []byte, wire int) {
	w.block(blockSimple, w.u32(uint32(wire)), data)
}

func (w *ngWriter) obsolete(iface, drops uint16, ticks uint64, data []byte) {
	w.block(blockPacket, binary16(w.order, iface), binary16(w.order, drops), w.u32(uint32(ticks>>32)), w.u32(uint32(ticks)),
		w.u32(uint32(len(data))), w.u32(uint32(len(data))), data)
}

// Builders of headers, each around what it carries.

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func be16(v int) []byte { return []byte{byte(v >> 8), byte(v)} }

func ether(etherType int, payload []byte) []byte {
	return cat([]byte("\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02"), be16(etherType), payload)
}

func vlan(id, etherType int, payload []byte) []byte {
	return cat(be16(id), be16(etherType), payload)
}

func snap(etherType int, payload []byte) []byte {
	return cat([]byte{0xaa, 0xaa, 3, 0, 0, 0}, be16(etherType), payload)
}

// ip4 builds an IPv4 header from 10.0.0.1 to 10.0.0.2.
func ip4(protocol byte, payload []byte) []byte {
	return cat([]byte{0x45, 0}, be16(20+len(payload)), []byte{0x12, 0x34, 0x40, 0, 61, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, payload)
}

// outer4 builds an IPv4 header of a tunnel.
func outer4(protocol byte, payload []byte) []byte {
	return cat([]byte{0x45, 0}, be16(20+len(payload)), []byte{0, 1, 0, 0, 255, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}, payload)
}

// ip6 builds an IPv6 header from 2001:db8::1 to 2001:db8::2.
func ip6(next byte, payload []byte) []byte {
	return cat([]byte{0x60, 0, 0, 0}, be16(len(payload)), []byte{next, 61},
		[]byte("\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"),
		[]byte("\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02"), payload)
}

func udp(dst int, payload []byte) []byte {
	return cat(be16(51234), be16(dst), be16(8+len(payload)), be16(0), payload)
}

// timestamps is the TCP option that nearly every segment has.
var timestamps = []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}

// tcpHeader builds a TCP header from port 40000 to 80.
func tcpHeader(flags Flags, options []byte, payload string) []byte {
	return cat(be16(40000), be16(80), []byte{0, 0, 3, 232, 0, 0, 7, 208, byte(20+len(options)) << 2, byte(flags)},
		be16(502), be16(0), be16(0), options, []byte(payload))
}

// request is the segment that most tests carry about.
func request() []byte { return tcpHeader(PSH|ACK, timestamps, "GET / HTTP/1.1\r\n\r\n") }

const requestLen = 18

// frameOf returns an Ethernet frame whose segment has the sequence number seq.
func frameOf(seq uint32, payload string) []byte {
	t := tcpHeader(PSH|ACK, timestamps, payload)
	binary.BigEndian.PutUint32(t[4:], seq)
	return ether(etherIPv4, ip4(ipTCP, t))
}

// readAll reads a source to its end.
func readAll(t testing.TB, src Source) ([]Segment, error) {
	t.Helper()
	var all []Segment
	var s Segment
	for {
		if err := src.Next(&s); err != nil {
			return all, err
		}
		s.Payload = bytes.Clone(s.Payload)
		all = append(all, s)
	}
}
