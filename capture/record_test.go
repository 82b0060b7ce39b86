package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// cookedRequest is request at a time, as a socket yields it.
func cookedRequest(at Time, iface string, text string) *cooked {
	ip := ip4(ipTCP, tcpHeader(PSH|ACK, timestamps, text))
	return &cooked{time: at, iface: iface, protocol: etherIPv4, index: 3, hardware: 1, kind: packetOutgoing, addrLen: 6, data: ip, wire: len(ip)}
}

// TestRecording reads back what was written: packets of every length and of
// several interfaces, what was lost, and when it ended.
func TestRecording(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.pcapng")
	r, err := CreateRecording(name, 0, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	const began = Time(1_700_000_000_123_456_789)
	var want []string
	for i := range 100 {
		text := string(bytes.Repeat([]byte("x"), i))
		want = append(want, text)
		if err := r.packet(cookedRequest(began+Time(i), fmt.Sprint("eth", i%3), text)); err != nil {
			t.Fatal(err)
		}
	}
	p := cookedRequest(began+100, "eth0", "cut off")
	p.data = p.data[:len(p.data)-3]
	if err := r.packet(p); err != nil {
		t.Fatal(err)
	}
	want = append(want, "cut ")
	if err := r.Close(began+5e9, 7); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	src, err := OpenFiles([]string{name}, nil, Filter{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	got, err := readAll(t, src)
	if err != io.EOF || len(got) != len(want) {
		t.Fatalf("%d segments, %v", len(got), err)
	}
	for i, s := range got {
		if string(s.Payload) != want[i] || s.Time != began+Time(i) || s.Frame != uint64(i)+1 {
			t.Errorf("%v: %q, want %q", &s, s.Payload, want[i])
		}
	}
	if last := got[100]; last.Len != 7 {
		t.Errorf("the cut one has %d bytes", last.Len)
	}
	if st := src.Stats(); st.End != began+5e9 || st.Missed != 7 {
		t.Errorf("%+v", st)
	}
}

// TestCaptureEnd holds that a file from which packets were taken out says nothing
// of when the capture ended.
func TestCaptureEnd(t *testing.T) {
	for packets := range 4 {
		w := newPcapng(binary.BigEndian)
		w.iface(1, 0, w.opt(9, 9))
		w.iface(1, 0)
		for i := range packets {
			w.enhanced(0, uint64(i+1)*1e9, frameOf(1, "x"), 0)
		}
		end := cat(w.u32(9_000_000_000>>32), w.u32(9_000_000_000&0xffffffff))
		w.block(blockStatistics, w.u32(0), w.u64(0), w.opt(3, end...), w.opt(8, w.u64(2)...))
		w.block(blockStatistics, w.u32(1), w.u64(0), w.opt(8, w.u64(0)...))
		src, err := OpenFiles([]string{"-"}, bytes.NewReader(w.Bytes()), Filter{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readAll(t, src); err != io.EOF {
			t.Fatal(err)
		}
		want := Time(0)
		if packets == 2 {
			want = 9e9
		}
		if got := src.Stats().End; got != want {
			t.Errorf("%d packets: %d, want %d", packets, got, want)
		}
	}
}

// TestRecordingRing goes round: each file can be read, and the last packets are
// there.
func TestRecordingRing(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x")
	r, err := CreateRecording(name, 3, 5000, nil)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{name + ".0001", name + ".0002", name + ".0003"}
	read := func() []Segment {
		src, err := OpenFiles(names, nil, Filter{})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		all, err := readAll(t, src)
		if err != io.EOF {
			t.Fatal(err)
		}
		return all
	}
	if n := len(read()); n != 0 {
		t.Errorf("%d segments in empty files", n)
	}
	for i := range 1000 {
		if err := r.packet(cookedRequest(Time(i+1)*1e9, "eth0", "hello")); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(1001e9, 0); err != nil {
		t.Fatal(err)
	}
	all := read()
	if len(all) < 60 || len(all) > 120 || all[len(all)-1].Time != 1000e9 {
		t.Errorf("%d segments", len(all))
	}
	for i := range all {
		if want := Time(1000-len(all)+i+1) * 1e9; all[i].Time != want {
			t.Fatalf("segment %d is from %v, want %v", i, all[i].Time, want)
		}
	}
}

// TestRecordingFails holds that what cannot be created leaves nothing behind.
func TestRecordingFails(t *testing.T) {
	dir := t.TempDir()
	own := func(*os.File) error { return fs.ErrPermission }
	var failed *RecordError
	if _, err := CreateRecording(filepath.Join(dir, "no", "x"), 2, 1, nil); !errors.As(err, &failed) {
		t.Error(err)
	}
	if _, err := CreateRecording(filepath.Join(dir, "x"), 0, 0, own); !errors.As(err, &failed) || !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "y.0002"), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateRecording(filepath.Join(dir, "y"), 3, 1, nil); !errors.As(err, &failed) {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

// TestTaps follows packets over interfaces.
func TestTaps(t *testing.T) {
	seg := func(at int, id uint16) *Segment {
		return &Segment{Time: Time(at) * 1e6, Src: Endpoint{Port: 1}, Dst: Endpoint{Port: 2}, Seq: 7, Flags: RST, IPID: id}
	}
	k := newTaps()
	for i, c := range []struct {
		at    int // ms
		id    uint16
		tap   uint64
		again bool
	}{
		{0, 0, 1, false}, {0, 0, 2, true}, {0, 0, 3, true}, // over three interfaces
		{1, 0, 1, false}, {1, 0, 1, false}, {1, 0, 2, true}, {1, 0, 2, true}, // three resets that are alike
		{100, 0, 2, true}, {200, 0, 2, false}, // late, and too late
		{200, 5, 2, false}, {201, 5, 1, true}, {202, 6, 1, false}, // sent again is another packet
	} {
		if got := k.again(seg(c.at, c.id), c.tap); got != c.again {
			t.Errorf("sighting %d: %v", i, got)
		}
	}
	s := seg(0, 9)
	if n := testing.AllocsPerRun(100, func() { k.again(s, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestRecordingAllocatesNothing holds that for the steady path.
func TestRecordingAllocatesNothing(t *testing.T) {
	r, err := CreateRecording(os.DevNull, 0, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := cookedRequest(1, "eth0", "hello")
	if n := testing.AllocsPerRun(1000, func() { r.packet(p) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
