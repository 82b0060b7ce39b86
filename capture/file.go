package capture

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync/atomic"
)

// maxPacket bounds the packets and the blocks that are looked into.
const maxPacket = 16 << 20

// A packet is a frame as it was captured.
type packet struct {
	time Time
	link link
	data []byte // what was captured of it
	// whole is nil, or what was captured of it where data is only a copy of the
	// beginning: to touch a mapping is to have the kernel map sixteen pages.
	whole []byte
	wire  int // its length on the wire, at least len(data)
}

// A file reads one capture.
type file struct {
	name   string // as it was given
	index  int    // in Source.Files
	filter Filter
	zones  *Zones

	raw     io.Reader
	closer  io.Closer // nil if raw is not ours to close
	rawRead int64
	rawSize int64 // 0 if it is not known

	in     *input
	ng     bool // pcapng, else pcap
	pcap   pcapHeader
	pcapng pcapngSection

	warmth byte               // so that warm is not for nothing
	large  bool               // the packet before was larger than largePacket
	ahead  [beginningLen]byte // see beginning

	dec   decoder
	pkt   packet
	held  bool   // pkt has been read and not been decoded
	frame uint64 // number of pkt
	stats Stats
	err   error // what ended the file
	// closed is set by Close, possibly while Next runs in another goroutine.
	closed atomic.Bool
}

// open opens a capture without reading any of it.
func open(name string, index int, stdin io.Reader, filter Filter, zones *Zones) (*file, error) {
	f := &file{name: name, index: index, filter: filter, zones: zones}
	if name == "-" {
		if stdin == nil {
			return nil, readError(name, errors.New("there is none"))
		}
		f.raw = stdin
		if in, ok := stdin.(*os.File); ok {
			if r, err := newInterruptible(in); err == nil {
				f.raw, f.closer = r, r
			}
			f.rawSize = regularSize(in)
		}
		return f, nil
	}
	file, err := os.Open(name)
	if err != nil {
		var perr *fs.PathError
		if errors.As(err, &perr) {
			err = perr.Err // the name is said already
		}
		return nil, readError(name, err)
	}
	if st, err := file.Stat(); err == nil && st.IsDir() {
		file.Close()
		return nil, readError(name, errors.New("is a directory; name the files in it"))
	}
	f.raw, f.closer, f.rawSize = file, file, regularSize(file)
	return f, nil
}

func regularSize(f *os.File) int64 {
	if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
		return st.Size()
	}
	return 0
}

// Read reads the file as it is stored, and counts.
func (f *file) Read(b []byte) (int, error) {
	n, err := f.raw.Read(b)
	f.rawRead += int64(n)
	if err != nil && err != io.EOF {
		var perr *fs.PathError
		if errors.As(err, &perr) {
			err = perr.Err // readError names the file
		}
		err = &storedError{err}
	}
	return n, err
}

// start reads the header. Its errors name the file.
func (f *file) start(bufSize int) error {
	if f.in != nil {
		return f.startMapped()
	}
	br, err := decompress(f)
	if err == nil {
		err = f.header(br, bufSize)
	}
	if err != nil {
		f.err = readError(f.name, err)
	}
	return f.err
}

// startMapped reads the header of a file that useMap took.
func (f *file) startMapped() error {
	if !f.ng {
		if err := f.readPcapHeader(); err != nil {
			f.err = readError(f.name, err)
		}
	}
	return f.err
}

// useMap maps the file if it is large and begins as a capture does.
func (f *file) useMap() {
	file, ok := f.raw.(*os.File)
	if !ok || f.name == "-" {
		return
	}
	magic := make([]byte, 4)
	if _, err := file.ReadAt(magic, 0); err != nil {
		return
	}
	if f.ng = isPcapng(magic); !f.ng && !f.pcap.parseMagic(magic) {
		return
	}
	if data := f.mapped(file); data != nil {
		f.in = mappedInput(data)
		return
	}
	f.ng, f.pcap = false, pcapHeader{}
}

// Packets larger than largePacket come in rows: offloading makes them of bulk. Of
// each only the beginning is read, with a copy of beginningLen bytes, which costs
// a third of the page faults that a look at the mapping would (24 ms against 70
// for a gigabyte). What the tracker wants of the rest it finds in the mapping.
const (
	largePacket  = 16 << 10
	beginningLen = 512
)

// beginning returns the bytes from the current position on: b itself, or a copy
// of beginningLen bytes if a large packet is to be expected there.
func (f *file) beginning(b []byte) []byte {
	if !f.large || !f.in.all {
		return b
	}
	n, err := f.raw.(*os.File).ReadAt(f.ahead[:], f.in.offset())
	if err != nil || n < len(f.ahead) {
		return b // near the end
	}
	return f.ahead[:]
}

// warm looks at where the next packet's headers are, so that the processor
// fetches them from memory while this packet is being decoded.
func (f *file) warm(next []byte) {
	if len(next) > 128 {
		f.warmth += next[0] + next[64]
	}
}

