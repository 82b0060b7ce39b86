package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func read(t testing.TB, data []byte) ([]Segment, Stats, error) {
	t.Helper()
	return readFrom(t, bytes.NewReader(data))
}

func readFrom(t testing.TB, r io.Reader) ([]Segment, Stats, error) {
	t.Helper()
	src, err := OpenFiles([]string{"-"}, r, Filter{})
	if err != nil {
		return nil, Stats{}, err
	}
	defer src.Close()
	segs, err := readAll(t, src)
	return segs, src.Stats(), err
}

func compressed(t testing.TB, how string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch how {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "zstd":
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestPcapVariants(t *testing.T) {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		for _, magic := range []uint32{0xa1b2c3d4, 0xa1b23c4d, 0xa1b2cd34} {
			t.Run(fmt.Sprintf("%v %x", order, magic), func(t *testing.T) {
				w := newPcap(order, magic, 1|0x44000000) // the upper bits are about checksums
				w.packet(1700000000, 123456, frameOf(1, "one"), 0)
				w.packet(4000000000, 654321, frameOf(2, "two")[:60], 69)
				w.packet(1700000001, 0, ether(0x0806, make([]byte, 46)), 60)
				segs, st, err := read(t, w.Bytes())
				if err != io.EOF || len(segs) != 2 {
					t.Fatalf("%d segments, %v", len(segs), err)
				}
				unit := Time(1000)
				if magic == 0xa1b23c4d {
					unit = 1
				}
				if want := 1700000000*1e9 + 123456*unit; segs[0].Time != want || st.First != want {
					t.Errorf("time %d, first %d, want %d", segs[0].Time, st.First, want)
				}
				if want := 4000000000*1e9 + 654321*unit; segs[1].Time != want || st.Last != want {
					t.Errorf("time %d, last %d, want %d", segs[1].Time, st.Last, want)
				}
				if segs[1].Frame != 2 || segs[1].Len != 3 || segs[1].Payload != nil {
					t.Errorf("second: %v frame %d", &segs[1], segs[1].Frame)
				}
				if st.Packets != 3 || st.Segments != 2 || st.Other != 1 || st.Bytes != 69*2+60 || st.FileBytes != int64(w.Len()) {
					t.Errorf("stats %+v", st)
				}
			})
		}
	}
}

func TestPcapOldAndOdd(t *testing.T) {
	t.Run("lengths swapped in 2.2", func(t *testing.T) {
		b := pcapOf(1, frameOf(1, "payload"))
		b[6] = 2
		b[24+8], b[24+12] = 200, b[24+8]
		segs, _, err := read(t, b)
		if err != io.EOF || len(segs) != 1 || segs[0].Len != 7 {
			t.Errorf("%v %v", segs, err)
		}
	})
	t.Run("nanoseconds in a file of microseconds", func(t *testing.T) {
		w := newPcap(binary.LittleEndian, 0xa1b2c3d4, 1)
		w.packet(100, 466743000, frameOf(1, ""), 0)
		w.packet(100, 467465000, frameOf(2, ""), 0)
		segs, _, err := read(t, w.Bytes())
		if err != io.EOF || len(segs) != 2 || segs[1].Time-segs[0].Time != 722000 || segs[0].Time != 100*1e9+466743000 {
			t.Errorf("%v %v", segs, err)
		}
	})
	t.Run("a little too many microseconds", func(t *testing.T) {
		w := newPcap(binary.LittleEndian, 0xa1b2c3d4, 1)
		w.packet(100, 1500000, frameOf(1, ""), 0)
		segs, _, err := read(t, w.Bytes())
		if err != io.EOF || segs[0].Time != 101.5e9 {
			t.Errorf("%v %v", segs, err)
		}
	})
}

func TestPcapng(t *testing.T) {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			w := newPcapng(order)
			w.iface(1, 0)
			w.iface(113, 0, w.opt(9, 9), w.opt(14, w.u64(1000)...), w.opt(0))
			w.block(10, []byte("secrets of any length"))
			w.block(0x0bad, nil)
			w.enhanced(0, 1700000000_000001, frameOf(1, "a"), 0)
			w.enhanced(1, 1700000000_000000002, cat(make([]byte, 14), be16(etherIPv4), ip4(6, request())), 0, w.opt(2, 1, 2, 3, 4), w.opt(4, w.u64(3)...))
			w.obsolete(0, 4, 1700000000_000003, frameOf(3, "c"))
			w.simple(frameOf(4, "d"), 67)
			w.block(blockStatistics, w.u32(0), w.u64(0), w.opt(5, w.u64(10)...), w.opt(7, w.u64(5)...))
			w.block(blockStatistics, w.u32(1), w.u64(0), w.opt(5, w.u64(2)...))
			w.block(blockStatistics, w.u32(7), w.u64(0), w.opt(5, w.u64(2)...)) // of no interface
			// A second section, in the other byte order, whose interface 0 is another.
			if order == binary.LittleEndian {
				w.section(binary.BigEndian)
			} else {
				w.section(binary.LittleEndian)
			}
			w.iface(101, 20+32, w.opt(9, 0x80|10))
			w.enhanced(0, 1700000001<<10|512, ip4(6, request()), 0)
			w.simple(ip4(6, request())[:52], 70)
			w.obsolete(0, 0xffff, 1700000002<<10, ip4(6, request()))

			segs, st, err := read(t, w.Bytes())
			if err != io.EOF {
				t.Fatal(err)
			}
			want := []struct {
				time Time
				len  int
			}{
				{1700000000_000001000, 1}, {1700001000_000000002, requestLen}, {1700000000_000003000, 1}, {1700000000_000003000, 1},
				{1700000001_500000000, requestLen}, {1700000001_500000000, requestLen}, {1700000002_000000000, requestLen},
			}
			if len(segs) != len(want) {
				t.Fatalf("%d segments", len(segs))
			}
			for i, s := range segs {
				if s.Time != want[i].time || s.Len != want[i].len || s.Frame != uint64(i+1) {
					t.Errorf("segment %d: time %d len %d frame %d", i, s.Time, s.Len, s.Frame)
				}
			}
			if segs[5].Payload != nil {
				t.Error("the simple packet is longer than its interface's snap length")
			}
			if st.Missed != 15+3 {
				t.Errorf("missed %d", st.Missed)
			}
		})
	}
}

