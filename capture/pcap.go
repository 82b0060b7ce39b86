package capture

import (
	"encoding/binary"
	"math/bits"
)

// A pcapHeader is what is to be known of a pcap file to read its packets
// (draft-ietf-opsawg-pcap).
type pcapHeader struct {
	big     bool
	unit    Time // of the fraction of a second in time stamps
	record  int  // length of a packet's header
	swapped swappedLengths
	link    link
}

// swappedLengths says that a packet's two length fields are the other way round,
// which they were until pcap 2.3.
type swappedLengths uint8

const (
	inOrder swappedLengths = iota
	alwaysSwapped
	perhapsSwapped // version 2.3 did either
)

const (
	pcapHeaderLen = 24
	// likelyPacket is what libpcap captures of a packet at most: a longer one at
	// the end of a file is damage rather than a file that was cut off.
	likelyPacket = 256 << 10
)

// parseMagic reports whether a pcap file begins with the magic number m.
func (h *pcapHeader) parseMagic(m []byte) bool {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		h.big = order == binary.BigEndian
		h.unit = 1000
		h.record = 16
		switch order.Uint32(m) {
		case 0xa1b2c3d4:
			return true
		case 0xa1b23c4d: // nanoseconds
			h.unit = 1
			return true
		case 0xa1b2cd34: // Kuznetzov's: an interface, a protocol and a direction in every packet's header
			h.record = 24
			return true
		}
	}
	return false
}

// readPcapHeader reads the file's header. The snap length in it is not looked
// at: many writers leave it 0 or at something less than they write.
func (f *file) readPcapHeader() error {
	b, err := f.in.peek(pcapHeaderLen)
	if err != nil {
		return cut(err, "the file's header", len(b), pcapHeaderLen)
	}
	h := &f.pcap
	order := binary.ByteOrder(binary.LittleEndian)
	if h.big {
		order = binary.BigEndian
	}
	major, minor := order.Uint16(b[4:]), order.Uint16(b[6:])
	switch {
	case major == 2 && (minor < 3 || minor == 543): // 543 is DG/UX
		h.swapped = alwaysSwapped
	case major == 2 && minor == 3:
		h.swapped = perhapsSwapped
	}
	// The upper bits say whether frames end in a checksum. IP lengths tell that too.
	h.link = linkFor(order.Uint32(b[20:]) & 0x03ffffff)
	h.link.big = h.big
	if h.link.kind == linkUnknown {
		return unsupportedLink(h.link.number)
	}
	f.in.r += pcapHeaderLen
	return nil
}

// readPcap reads the next packet of a pcap file.
func (f *file) readPcap() error {
	in, h := f.in, &f.pcap
	b, err := in.peek(h.record)
	if err != nil {
		if len(b) == 0 {
			return err // where a file may end
		}
		return cut(err, "the packet's header", len(b), h.record)
	}
	start := f.beginning(b)
	sec := binary.LittleEndian.Uint32(start)
	frac := binary.LittleEndian.Uint32(start[4:])
	captured := binary.LittleEndian.Uint32(start[8:])
	wire := binary.LittleEndian.Uint32(start[12:])
	if h.big {
		sec, frac = bits.ReverseBytes32(sec), bits.ReverseBytes32(frac)
		captured, wire = bits.ReverseBytes32(captured), bits.ReverseBytes32(wire)
	}
	if h.swapped == alwaysSwapped || h.swapped == perhapsSwapped && captured > wire {
		captured, wire = wire, captured
	}
	if captured > maxPacket {
		return malformed("damaged at byte %d: a packet of %d bytes", in.offset(), captured)
	}
	n := h.record + int(captured)
	if b, err = in.peek(n); err != nil {
		if captured > likelyPacket {
			return malformed("damaged at byte %d: a packet of %d bytes, where %d are left", in.offset(), captured, len(b)-h.record)
		}
		return cut(err, "the packet", max(0, len(b)-h.record), int(captured))
	}
	in.r += n
	if frac >= 2e6 && frac < 1e9 {
		// Not microseconds, whatever the header says: there are writers that get
		// this wrong. A little above a second is somebody's sum, and stays.
		h.unit = 1
	}
	f.pkt.time = Time(sec)*1e9 + Time(frac)*h.unit
	f.pkt.link = h.link
	f.pkt.data, f.pkt.whole = b[h.record:], nil
	if n > len(start) && len(start) > h.record {
		f.pkt.data, f.pkt.whole = start[h.record:], f.pkt.data
	}
	f.large = n > largePacket
	if in.all && !f.large {
		f.warm(in.buf[in.r:])
	}
	f.pkt.wire = max(int(wire), int(captured))
	return nil
}
