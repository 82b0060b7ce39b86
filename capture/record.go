package capture

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// A Recording writes packets to a pcapng file, or to a ring of them of which the
// oldest is overwritten.
//
// All files are created and opened at once: a process that gives up its
// privileges afterwards needs none to go on. The packets have Linux cooked
// headers (version 2), which tell the interface and the direction.
type Recording struct {
	slots []slot
	at    int   // the slot that is being written
	limit int64 // of a file of a ring; 0: none
	buf   *bufio.Writer
	wrote int64 // to the file, including what is buffered
	ids   map[string]uint32
	names []string // by id
	count []uint64 // packets by id
	head  [28 + cookedLen]byte
	tail  [8]byte
	err   error
}

type slot struct {
	name  string
	file  *os.File
	fresh bool // it was not there before
}

const (
	cookedLen   = 20 // a LINKTYPE_LINUX_SLL2 header
	linkSLL2Num = 276
	// userAppl is what a Recording says that it was written by.
	userAppl = "whyreset"
	// MaxRing bounds the files that a ring keeps open.
	MaxRing = 512
)

// CreateRecording creates name or, if files is not 0, name.0001 and so on up to
// that number, each of at most size bytes plus a packet. own, if it is not nil, is
// called with each file that was not there before, to give it to its owner.
func CreateRecording(name string, files int, size int64, own func(*os.File) error) (_ *Recording, err error) {
	r := &Recording{limit: size, buf: bufio.NewWriterSize(io.Discard, 256<<10)}
	defer func() {
		if err != nil {
			r.Discard()
		}
	}()
	names := []string{name}
	if files > MaxRing {
		return nil, fmt.Errorf("a ring of %d files: %d is the most", files, MaxRing)
	}
	if files > 0 {
		names = names[:0]
		for i := range files {
			names = append(names, fmt.Sprintf("%s.%04d", name, i+1))
		}
	}
	for _, name := range names {
		s := slot{name: name}
		if err := s.create(own); err != nil {
			return nil, &RecordError{name, withoutPath(err)}
		}
		r.slots = append(r.slots, s)
	}
	// Each is a capture from now on, if an empty one.
	for i := len(r.slots) - 1; i >= 0; i-- {
		r.at = i
		r.begin()
		if err := r.Flush(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Discard closes the files and removes those that were not there before: nothing
// was captured after all.
func (r *Recording) Discard() {
	for _, s := range r.slots {
		s.file.Close()
		if s.fresh {
			os.Remove(s.name)
		}
	}
}

// create creates or empties the file. Captures hold what others must not read.
func (s *slot) create(own func(*os.File) error) (err error) {
	s.file, err = os.OpenFile(s.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		// A pipe that nobody reads would block for ever.
		if info, err := os.Stat(s.name); err == nil && info.Mode()&fs.ModeNamedPipe != 0 {
			return &fs.PathError{Op: "write", Path: s.name, Err: errors.New("is a pipe, not a file")}
		}
		s.file, err = os.OpenFile(s.name, os.O_WRONLY|os.O_TRUNC, 0)
		return err
	}
	s.fresh = err == nil
	if s.fresh && own != nil {
		if err := own(s.file); err != nil {
			s.file.Close()
			os.Remove(s.name)
			return err
		}
	}
	return err
}

func withoutPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// begin starts a section in the current file.
func (r *Recording) begin() {
	r.buf.Reset(r.slots[r.at].file)
	r.wrote = 0
	r.ids, r.names, r.count = map[string]uint32{}, nil, nil
	var body [16]byte
	binary.LittleEndian.PutUint32(body[0:], 0x1a2b3c4d)
	binary.LittleEndian.PutUint16(body[4:], 1)
	binary.LittleEndian.PutUint64(body[8:], 1<<64-1) // the section's length is not known
	r.block(blockSection, body[:], option(4, userAppl))
}

// block writes a block of several parts, each of a multiple of four bytes.
func (r *Recording) block(typ uint32, parts ...[]byte) {
	n := 12
	for _, p := range parts {
		n += len(p)
	}
	var word [8]byte
	binary.LittleEndian.PutUint32(word[0:], typ)
	binary.LittleEndian.PutUint32(word[4:], uint32(n))
	r.write(word[:])
	for _, p := range parts {
		r.write(p)
	}
	r.write(word[4:])
}

func (r *Recording) write(b []byte) {
	if r.err != nil {
		return
	}
	_, err := r.buf.Write(b)
	r.wrote += int64(len(b))
	r.fail(err)
}

func (r *Recording) fail(err error) {
	if err != nil && r.err == nil {
		r.err = &RecordError{r.slots[r.at].name, withoutPath(err)}
	}
}

// option returns an option of a block.
func option[T string | []byte](code uint16, value T) []byte {
	b := binary.LittleEndian.AppendUint16(nil, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	return append(b, make([]byte, -len(b)&3)...)
}

// A cooked packet is one as the kernel gives it to a SOCK_DGRAM socket.
type cooked struct {
	time     Time
	iface    string
	protocol uint16
	index    uint32
	hardware uint16
	kind     uint8 // PACKET_HOST and so on
	addrLen  uint8
	addr     [8]byte
	data     []byte // from the network header on
	wire     int
}

// packet writes one.
func (r *Recording) packet(p *cooked) error {
	if r.limit > 0 && r.wrote > r.limit {
		r.next(p)
	}
	id, ok := r.ids[p.iface]
	if !ok {
		id = r.describe(p.iface)
	}
	r.count[id]++
	n := len(p.data) + cookedLen
	pad := -n & 3
	total := uint32(32 + n + pad)
	h := r.head[:]
	binary.LittleEndian.PutUint32(h[0:], blockEnhanced)
	binary.LittleEndian.PutUint32(h[4:], total)
	binary.LittleEndian.PutUint32(h[8:], id)
	binary.LittleEndian.PutUint32(h[12:], uint32(uint64(p.time)>>32))
	binary.LittleEndian.PutUint32(h[16:], uint32(p.time))
	binary.LittleEndian.PutUint32(h[20:], uint32(n))
	binary.LittleEndian.PutUint32(h[24:], uint32(p.wire+cookedLen))
	c := h[28:]
	binary.BigEndian.PutUint16(c[0:], p.protocol)
	binary.BigEndian.PutUint32(c[4:], p.index)
	binary.BigEndian.PutUint16(c[8:], p.hardware)
	c[10], c[11] = p.kind, p.addrLen
	copy(c[12:20], p.addr[:])
	r.write(h)
	r.write(p.data)
	clear(r.tail[:])
	binary.LittleEndian.PutUint32(r.tail[pad:], total)
	r.write(r.tail[:pad+4])
	return r.err
}

// describe writes the description of an interface and returns its number.
func (r *Recording) describe(name string) uint32 {
	var body [8]byte
	binary.LittleEndian.PutUint16(body[0:], linkSLL2Num)
	r.block(blockInterface, body[:], option(2, name), option(9, []byte{9}), make([]byte, 4)) // if_name, if_tsresol: ns
	id := uint32(len(r.names))
	r.ids[name] = id
	r.names = append(r.names, name)
	r.count = append(r.count, 0)
	return id
}

// next goes on to the next file of the ring. What was lost is told at the end of
// the last.
func (r *Recording) next(p *cooked) {
	r.end(p.time, 0)
	r.flush()
	if r.err != nil {
		return
	}
	r.at = (r.at + 1) % len(r.slots)
	f := r.slots[r.at].file
	_, err := f.Seek(0, io.SeekStart)
	r.fail(errors.Join(err, f.Truncate(0)))
	r.begin()
}

// end writes the counts of the interfaces: until when packets were captured, how
// many there are, and how many were lost.
func (r *Recording) end(at Time, missed uint64) {
	if len(r.names) == 0 {
		r.describe("any")
	}
	for id := range r.names {
		var body [12]byte
		binary.LittleEndian.PutUint32(body[0:], uint32(id))
		binary.LittleEndian.PutUint32(body[4:], uint32(uint64(at)>>32))
		binary.LittleEndian.PutUint32(body[8:], uint32(at))
		number := func(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
		r.block(blockStatistics, body[:], option(3, body[4:]), option(7, number(missed)), option(8, number(r.count[id])), make([]byte, 4))
		missed = 0 // the kernel does not tell which interface's they were
	}
}

func (r *Recording) flush() {
	if r.err == nil {
		r.fail(r.buf.Flush())
	}
}

// Flush writes out what is buffered.
func (r *Recording) Flush() error {
	r.flush()
	return r.err
}

// Close ends the recording: packets were captured until at, and missed ones were
// lost.
func (r *Recording) Close(at Time, missed uint64) error {
	r.end(at, missed)
	r.flush()
	for _, s := range r.slots {
		if err := s.file.Close(); err != nil && r.err == nil {
			r.err = &RecordError{s.name, withoutPath(err)}
		}
	}
	return r.err
}
