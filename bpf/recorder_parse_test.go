//go:build linux

package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"whyreset/capture"
)

// The parser in C is held against the decoder in Go: the same frames through
// BPF_PROG_TEST_RUN, with every segment sent up, and through a capture file.

// A parsed frame is what a parser made of one.
type parsed struct {
	what    string // "TCP", "other", "fragment" or "bad"
	segment capture.Segment
}

// mostRun is how long a frame may be for BPF_PROG_TEST_RUN: it must fit into a page
// with room before and behind it (bpf_test_init). The rest of longer ones is cut off.
const mostRun = 3400

// leastRun is a whole Ethernet header, and one byte.
const leastRun = 15

// refused is what becomes of a frame that newer kernels do not run a program on: one
// whose IP header is cut off.
const refused = "not run: half an IP header"

func halfIP(f []byte) bool {
	kind := binary.BigEndian.Uint16(f[12:])
	return kind == 0x0800 && len(f) < 14+20 || kind == 0x86dd && len(f) < 14+40
}

// kernelParser is one program of the recorder that sends up all.
type kernelParser struct {
	recorder *Recorder
	program  *ebpf.Program
}

// kernelParsers returns a parser for each kind of program, by name.
func kernelParsers(t testing.TB) map[string]*kernelParser {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must run this test as root")
		}
		t.Skip("SKIPPED: loading programs needs root")
	}
	all := map[string]*kernelParser{}
	for _, hook := range []Hook{TCX, SocketFilter} {
		r, err := newRecorder(&RecorderConfig{everything: true, Hook: hook})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		loaded := &taps{} // and attached nowhere
		if err := loaded.load(&r.maps, &r.settings); err != nil {
			t.Fatal(err)
		}
		r.taps = append(r.taps, loaded)
		p := &kernelParser{r, loaded.programs.In}
		if hook == SocketFilter {
			p.program = loaded.programs.Socket
		}
		all[hook.String()] = p
	}
	return all
}

// parse runs the program on a frame.
func (p *kernelParser) parse(frame []byte) (parsed, error) {
	before := p.recorder.stats
	_, err := p.program.Run(&ebpf.RunOptions{Data: frame[:min(len(frame), mostRun)]})
	if errors.Is(err, unix.EINVAL) && halfIP(frame) {
		return parsed{what: refused}, nil
	}
	if err != nil {
		return parsed{}, fmt.Errorf("run the program on %x: %w", frame, err)
	}
	if err := p.recorder.count(); err != nil {
		return parsed{}, err
	}
	r, after := p.recorder, p.recorder.stats
	switch {
	case after.Segments == before.Segments+1:
	case after.Other == before.Other+1:
		return parsed{what: "other"}, nil
	case after.Fragments == before.Fragments+1:
		return parsed{what: "fragment"}, nil
	case after.Undecodable == before.Undecodable+1:
		return parsed{what: "bad"}, nil
	default:
		return parsed{}, fmt.Errorf("%x was not counted", frame)
	}
	r.reader.SetDeadline(time.Now())
	if err := r.reader.ReadInto(&r.raw); err != nil {
		return parsed{}, fmt.Errorf("%x did not come up: %w", frame, err)
	}
	r.replay.out = r.replay.out[:0]
	if err := r.take(r.raw.RawSample); err != nil {
		return parsed{}, err
	}
	s := r.replay.out[0]
	s.Payload = bytes.Clone(s.Payload)
	return parsed{"TCP", s}, nil
}