// decode decodes the current packet into s.
func (f *file) decode(s *Segment) outcome {
	k := f.dec.decode(&f.pkt, s)
	if f.pkt.whole == nil {
		return k
	}
	head := f.pkt.data
	at := cap(head) - cap(s.Payload)
	if k != isTCP || len(s.Payload) == 0 || at <= 0 || at >= len(head) || &head[at] != &s.Payload[0] {
		// Its headers are longer than the copy, or it is not what it looks like.
		f.pkt.data = f.pkt.whole
		return f.dec.decode(&f.pkt, s)
	}
	s.Payload = f.pkt.whole[at:min(at+s.Len, len(f.pkt.whole))]
	return k
}

// Lasting implements [Source].
func (f *file) Lasting() bool { return f.in != nil && f.in.all }

func (f *file) header(br *bufio.Reader, bufSize int) error {
	f.in = newInput(br, bufSize)
	magic, err := br.Peek(4)
	switch {
	case len(magic) == 4 && isPcapng(magic):
		f.ng = true
		return nil // readPcapng expects the section header
	case len(magic) == 4 && f.pcap.parseMagic(magic):
		return f.readPcapHeader()
	case err != nil && err != io.EOF:
		return err
	}
	return notCapture(f.name, br)
}

// read reads the next packet into f.pkt. Its errors name the file and the
// packet; io.EOF is bare.
func (f *file) read() error {
	if f.err != nil {
		return f.err
	}
	if f.held {
		f.held = false
		return nil
	}
	var err error
	if f.ng {
		err = f.readPcapng()
	} else {
		err = f.readPcap()
	}
	if err == nil {
		f.frame++
		f.stats.Packets++
		f.stats.Bytes += uint64(f.pkt.wire)
		if t := f.pkt.time; t > f.stats.Last || f.stats.Packets == 1 {
			f.stats.Last = t
		}
		if t := f.pkt.time; t < f.stats.First || f.stats.Packets == 1 {
			f.stats.First = t
		}
		return nil
	}
	if f.closed.Load() {
		return net.ErrClosed
	}
	if err == io.EOF {
		err = f.endOfFile()
	}
	if err != io.EOF {
		err = readError(f.name, fmt.Errorf("packet %d: %w", f.frame+1, err))
	}
	f.err = err
	return err
}

// endOfFile returns io.EOF, unless the file held packets and not one of them
// could be looked into because of its link type.
func (f *file) endOfFile() error {
	if f.pcapng.anyUnknown && !f.pcapng.anyKnown {
		return unsupportedLink(f.pcapng.unknownLink)
	}
	return io.EOF
}

// cut describes a stream that ends inside something that is want bytes long, of
// which got were there. Other errors it returns as they are.
func cut(err error, what string, got, want int) error {
	if errors.Is(err, ErrFormat) || errors.Is(err, ErrTruncated) {
		return err // the compression's own words
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return truncated("the file is cut off: %d of %d bytes of %s are there", got, want, what)
	}
	return err
}

// Next implements [Source].
func (f *file) Next(s *Segment) error {
	for {
		if f.closed.Load() {
			return net.ErrClosed
		}
		if err := f.read(); err != nil {
			return err
		}
		switch f.decode(s) {
		case isTCP:
			s.setZone(f.pkt.link.zone)
			if !f.filter.Match(s) {
				f.stats.Filtered++
				continue
			}
			f.stats.Segments++
			s.Time = f.pkt.time
			s.Frame = f.frame
			s.File = f.index
			return nil
		case isOther:
			f.stats.Other++
		case isFragment:
			f.stats.Fragments++
		case isBad:
			f.stats.Undecodable++
			if f.stats.FirstBad == "" {
				why := f.dec.why
				if f.pkt.link.kind == linkUnknown {
					why = unsupportedLink(f.pkt.link.number).Error()
				}
				f.stats.FirstBad = fmt.Sprintf("frame %d of %s: %s", f.frame, displayName(f.name), why)
			}
		}
	}
}

// park puts the file back to its start and releases its buffers. It reports
// whether it could: a pipe cannot be read again.
func (f *file) park() bool {
	seeker, ok := f.raw.(io.Seeker)
	if !ok || f.rawSize == 0 || f.name == "-" {
		return false
	}
	if _, err := seeker.Seek(0, io.SeekStart); err != nil {
		return false
	}
	f.rawRead = 0
	f.ng, f.pcap, f.pcapng = false, pcapHeader{}, pcapngSection{}
	f.pkt.data = nil
	f.frame, f.stats = 0, Stats{}
	f.release()
	return true
}

// release lets go of the buffers.
func (f *file) release() { f.in = nil }

// Files implements [Source].
func (f *file) Files() []string { return []string{f.name} }

// Zones implements [Source].
func (f *file) Zones() *Zones { return f.zones }

// Stats implements [Source].
func (f *file) Stats() Stats {
	st := f.stats
	st.Missed = f.pcapng.missedPackets()
	if f.ng && f.err == io.EOF {
		st.End = f.pcapng.captureEnd(st.Packets)
	}
	st.FileBytes = f.rawRead
	if f.Lasting() {
		st.FileBytes = f.in.offset()
	}
	st.FileSize = f.rawSize
	return st
}

// Close implements [Source].
func (f *file) Close() error {
	if f.closed.Swap(true) || f.closer == nil {
		return nil
	}
	return f.closer.Close()
}