func TestClock(t *testing.T) {
	for _, c := range []struct {
		resolution uint8
		offset     int64
		ticks      uint64
		want       Time
	}{
		{6, 0, 1, 1000},
		{0, 0, 5, 5e9},
		{9, 0, 5, 5},
		{12, 0, 5000, 5},
		{19, 0, 5e10, 5},
		{127, 0, math.MaxInt64, 0},
		{0x80, 0, 5, 5e9},
		{0x80 | 1, 0, 5, 2.5e9},
		{0x80 | 32, 0, 3 << 31, 1.5e9},
		{0x80 | 63, 0, 1 << 62, 5e8},
		{0x80 | 64, 0, 1 << 62, 25e7},
		{0xff, 0, math.MaxInt64, 0},
		{0, 0, math.MaxInt64, math.MaxInt64},
		{6, 10, 1, 10e9 + 1000},
		{6, -10, 1, -10e9 + 1000},
		{6, math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64},
		{6, math.MinInt64, 0, -math.MaxInt64 / 1_000_000_000 * 1_000_000_000},
		{6, 0, 1<<64 - 7, -7000}, // taken for negative
		{6, math.MinInt64, 1 << 63, math.MinInt64},
	} {
		k := newClock(c.resolution)
		k.offset = seconds(c.offset)
		if got := k.time(c.ticks); got != c.want {
			t.Errorf("resolution %#x, offset %d, %d ticks: %d, want %d", c.resolution, c.offset, c.ticks, got, c.want)
		}
	}
}

