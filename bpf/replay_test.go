//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"whyreset/capture"
	"whyreset/correlate"
)

// frame returns the Ethernet frame of s.
func frame(s *capture.Segment, payload []byte) []byte {
	b := make([]byte, 14, 14+40+24+len(payload))
	options := 0
	if s.WScale >= 0 {
		options = 4
	}
	length := 20 + options + len(payload)
	src, dst := s.Src.AddrPort().Addr(), s.Dst.AddrPort().Addr()
	if src.Is4() {
		binary.BigEndian.PutUint16(b[12:], 0x0800)
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+length))
		b = binary.BigEndian.AppendUint16(b, s.IPID)
		b = append(b, 0, 0, s.TTL, 6, 0, 0)
	} else {
		binary.BigEndian.PutUint16(b[12:], 0x86dd)
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(length))
		b = append(b, 6, s.TTL)
	}
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, s.Src.Port)
	b = binary.BigEndian.AppendUint16(b, s.Dst.Port)
	b = binary.BigEndian.AppendUint32(b, s.Seq)
	b = binary.BigEndian.AppendUint32(b, s.Ack)
	b = append(b, byte(20+options)<<2, byte(s.Flags))
	b = binary.BigEndian.AppendUint16(b, s.Window)
	b = append(b, 0, 0, 0, 0)
	if options > 0 {
		b = append(b, 3, 3, byte(s.WScale), 1)
	}
	return append(b, payload...)
}

// pieces cuts a segment into those that a test run takes.
func pieces(s *capture.Segment) (all []capture.Segment) {
	const most = 3000
	data := make([]byte, s.Len)
	copy(data, s.Payload)
	for {
		p := *s
		p.Src.Zone, p.Dst.Zone = 0, 0
		n := min(len(data), most)
		p.Payload, p.Len = data[:n], n
		if data = data[n:]; len(data) == 0 {
			return append(all, p)
		}
		p.Flags &^= capture.FIN | capture.PSH
		all = append(all, p)
		s.Seq += uint32(n)
	}
}

func readCapture(t *testing.T, name string) (all []capture.Segment) {
	t.Helper()
	src, err := capture.OpenFiles([]string{name}, nil, capture.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var s capture.Segment
	for {
		if err := src.Next(&s); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Logf("%s: %v", name, err)
			return all
		}
		c := s
		c.Payload = slices.Clone(s.Payload)
		all = append(all, pieces(&c)...)
	}
}

// A context is a struct __sk_buff.
type testContext struct {
	before [152]byte
	tstamp uint64
	after  [32]byte
}

// recorded judges segments by what the recorder keeps of them.
func recorded(t *testing.T, all []capture.Segment) ([]*correlate.Finding, *Recorder) {
	t.Helper()
	cfg := RecorderConfig{replayed: true, Hook: TCX}
	r, err := newRecorder(&cfg)
	if errors.Is(err, os.ErrPermission) {
		t.Skip("needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
	r.replay.offset = func(at uint64) capture.Time { return capture.Time(at) }
	place := &taps{}
	if err := place.load(&r.maps, &r.settings); err != nil {
		t.Fatal(err)
	}
	r.taps = append(r.taps, place)
	var found []*correlate.Finding
	tracker := correlate.New(correlate.Config{}, func(f *correlate.Finding) { found = append(found, f) })
	take := func() {
		for i := range r.replay.out {
			tracker.Add(&r.replay.out[i])
		}
		r.replay.out = r.replay.out[:0]
	}
	drain := func() {
		for r.reader.AvailableBytes() > 0 {
			r.reader.SetDeadline(time.Now()) // nothing wakes it
			if err := r.reader.ReadInto(&r.raw); err != nil {
				t.Fatal(err)
			}
			if err := r.take(r.raw.RawSample); err != nil {
				t.Fatal(err)
			}
			take()
		}
	}
	for i := range all {
		s := &all[i]
		if s.Len > 3000 {
			continue
		}
		ctx := testContext{tstamp: uint64(s.Time)}
		if _, err := place.programs.In.Run(&ebpf.RunOptions{Data: frame(s, s.Payload), Context: ctx}); err != nil {
			t.Fatalf("%v: %v", s, err)
		}
		drain()
	}
	if err := r.dump(); err != nil {
		t.Fatal(err)
	}
	for _, c := range r.rest {
		r.replay.record(c)
		take()
	}
	tracker.Finish()
	return found, r
}

func whole(all []capture.Segment) (found []*correlate.Finding) {
	tracker := correlate.New(correlate.Config{}, func(f *correlate.Finding) { found = append(found, f) })
	for i := range all {
		tracker.Add(&all[i])
	}
	tracker.Finish()
	return found
}

func brief(all []*correlate.Finding) map[string]string {
	m := map[string]string{}
	for _, f := range all {
		if f.Verdict.Family() == "clean" {
			continue
		}
		n := 0
		if f.Request != nil {
			n = f.Request.Number
		}
		m[fmt.Sprintf("%v %v %d", f.Connection.Client, f.Connection.Start.Std().Format("05.000"), n)] = fmt.Sprintf("%v %v lost=%v retry=%v %v", f.Verdict, f.Confidence, f.Lost, f.Retry, f.Candidates)
	}
	return m
}

func TestRecordedLikeWhole(t *testing.T) {
	names, _ := filepath.Glob("../testdata/witness/*.pcap.gz")
	if one := os.Getenv("ONE"); one != "" {
		names, _ = filepath.Glob(one)
	}
	n, same, segments, records, singles := 0, 0, 0, 0, 0
	for _, name := range names {
		all := readCapture(t, name)
		want := brief(whole(all))
		found, r := recorded(t, all)
		got := brief(found)
		if err := r.count(); err != nil {
			t.Fatal(err)
		}
		var lines []string
		for k, w := range want {
			n++
			if got[k] != w {
				lines = append(lines, fmt.Sprintf("  %s\n    whole    %s\n    recorded %s", k, w, got[k]))
			} else {
				same++
			}
		}
		for k, g := range got {
			if want[k] == "" {
				lines = append(lines, fmt.Sprintf("  %s\n    only recorded %s", k, g))
			}
		}
		slices.Sort(lines)
		if len(lines) > 0 {
			t.Logf("%s (%d of %d differ; %d segments, %+v)\n%s", filepath.Base(name), len(lines), len(want), len(all), *r.stats.Recorder, strings.Join(lines[:min(len(lines), 6)], "\n"))
		}
		segments += len(all)
		records += int(r.stats.Recorder.Records)
		singles += int(r.stats.Recorder.Segments)
		r.Close()
	}
	t.Logf("%d of %d the same; of %d segments, %d went up by themselves, beside %d records", same, n, segments, singles, records)
}
