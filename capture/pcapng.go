package capture

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// Block types of pcapng (draft-ietf-opsawg-pcapng).
const (
	blockSection    = 0x0a0d0d0a // the same in both byte orders
	blockInterface  = 1
	blockPacket     = 2 // obsolete
	blockSimple     = 3
	blockStatistics = 5
	blockEnhanced   = 6

	// Blocks that hold no packet, but that Wireshark gives a frame number.
	blockJournal        = 9
	blockSysdigEvent    = 0x204
	blockSysdigEventF   = 0x208
	blockSysdigEventV2  = 0x216
	blockSysdigEventFV2 = 0x217
	blockSysdigEventV2L = 0x221
	blockSysdigEventFVL = 0x222
)

// maxInterfaces bounds the memory that a file full of interfaces can take.
const maxInterfaces = 1 << 16

// A pcapngSection is what is to be known of a section of a pcapng file to read
// its packets.
type pcapngSection struct {
	big    bool
	ours   bool // a Recording
	ifaces []iface
	last   Time // of the packet before

	// The following are of the whole file.

	missed      uint64 // of earlier sections
	delivered   uint64 // the same: how many packets their interfaces say were written
	end         Time   // when capturing ended, as far as the statistics say
	anyKnown    bool   // a packet with a link type that is known here has been met
	anyUnknown  bool   // a packet with one that is not
	unknownLink uint32 // the first such
}

// An iface is an interface that packets were captured on.
type iface struct {
	link    link
	snapLen uint32
	clock   clock
	// How many packets it lost, told in two ways: by the statistics of the
	// interface as a running total, and in the packets that follow a loss.
	statDrops, packetDrops uint64
	delivered              uint64 // how many packets its statistics say were written
}

// missedPackets returns how many packets the capturing systems say they lost.
func (p *pcapngSection) missedPackets() uint64 {
	n := p.missed
	for i := range p.ifaces {
		n += max(p.ifaces[i].statDrops, p.ifaces[i].packetDrops)
	}
	return n
}

// captureEnd returns until when packets were captured; 0 if that is not known. It is
// believed of a file that holds as many packets as were written: one that was
// filtered or cut to pieces keeps the statistics of the whole.
func (p *pcapngSection) captureEnd(packets uint64) Time {
	n := p.delivered
	for i := range p.ifaces {
		n += p.ifaces[i].delivered
	}
	if n != packets {
		return 0
	}
	return p.end
}

func isPcapng(magic []byte) bool {
	return binary.LittleEndian.Uint32(magic) == blockSection
}

func (p *pcapngSection) u16(b []byte) uint16 {
	v := binary.LittleEndian.Uint16(b)
	if p.big {
		v = bits.ReverseBytes16(v)
	}
	return v
}

func (p *pcapngSection) u32(b []byte) uint32 {
	v := binary.LittleEndian.Uint32(b)
	if p.big {
		v = bits.ReverseBytes32(v)
	}
	return v
}

func (p *pcapngSection) u64(b []byte) uint64 {
	v := binary.LittleEndian.Uint64(b)
	if p.big {
		v = bits.ReverseBytes64(v)
	}
	return v
}

// readPcapng reads blocks up to the next packet of a pcapng file.
func (f *file) readPcapng() error {
	p := &f.pcapng
	for {
		b, err := f.in.peek(12)
		if err != nil {
			if len(b) == 0 {
				return err // where a file may end
			}
			return cut(err, "a block", len(b), 12)
		}
		if binary.LittleEndian.Uint32(b) == blockSection {
			if err := f.byteOrder(b[8:]); err != nil {
				return err
			}
		}
		typ, length := p.u32(b), p.u32(b[4:])
		if length < 12 || length%4 != 0 {
			return malformed("damaged at byte %d: a block of type %#x and %d bytes", f.in.offset(), typ, length)
		}
		switch typ {
		case blockEnhanced, blockInterface, blockSection, blockSimple, blockPacket, blockStatistics:
		default:
			if err := f.skipBlock(typ, length); err != nil {
				return err
			}
			continue
		}
		if length > maxPacket {
			return malformed("damaged at byte %d: a block of type %#x and %d bytes", f.in.offset(), typ, length)
		}
		if b, err = f.in.peek(int(length)); err != nil {
			return cut(err, "a block", len(b), int(length))
		}
		if again := p.u32(b[length-4:]); again != length {
			return malformed("damaged at byte %d: a block of %d bytes ends saying that it has %d", f.in.offset(), length, again)
		}
		body := b[8 : length-4]
		isPacket := true
		switch typ {
		case blockEnhanced:
			err = f.enhanced(body)
		case blockSimple:
			err = f.simple(body)
		case blockPacket:
			err = f.obsolete(body)
		case blockInterface:
			isPacket, err = false, f.addInterface(body)
		case blockStatistics:
			isPacket = false
			p.statistics(body)
		case blockSection:
			isPacket, err = false, f.section(body)
		}
		if err != nil {
			return err
		}
		f.in.r += int(length)
		if isPacket {
			return nil
		}
	}
}