// decode returns what the decoder in Go makes of frames. Behind each it puts a
// segment of its own, at which the counters tell what became of the frame.
func decode(t testing.TB, frames [][]byte) []parsed {
	t.Helper()
	const markPort = 1
	mark := ether(0x0800, ip4(6, tcpHeader(16, nil)))
	binary.BigEndian.PutUint16(mark[14+20:], markPort)
	binary.BigEndian.PutUint32(mark[14+20+4:], 0xfeedbeef)
	var file bytes.Buffer
	head := make([]byte, 24)
	binary.LittleEndian.PutUint32(head, 0xa1b2c3d4)
	binary.LittleEndian.PutUint16(head[4:], 2)
	binary.LittleEndian.PutUint16(head[6:], 4)
	binary.LittleEndian.PutUint32(head[16:], 1<<18)
	binary.LittleEndian.PutUint32(head[20:], 1) // Ethernet
	file.Write(head)
	for _, f := range frames {
		for _, b := range [][]byte{f, mark} {
			record := make([]byte, 16)
			binary.LittleEndian.PutUint32(record, 1_700_000_000)
			binary.LittleEndian.PutUint32(record[8:], uint32(len(b)))
			binary.LittleEndian.PutUint32(record[12:], uint32(len(b)))
			file.Write(record)
			file.Write(b)
		}
	}
	src, err := capture.OpenFiles([]string{"-"}, &file, capture.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	all := make([]parsed, len(frames))
	var s capture.Segment
	var before capture.Stats
	for {
		err := src.Next(&s)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		i := int(s.Frame-1) / 2
		if s.Frame%2 == 1 {
			all[i] = parsed{"TCP", s}
			all[i].segment.Payload = bytes.Clone(s.Payload)
			continue
		}
		after := src.Stats()
		if all[i].what == "" {
			switch {
			case after.Other == before.Other+1:
				all[i].what = "other"
			case after.Fragments == before.Fragments+1:
				all[i].what = "fragment"
			case after.Undecodable == before.Undecodable+1:
				all[i].what = "bad"
			default:
				t.Fatalf("frame %d was not counted: %x", i, frames[i])
			}
		}
		before = after
	}
	if n := len(frames); n > 0 && all[n-1].what == "" {
		t.Fatalf("the decoder ended before frame %d", n)
	}
	return all
}

// A tally counts what frames came to.
type tally map[string]int

func (n tally) String() string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(n)) {
		all = append(all, fmt.Sprintf("%s %d", k, n[k]))
	}
	return strings.Join(all, ", ")
}

// mostTold bounds how many differences are told of.
const mostTold = 10

// compare holds both against each other on frames, and counts in n.
func compare(t testing.TB, p *kernelParser, frames [][]byte, n tally) {
	t.Helper()
	told := 0
	for i, want := range decode(t, frames) {
		f := frames[i]
		if len(f) < leastRun {
			n["not run: shorter than BPF_PROG_TEST_RUN takes"]++
			continue
		}
		got, err := p.parse(f)
		if err != nil {
			t.Fatal(err)
		}
		if got.what == refused {
			n[refused]++
			continue
		}
		if excuse := differs(f, &got, &want); excuse != "" {
			n[excuse]++
			continue
		}
		n[want.what]++
		if got.what == want.what && (got.what != "TCP" || same(&got.segment, &want.segment)) {
			continue
		}
		if told++; told <= mostTold {
			t.Errorf("%x\n kernel  %s\n decoder %s", f, &got, &want)
		}
	}
	if told > mostTold {
		t.Errorf("%d more differences", told-mostTold)
	}
}

func (p *parsed) String() string {
	if p.what != "TCP" {
		return p.what
	}
	s := &p.segment
	return fmt.Sprintf("TCP %s > %s %v seq %d ack %d ttl %d ts %v options %v window %d scale %d id %d len %d payload %d %x",
		s.Src, s.Dst, s.Flags, s.Seq, s.Ack, s.TTL, s.HasTS, s.HasOpts, s.Window, s.WScale, s.IPID, s.Len, len(s.Payload), s.Payload[:min(16, len(s.Payload))])
}

// same compares all that packets say, and the payload as far as the kernel sends it.
func same(k, d *capture.Segment) bool {
	return k.Src == d.Src && k.Dst == d.Dst && k.Seq == d.Seq && k.Ack == d.Ack && k.Flags == d.Flags && k.TTL == d.TTL &&
		k.HasTS == d.HasTS && k.HasOpts == d.HasOpts && k.Window == d.Window && k.WScale == d.WScale && k.IPID == d.IPID &&
		k.Len == d.Len && bytes.Equal(k.Payload, d.Payload[:min(len(d.Payload), capture.MaxKept)])
}

// differs says why the parser may come to something else than the decoder; "" if it
// may not. Each of the reasons is checked on the frame alone.
func differs(frame []byte, k, d *parsed) string {
	at, total, why := locate(frame)
	switch {
	case k.what == d.what && k.what != "TCP":
		return ""
	case why != "" && d.what == "TCP" && k.what != "TCP":
		return "TCP " + why + ": only the decoder looks there"
	case why != "" && k.what != "TCP" && d.what != "TCP":
		return "no TCP, named otherwise " + why
	case k.what != "TCP" && d.what != "TCP":
		return "no TCP, named otherwise"
	case len(frame) > mostRun && total == 0:
		return "too long to run, and without a length"
	case at > 0 && d.what == "TCP" && k.what == "bad" && len(frame) < at+20:
		return "TCP header cut off behind its window: the decoder does without the rest"
	case k.what == "TCP" && d.what == "TCP" && len(frame) < at+total:
		// No such packet reaches TCP: IP drops it (ip_rcv_core, ip6_rcv_core).
		x, y := k.segment, d.segment
		x.Payload, y.Payload = nil, nil
		if len(frame) < at+int(frame[at+12]>>4)*4 { // half an option may count
			x.HasTS, x.WScale = y.HasTS, y.WScale
		}
		if same(&x, &y) && len(k.segment.Payload) == 0 {
			return "TCP shorter than it says: the kernel sends no payload"
		}
	}
	return ""
}