func TestCompressed(t *testing.T) {
	plain := pcapOf(1, frameOf(1, "one"), frameOf(2, "two"))
	w := newPcapng(binary.LittleEndian)
	w.iface(1, 0)
	w.enhanced(0, 1, frameOf(1, "one"), 0)
	w.enhanced(0, 2, frameOf(2, "two"), 0)
	gz := compressed(t, "gzip", plain)
	for name, data := range map[string][]byte{
		"gzip":            gz,
		"zstd":            compressed(t, "zstd", plain),
		"gzip of pcapng":  compressed(t, "gzip", w.Bytes()),
		"zstd of gzip":    compressed(t, "zstd", gz),
		"skippable frame": cat([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"), compressed(t, "zstd", plain)),
		"two members":     cat(compressed(t, "gzip", plain[:50]), compressed(t, "gzip", plain[50:])),
	} {
		t.Run(name, func(t *testing.T) {
			segs, st, err := read(t, data)
			if err != io.EOF || len(segs) != 2 || string(segs[1].Payload) != "two" {
				t.Errorf("%v %v", segs, err)
			}
			if st.FileBytes != int64(len(data)) {
				t.Errorf("%d bytes read of %d", st.FileBytes, len(data))
			}
		})
	}
}

// A capture that stops anywhere yields every packet before that, and an error
// that says so unless it stops between two packets.
func TestCutAnywhere(t *testing.T) {
	frames := [][]byte{frameOf(1, "one"), frameOf(2, ""), frameOf(3, strings.Repeat("three", 100))}
	pcap := pcapOf(1, frames...)
	w := newPcapng(binary.LittleEndian)
	w.iface(1, 0)
	for i, f := range frames {
		w.enhanced(0, uint64(i), f, 0)
		w.block(99, []byte("something else"))
	}
	for name, data := range map[string][]byte{"pcap": pcap, "pcapng": w.Bytes()} {
		t.Run(name, func(t *testing.T) {
			whole := 0 // segments in what was read so far
			ends := 0
			for n := range len(data) + 1 {
				segs, _, err := read(t, data[:n])
				switch {
				case err == io.EOF:
					ends++
				case !errors.Is(err, ErrTruncated) || !errors.Is(err, io.ErrUnexpectedEOF):
					t.Fatalf("%d bytes: %v", n, err)
				case !strings.HasPrefix(err.Error(), "read capture standard input: "):
					t.Fatalf("%d bytes: %v", n, err)
				}
				if len(segs) < whole || len(segs) > whole+1 {
					t.Fatalf("%d bytes: %d segments after %d", n, len(segs), whole)
				}
				whole = len(segs)
			}
			if want := map[string]int{"pcap": 4, "pcapng": 8}[name]; whole != 3 || ends != want {
				t.Errorf("%d segments, %d places to end", whole, ends)
			}
		})
	}
	for _, how := range []string{"gzip", "zstd"} {
		data := compressed(t, how, pcap)
		for n := 1; n < len(data); n++ {
			if _, _, err := read(t, data[:n]); !errors.Is(err, ErrTruncated) {
				t.Errorf("%s, %d of %d bytes: %v", how, n, len(data), err)
			}
		}
	}
}

// However the bytes of a stream arrive, it reads the same.
func TestStreams(t *testing.T) {
	data := pcapOf(1, frameOf(1, "one"), frameOf(2, strings.Repeat("x", 2000)), frameOf(3, "three"))
	for name, r := range map[string]io.Reader{
		"one byte":       iotest.OneByteReader(bytes.NewReader(data)),
		"half":           iotest.HalfReader(bytes.NewReader(data)),
		"data and error": iotest.DataErrReader(bytes.NewReader(data)),
	} {
		segs, _, err := readFrom(t, r)
		if err != io.EOF || len(segs) != 3 || len(segs[1].Payload) != 2000 {
			t.Errorf("%s: %d segments, %v", name, len(segs), err)
		}
	}
	broken := io.MultiReader(bytes.NewReader(data[:len(data)-3]), iotest.ErrReader(errors.New("disk on fire")))
	segs, _, err := readFrom(t, broken)
	if len(segs) != 2 || err.Error() != "read capture standard input: packet 3: disk on fire" {
		t.Errorf("%d segments, %v", len(segs), err)
	}
}

// What a pipe has delivered is yielded before it delivers more.
func TestLivePipe(t *testing.T) {
	r, w := io.Pipe()
	data := pcapOf(1, frameOf(1, "one"), frameOf(2, "two"))
	first := 24 + 16 + len(frameOf(1, "one"))
	go w.Write(data[:first])
	src, err := OpenFiles([]string{"-"}, r, Filter{})
	if err != nil {
		t.Fatal(err)
	}
	var s Segment
	if err := src.Next(&s); err != nil || s.Seq != 1 {
		t.Fatal(s.Seq, err)
	}
	go func() { w.Write(data[first:]); w.Close() }()
	if err := src.Next(&s); err != nil || s.Seq != 2 {
		t.Fatal(s.Seq, err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	big := newPcap(binary.LittleEndian, 0xa1b2c3d4, 1)
	big.packet(1, 0, frameOf(1, ""), 0)
	big.Write([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\x7f\xff\xff\xff\x7f and so on"))
	ng := func(edit func(w *ngWriter)) string {
		w := newPcapng(binary.LittleEndian)
		w.iface(1, 0)
		w.enhanced(0, 1, frameOf(1, ""), 0)
		edit(w)
		return w.String()
	}
	// A frame with a window of 128 MiB and the five bytes that are in it.
	const longZstd = "\x28\xb5\x2f\xfd\x00\x88\x29\x00\x00hello"
	for _, c := range []struct {
		name, data string
		kind       error
		want       string // after "read capture FILE: "
	}{
		{"empty.pcap", "", ErrTruncated, "the file is empty"},
		{"short.pcap", "\xd4\xc3", ErrTruncated, "the file ends inside its header, after 2 bytes"},
		{"header.pcap", "\xd4\xc3\xb2\xa1\x02\x00", ErrTruncated, "the file is cut off: 6 of 24 bytes of the file's header are there"},
		{"text.txt", "12:00:01.5 IP 10.0.0.1.80 > 10.0.0.2.99: Flags [R]\n", ErrFormat, "text, not a capture; tcpdump writes a capture with -w FILE"},
		{"solaris", "snoop\x00\x00\x00\x00\x00\x00\x02", ErrFormat, "a snoop file; convert it with editcap -F pcapng FILE NEW"},
		{"a.xz", "\xfd7zXZ\x00\x00", ErrFormat, "a xz file; decompress it first: xz -dc FILE | whyreset -r -"},
		{"a.erf", "\x00\x01\x02\x03\x04", ErrFormat, "an Endace ERF file; convert it with editcap -F pcapng FILE NEW"},
		{"noise", "\x00\x01\x02\x03\x04", ErrFormat, "neither a pcap nor a pcapng file: it begins with 00010203"},
		{"usb.pcap", string(pcapOf(220)), ErrLinkType, "link type 220 (USB) is not supported"},
		{"odd.pcap", string(pcapOf(299)), ErrLinkType, "link type 299 is not supported"},
		{"corrupt.pcap", big.String(), ErrFormat, "packet 2: damaged at byte 106: a packet of 2147483647 bytes"},
		{"block.pcapng", ng(func(w *ngWriter) { w.Write([]byte("\x06\x00\x00\x00\x0b\x00\x00\x00____")) }), ErrFormat,
			"packet 2: damaged at byte 148: a block of type 0x6 and 11 bytes"},
		{"trailer.pcapng", ng(func(w *ngWriter) { w.block(99); w.Bytes()[w.Len()-4]++ }), ErrFormat,
			"packet 2: damaged at byte 148: a block of 12 bytes ends saying that it has 13"},
		{"iface.pcapng", ng(func(w *ngWriter) { w.enhanced(1, 1, nil, 0) }), ErrFormat,
			"packet 2: damaged at byte 148: a packet of interface 1, of 1 that are described"},
		{"inner.pcapng", ng(func(w *ngWriter) { w.block(blockEnhanced, w.u32(0), w.u64(0), w.u32(5), w.u32(5)) }), ErrFormat,
			"packet 2: damaged at byte 148: a packet of 5 bytes in a block with room for 0"},
		{"version.pcapng", ng(func(w *ngWriter) { w.block(blockSection, w.u32(0x1a2b3c4d), w.u32(2), w.u64(0)) }), ErrFormat,
			"packet 2: pcapng version 2.0 is not known"},
		{"bad.gz", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03 not deflate at all", ErrFormat, "the compressed file is damaged: flate: corrupt input before offset 5"},
		{"empty.gz", string(compressed(t, "gzip", nil)), ErrTruncated, "the file is empty"},
		{"text.gz", string(compressed(t, "gzip", []byte("some text"))), ErrFormat, "text, not a capture; tcpdump writes a capture with -w FILE"},
		{"long.zst", longZstd, ErrFormat, "its zstd window is larger than 32 MiB; decompress it first: zstd -dc --long=31 FILE | whyreset -r -"},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := filepath.Join(dir, c.name)
			if err := os.WriteFile(name, []byte(c.data), 0o666); err != nil {
				t.Fatal(err)
			}
			src, err := OpenFiles([]string{name}, nil, Filter{})
			if err == nil {
				defer src.Close()
				_, err = readAll(t, src)
				if again := src.Next(&Segment{}); again != err {
					t.Errorf("another Next returns %v", again)
				}
			}
			if !errors.Is(err, c.kind) {
				t.Errorf("%v is of another kind", err)
			}
			if want := "read capture " + name + ": " + c.want; err.Error() != want {
				t.Errorf("\n%v, want\n%v", err, want)
			}
		})
	}
	t.Run("directory", func(t *testing.T) {
		_, err := OpenFiles([]string{dir}, nil, Filter{})
		if err == nil || err.Error() != "read capture "+dir+": is a directory; name the files in it" {
			t.Error(err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		_, err := OpenFiles([]string{filepath.Join(dir, "none")}, nil, Filter{})
		if !errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), "none") != 1 {
			t.Error(err)
		}
	})
	t.Run("empty pipe", func(t *testing.T) {
		_, err := OpenFiles([]string{"-"}, strings.NewReader(""), Filter{})
		if !errors.Is(err, ErrTruncated) || err.Error() != "read capture standard input: nothing was written to it" {
			t.Error(err)
		}
	})
}

func TestUnknownLinkTypes(t *testing.T) {
	w := newPcapng(binary.LittleEndian)
	w.iface(220, 0)
	w.enhanced(0, 1, []byte("usb"), 0)
	_, st, err := read(t, w.Bytes())
	if !errors.Is(err, ErrLinkType) || !strings.Contains(err.Error(), "link type 220 (USB)") || st.Undecodable != 1 {
		t.Errorf("%v %+v", err, st)
	}
	w.iface(1, 0)
	w.enhanced(1, 1, frameOf(1, ""), 0)
	segs, st, err := read(t, w.Bytes())
	if err != io.EOF || len(segs) != 1 || segs[0].Frame != 2 || st.Undecodable != 1 {
		t.Errorf("%v %+v", err, st)
	}
	if want := "frame 1 of standard input: link type 220 (USB) is not supported"; st.FirstBad != want {
		t.Errorf("%q, want %q", st.FirstBad, want)
	}
}

// Wireshark numbers records that hold no packet, too.
func TestFrameNumbers(t *testing.T) {
	w := newPcapng(binary.LittleEndian)
	w.iface(1, 0)
	w.block(blockJournal, []byte("MESSAGE=hello"))
	w.enhanced(0, 1, frameOf(1, ""), 0)
	segs, st, err := read(t, w.Bytes())
	if err != io.EOF || len(segs) != 1 || segs[0].Frame != 2 || st.Packets != 1 {
		t.Errorf("%v %+v", err, st)
	}
}

func TestFiltered(t *testing.T) {
	data := pcapOf(1, frameOf(1, "one"))
	ports, _ := ParsePorts("443")
	src, err := OpenFiles([]string{"-"}, bytes.NewReader(data), Filter{Ports: ports})
	if err != nil {
		t.Fatal(err)
	}
	segs, err := readAll(t, src)
	if st := src.Stats(); err != io.EOF || len(segs) != 0 || st.Filtered != 1 || st.Segments != 0 {
		t.Errorf("%v %+v", err, st)
	}
}

// No length field makes the reader take memory that the input does not fill.
func TestBoundedMemory(t *testing.T) {
	huge := newPcap(binary.LittleEndian, 0xa1b2c3d4, 1)
	huge.Write([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\x00\x00\x00\xff\x00"))
	ng := newPcapng(binary.LittleEndian)
	ng.Write([]byte("\x06\x00\x00\x00\x00\x00\xff\x00"))
	skipped := newPcapng(binary.LittleEndian)
	skipped.Write([]byte("\x0a\x00\x00\x00\xf0\xff\xff\xff"))
	bomb := newPcapng(binary.LittleEndian)
	bomb.block(10, make([]byte, 32<<20))
	for name, data := range map[string][]byte{
		"pcap": huge.Bytes(), "pcapng": ng.Bytes(), "skipped": skipped.Bytes(),
		"bomb": compressed(t, "gzip", compressed(t, "gzip", bomb.Bytes())),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		read(t, data)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
			t.Errorf("%s: %d bytes allocated", name, n)
		}
	}
}

func TestReadAllocatesNothing(t *testing.T) {
	w := newPcapng(binary.LittleEndian)
	w.iface(1, 0)
	drops := w.opt(4, w.u64(0)...)
	for range 1000 {
		w.enhanced(0, 1, frameOf(1, "payload"), 0, drops)
	}
	frames := make([][]byte, 1000)
	for i := range frames {
		frames[i] = frameOf(1, "payload")
	}
	for name, data := range map[string][]byte{"pcapng": w.Bytes(), "pcap": pcapOf(1, frames...)} {
		src, err := OpenFiles([]string{"-"}, bytes.NewReader(data), Filter{Ports: []PortRange{{80, 80}}})
		if err != nil {
			t.Fatal(err)
		}
		var s Segment
		if n := testing.AllocsPerRun(900, func() {
			if err := src.Next(&s); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// Close unblocks Next, which waits for a pipe.
func TestClose(t *testing.T) {
	for _, name := range []string{"one", "merged"} {
		t.Run(name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			w.Write(pcapOf(1, frameOf(1, "one")))
			names := []string{"-"}
			if name == "merged" {
				file := filepath.Join(t.TempDir(), "a.pcap")
				os.WriteFile(file, pcapOf(1, frameOf(1, "one")), 0o666)
				names = []string{"-", file}
			}
			src, err := OpenFiles(names, r, Filter{})
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				time.Sleep(20 * time.Millisecond)
				src.Close()
			}()
			if segs, err := readAll(t, src); err != net.ErrClosed || len(segs) != 1 {
				t.Errorf("%d segments, %v", len(segs), err)
			}
			if err := src.Next(&Segment{}); err != net.ErrClosed {
				t.Error(err)
			}
			if _, err := r.Stat(); err != nil {
				t.Errorf("standard input was closed: %v", err)
			}
		})
	}
}

// TestCorpus reads every file below the folder that WHYRESET_CORPUS names. What
// they hold is other tests' business.
func TestCorpus(t *testing.T) {
	root := os.Getenv("WHYRESET_CORPUS")
	if root == "" {
		t.Skip("WHYRESET_CORPUS names no folder of captures")
	}
	err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		src, err := OpenFiles([]string{name}, nil, Filter{})
		if err == nil {
			defer src.Close()
			_, err = readAll(t, src)
		}
		if err != io.EOF && !strings.HasPrefix(err.Error(), "read capture "+name+": ") {
			t.Error(err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