// skipBlock skips a block that is not looked into, whatever its length.
func (f *file) skipBlock(typ, length uint32) error {
	at := f.in.offset()
	switch typ {
	case blockJournal, blockSysdigEvent, blockSysdigEventF, blockSysdigEventV2, blockSysdigEventFV2, blockSysdigEventV2L, blockSysdigEventFVL:
		f.frame++
	}
	if err := f.in.skip(int64(length) - 4); err != nil {
		return cut(err, "a block", int(f.in.offset()-at), int(length))
	}
	b, err := f.in.peek(4)
	if err != nil {
		return cut(err, "a block", int(f.in.offset()-at)+len(b), int(length))
	}
	if again := f.pcapng.u32(b); again != length {
		return malformed("damaged at byte %d: a block of %d bytes ends saying that it has %d", at, length, again)
	}
	f.in.r += 4
	return nil
}

// byteOrder takes the byte order of the section that begins.
func (f *file) byteOrder(magic []byte) error {
	switch binary.LittleEndian.Uint32(magic) {
	case 0x1a2b3c4d:
		f.pcapng.big = false
	case 0x4d3c2b1a:
		f.pcapng.big = true
	default:
		return malformed("damaged at byte %d: a section with the byte order %x", f.in.offset(), magic[:4])
	}
	return nil
}

// section begins a section.
func (f *file) section(body []byte) error {
	p := &f.pcapng
	if len(body) < 16 {
		return malformed("damaged at byte %d: a section header of %d bytes", f.in.offset(), len(body)+12)
	}
	if major, minor := p.u16(body[4:]), p.u16(body[6:]); major != 1 {
		return malformed("pcapng version %d.%d is not known", major, minor)
	}
	p.missed = p.missedPackets()
	for i := range p.ifaces {
		p.delivered += p.ifaces[i].delivered
	}
	p.ifaces = p.ifaces[:0]
	p.ours = false
	p.options(body[16:], func(code uint16, v []byte) {
		p.ours = p.ours || code == 4 && string(v) == userAppl // shb_userappl
	})
	return nil
}

func (f *file) addInterface(body []byte) error {
	p := &f.pcapng
	if len(body) < 8 {
		return malformed("damaged at byte %d: an interface of %d bytes", f.in.offset(), len(body)+12)
	}
	if len(p.ifaces) == maxInterfaces {
		return malformed("more than %d interfaces", maxInterfaces)
	}
	i := iface{link: linkFor(uint32(p.u16(body))), snapLen: p.u32(body[4:]), clock: newClock(6)}
	i.link.big = p.big
	offset := int64(0)
	p.options(body[8:], func(code uint16, v []byte) {
		switch {
		case code == 2 && p.ours: // if_name
			i.link.zone = f.zones.addInterface(string(v))
		case code == 9 && len(v) >= 1: // if_tsresol
			i.clock = newClock(v[0])
		case code == 14 && len(v) >= 8: // if_tsoffset
			offset = int64(p.u64(v))
		}
	})
	i.clock.offset = seconds(offset)
	p.ifaces = append(p.ifaces, i)
	return nil
}

// options calls do with each option of b. It stops at the first that is not
// whole: the block's own contents do not depend on it.
func (p *pcapngSection) options(b []byte, do func(code uint16, value []byte)) {
	for len(b) >= 4 {
		code, n := p.u16(b), int(p.u16(b[2:]))
		if code == 0 || n > len(b)-4 {
			return
		}
		do(code, b[4:4+n])
		b = b[min(len(b), 4+(n+3)&^3):]
	}
}

// statistics takes the counts of an interface.
func (p *pcapngSection) statistics(body []byte) {
	if len(body) < 12 || uint64(p.u32(body)) >= uint64(len(p.ifaces)) {
		return
	}
	i := &p.ifaces[p.u32(body)]
	var drops uint64
	p.options(body[12:], func(code uint16, v []byte) {
		switch {
		case len(v) < 8:
		case code == 3: // isb_endtime
			p.end = max(p.end, i.clock.time(uint64(p.u32(v))<<32|uint64(p.u32(v[4:]))))
		case code == 8: // isb_usrdeliv
			i.delivered = p.u64(v)
		case code == 5 || code == 7: // isb_ifdrop, isb_osdrop
			if n := p.u64(v); n != math.MaxUint64 { // which some writers mean as "not known"
				drops += n
			}
		}
	})
	i.statDrops = max(i.statDrops, drops)
}

// enhanced reads an Enhanced Packet Block.
func (f *file) enhanced(body []byte) error {
	p := &f.pcapng
	if len(body) < 20 {
		return malformed("damaged at byte %d: a packet block of %d bytes", f.in.offset(), len(body)+12)
	}
	i, err := f.iface(p.u32(body))
	if err != nil {
		return err
	}
	ticks := uint64(p.u32(body[4:]))<<32 | uint64(p.u32(body[8:]))
	rest, err := f.fill(i, ticks, body[20:], p.u32(body[12:]), p.u32(body[16:]))
	if err == nil && len(rest) > 0 {
		p.options(rest, func(code uint16, v []byte) {
			if code == 4 && len(v) >= 8 { // epb_dropcount
				i.packetDrops += p.u64(v)
			}
		})
	}
	return err
}