// locate returns where the TCP header of a plain frame begins, and how long the
// packet says it is from there (0: it does not say). Of others it says why they are
// none that the recorder looks into.
func locate(f []byte) (at, total int, why string) {
	if len(f) < 14 {
		return 0, 0, "in half a frame"
	}
	kind, at, tags := binary.BigEndian.Uint16(f[12:]), 14, 0
	for slices.Contains([]uint16{0x8100, 0x88a8, 0x9100, 0x9200}, kind) && len(f) >= at+4 {
		kind = binary.BigEndian.Uint16(f[at+2:])
		at, tags = at+4, tags+1
	}
	if tags > 3 {
		return 0, 0, "behind more than three VLAN tags"
	}
	switch {
	case kind == 0x0800 && len(f) >= at+20 && f[at]>>4 == 4:
		header, n := int(f[at]&15)*4, int(binary.BigEndian.Uint16(f[at+2:]))
		if f[at+9] != 6 {
			return 0, 0, fmt.Sprintf("behind IP protocol %d", f[at+9])
		}
		if n == 0 {
			return at + header, 0, ""
		}
		return at + header, n - header, ""
	case kind == 0x86dd && len(f) >= at+40 && f[at]>>4 == 6:
		next, n := f[at+6], int(binary.BigEndian.Uint16(f[at+4:]))
		jumbo := n == 0
		at += 40
		for k := 0; next != 6; k++ {
			if !slices.Contains([]byte{0, 43, 44, 51, 60, 135, 139, 140}, next) {
				return 0, 0, fmt.Sprintf("behind IPv6 header %d", next)
			}
			if k == 7 {
				return 0, 0, "behind more than seven extension headers"
			}
			if len(f) < at+8 {
				return 0, 0, "behind half an extension header"
			}
			length := (int(f[at+1]) + 1) * 8
			switch next {
			case 44:
				length = 8
			case 51:
				length = (int(f[at+1]) + 2) * 4
			}
			next, at, n = f[at], at+length, n-length
		}
		if jumbo {
			return at, 0, ""
		}
		return at, max(n, 0), ""
	case kind == 0x0800 || kind == 0x86dd:
		return 0, 0, "in half an IP header, or of another version"
	}
	return 0, 0, "behind another link header"
}

// TestParser feeds both with made frames and what is left of them after damage.
func TestParser(t *testing.T) {
	for name, p := range kernelParsers(t) {
		t.Run(name, func(t *testing.T) {
			n := tally{}
			made := madeFrames()
			compare(t, p, made, n)
			if n["TCP"] < 300 || n["fragment"] < 5 || n["bad"] < 5 || n["other"] < 5 {
				t.Errorf("too little was compared: %v", n)
			}
			t.Logf("%d made frames: %v", len(made), n)
			n = tally{}
			random := rand.New(rand.NewPCG(5, 8)) // the same frames each time
			var hurt [][]byte
			for _, f := range made {
				for range 30 {
					hurt = append(hurt, damage(random, f))
				}
			}
			compare(t, p, hurt, n)
			t.Logf("%d damaged ones: %v", len(hurt), n)
		})
	}
}

// TestParserCorpus feeds both with every capture in testdata, and in the folder that
// the environment names.
func TestParserCorpus(t *testing.T) {
	folders := []string{"../testdata"}
	if more := os.Getenv("WHYRESET_CORPUS"); more != "" {
		folders = append(folders, filepath.SplitList(more)...)
	}
	parsers := kernelParsers(t)
	for _, folder := range folders {
		var frames [][]byte
		read := tally{}
		err := filepath.WalkDir(folder, func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			f, err := framesOf(name, read)
			if err != nil {
				read["files that are no captures, or not read here"]++
				return nil
			}
			read["captures"]++
			frames = append(frames, f...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if read["captures"] == 0 {
			t.Fatalf("%s holds no capture: %v", folder, read)
		}
		for name, p := range parsers {
			n := tally{}
			for part := range slices.Chunk(frames, 10_000) {
				compare(t, p, part, n)
			}
			t.Logf("%s, %s: %d frames: %v; %v", folder, name, len(frames), n, read)
		}
		runtime.GC() // a folder's frames may be all that fits
	}
}

func FuzzParser(f *testing.F) {
	parsers := kernelParsers(f)
	for i, frame := range madeFrames() {
		if i%20 == 0 {
			f.Add(frame)
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		for _, p := range parsers {
			compare(t, p, [][]byte{frame}, tally{})
		}
	})
}