// obsolete reads a Packet Block.
func (f *file) obsolete(body []byte) error {
	p := &f.pcapng
	if len(body) < 20 {
		return malformed("damaged at byte %d: a packet block of %d bytes", f.in.offset(), len(body)+12)
	}
	i, err := f.iface(uint32(p.u16(body)))
	if err != nil {
		return err
	}
	if drops := p.u16(body[2:]); drops != 0xffff { // which means "not known"
		i.packetDrops += uint64(drops)
	}
	ticks := uint64(p.u32(body[4:]))<<32 | uint64(p.u32(body[8:]))
	_, err = f.fill(i, ticks, body[20:], p.u32(body[12:]), p.u32(body[16:]))
	return err
}

// simple reads a Simple Packet Block. It has no time: that of the packet before
// it is the best guess.
func (f *file) simple(body []byte) error {
	p := &f.pcapng
	i, err := f.iface(0)
	if err != nil {
		return err
	}
	if len(body) < 4 {
		return malformed("damaged at byte %d: a packet block of %d bytes", f.in.offset(), len(body)+12)
	}
	wire := p.u32(body)
	captured := min(wire, uint32(len(body)-4))
	if i.snapLen > 0 {
		captured = min(captured, i.snapLen)
	}
	at := p.last
	_, err = f.fill(i, 0, body[4:], captured, wire)
	f.pkt.time, p.last = at, at
	return err
}

// iface returns an interface of the section.
func (f *file) iface(n uint32) (*iface, error) {
	p := &f.pcapng
	if uint64(n) >= uint64(len(p.ifaces)) {
		return nil, malformed("damaged at byte %d: a packet of interface %d, of %d that are described", f.in.offset(), n, len(p.ifaces))
	}
	return &p.ifaces[n], nil
}

// fill sets f.pkt and returns what follows the packet's bytes in b.
func (f *file) fill(i *iface, ticks uint64, b []byte, captured, wire uint32) ([]byte, error) {
	if uint64(captured) > uint64(len(b)) {
		return nil, malformed("damaged at byte %d: a packet of %d bytes in a block with room for %d", f.in.offset(), captured, len(b))
	}
	p := &f.pcapng
	if i.link.kind != linkUnknown {
		p.anyKnown = true
	} else if !p.anyUnknown {
		p.anyUnknown, p.unknownLink = true, i.link.number
	}
	p.last = i.clock.time(ticks)
	f.pkt.time = p.last
	f.pkt.link = i.link
	f.pkt.data = b[:captured]
	f.pkt.wire = max(int(wire), int(captured))
	return b[min(len(b), int(captured+3)&^3):], nil
}

// A clock turns the time stamps of an interface into times. The resolution is a
// byte of the file and may be anything: what does not fit a Time is moved to the
// nearest that does.
type clock struct {
	mul    uint64 // nanoseconds per tick, or 0
	div    uint64 // ticks per nanosecond, or 0
	shift  uint   // if both are 0: ticks are seconds / 2^shift
	offset Time
}

// newClock returns the clock for a value of if_tsresol: a negative power of 10,
// or of 2 if its highest bit is set.
func newClock(resolution uint8) clock {
	n := uint(resolution & 0x7f)
	switch {
	case resolution&0x80 != 0:
		return clock{shift: n}
	case n <= 9:
		return clock{mul: pow10(9 - n)}
	}
	return clock{div: pow10(min(n-9, 19))} // 10^19 ticks are a day at the very most
}

func pow10(n uint) uint64 {
	p := uint64(1)
	for range n {
		p *= 10
	}
	return p
}

// time returns the time of a time stamp. One with its highest bit set is taken
// for negative, which some writers produce: what counts is the time between
// packets.
func (c *clock) time(ticks uint64) Time {
	negative := int64(ticks) < 0
	if negative {
		ticks = -ticks
	}
	var ns uint64
	switch {
	case c.mul != 0:
		hi, lo := bits.Mul64(ticks, c.mul)
		if hi != 0 {
			lo = math.MaxUint64
		}
		ns = lo
	case c.div != 0:
		ns = ticks / c.div
	default:
		hi, lo := bits.Mul64(ticks, 1e9)
		switch {
		case c.shift >= 64:
			ns = hi >> (c.shift - 64)
		case hi>>c.shift != 0:
			ns = math.MaxUint64
		default:
			ns = hi<<(64-c.shift) | lo>>c.shift
		}
	}
	t := Time(min(ns, math.MaxInt64))
	if negative {
		t = -t
	}
	sum := t + c.offset
	switch {
	case t > 0 && c.offset > 0 && sum < 0:
		return math.MaxInt64
	case t < 0 && c.offset < 0 && sum > 0:
		return math.MinInt64
	}
	return sum
}

// seconds returns s seconds as a Time.
func seconds(s int64) Time {
	const most = math.MaxInt64 / 1_000_000_000
	return Time(min(max(s, -most), most)) * 1e9
}
