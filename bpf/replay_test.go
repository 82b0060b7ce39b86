//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
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

// at returns a struct __sk_buff with the time of a packet.
func at(t capture.Time) []byte {
	const tstamp, size = 152, 192
	return binary.NativeEndian.AppendUint64(make([]byte, tstamp, size), uint64(t))
}

// recorded judges segments by what the recorder keeps of them.
func recorded(t *testing.T, all []capture.Segment) ([]*correlate.Finding, *Recorder) {
	t.Helper()
	cfg := RecorderConfig{replayed: true, Hook: TCX}
	r, err := newRecorder(&cfg)
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
		if _, err := place.programs.In.Run(&ebpf.RunOptions{Data: frame(s, s.Payload), Context: at(s.Time)}); err != nil {
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
	if err := r.count(); err != nil {
		t.Fatal(err)
	}
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

// judged returns what was found of each connection and request, but for clean ends.
func judged(all []*correlate.Finding) map[string]string {
	m := map[string]string{}
	for _, f := range all {
		if f.Verdict.Family() == "clean" {
			continue
		}
		n := 0
		if f.Request != nil {
			n = f.Request.Number
		}
		m[fmt.Sprintf("%v %v %d", f.Connection.Client, f.Connection.Start, n)] = fmt.Sprintf("%v %v %v %v lost=%v", f.Verdict, f.Confidence, f.Candidates, f.Retry, f.Lost)
	}
	return m
}

// What the recorder keeps of the witnesses' captures leads to the same verdicts as
// all of them.
// adder returns what adds a segment of the client (0) or the server (1) to all.
func adder(all *[]capture.Segment) func(from int, flags capture.Flags, seq, ack uint32, payload string) {
	ends := [2]capture.Endpoint{capture.EndpointFrom(netip.MustParseAddrPort("10.0.0.1:40000")), capture.EndpointFrom(netip.MustParseAddrPort("10.0.0.2:80"))}
	return func(from int, flags capture.Flags, seq, ack uint32, payload string) {
		*all = append(*all, capture.Segment{Time: capture.Time(1e18 + len(*all)*1e6), Src: ends[from], Dst: ends[1-from], Flags: flags, Seq: seq, Ack: ack,
			TTL: 64, Window: 500, WScale: -1, Len: len(payload), Payload: []byte(payload)})
	}
}

// Under TLS the records inside a long response are left out, and with them where the
// last one ends: what a client gives up is judged as the whole of it, and where the
// server stops is left open.
func TestRecordedRecords(t *testing.T) {
	needRoot(t)
	aborted, cut := "client-abort-mid-response strong", "truncated-response"
	open := "ambiguous  [truncated-response clean-close]"
	for _, c := range []struct {
		name            string
		version         int
		records         []int // how long those of the response are, in turns
		gaveUp          bool
		recorded, whole string // how the findings begin
	}{
		{"the client gives up", 0x0303, []int{3000}, true, aborted, aborted},
		{"the client gives up, some records as long as a close_notify", 0x0304, []int{2 + 1 + 16, 24, 24}, true, aborted, aborted},
		{"the server stops", 0x0303, []int{3000}, false, open, cut},
		{"the server stops, TLS 1.3", 0x0304, []int{3000}, false, open, cut},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := longResponse(c.version, c.records, c.gaveUp)
			found, r := recorded(t, all)
			r.Close()
			got := strings.Join(slices.Collect(maps.Values(judged(found))), "; ")
			if !strings.HasPrefix(got, c.recorded) {
				t.Errorf("recorded: %q, want %q", got, c.recorded)
			}
			if want := strings.Join(slices.Collect(maps.Values(judged(whole(all)))), "; "); !strings.HasPrefix(want, c.whole) {
				t.Errorf("whole: %q, want %q", want, c.whole)
			}
			if e := r.stats.Recorder; c.version == 0x0303 && e.Records+e.Segments > uint64(len(all))*3/4 {
				t.Errorf("%d records, %d segments of %d", e.Records, e.Segments, len(all))
			}
		})
	}
}

// longResponse returns the segments of a response in records of those lengths under TLS.
// It ends inside one, by the client's reset or by the server's FIN.
func longResponse(version int, records []int, gaveUp bool) (all []capture.Segment) {
	record := func(kind byte, content string) string {
		return string([]byte{kind, 3, 3, byte(len(content) >> 8), byte(len(content))}) + content
	}
	hello := func(kind byte, suites string) string {
		body := "\x03\x03" + strings.Repeat("r", 32) + "\x00" + suites
		if version == 0x0304 {
			body += "\x00\x06\x00\x2b\x00\x02\x03\x04" // supported_versions, of a server
		}
		return record(22, string([]byte{kind, 0, 0, byte(len(body))})+body)
	}
	add := adder(&all)
	next := [2]uint32{1, 1}
	say := func(from int, payload string) {
		for len(payload) > 0 {
			n := min(len(payload), 1400)
			add(from, capture.ACK|capture.PSH, next[from], next[1-from], payload[:n])
			next[from], payload = next[from]+uint32(n), payload[n:]
		}
		add(1-from, capture.ACK, next[1-from], next[from], "")
	}
	add(0, capture.SYN, 0, 0, "")
	add(1, capture.SYN|capture.ACK, 0, 1, "")
	add(0, capture.ACK, 1, 1, "")
	encrypted, finished, suite := byte(22), 40, "\xc0\x2f"
	if version == 0x0304 {
		encrypted, finished, suite = 23, 4+32+1+16, "\x13\x01"
	}
	say(0, hello(1, "\x00\x02"+suite+"\x01\x00"))
	if version == 0x0304 {
		say(1, hello(2, suite+"\x00")+record(20, "\x01")+record(encrypted, strings.Repeat("c", 900)))
		say(0, record(20, "\x01")+record(encrypted, strings.Repeat("f", finished)))
	} else {
		say(1, hello(2, suite+"\x00")+record(22, strings.Repeat("c", 900)))
		say(0, record(22, strings.Repeat("k", 70))+record(20, "\x01")+record(encrypted, strings.Repeat("f", finished)))
		say(1, record(20, "\x01")+record(encrypted, strings.Repeat("f", finished)))
	}
	say(0, record(23, strings.Repeat("q", 200)))
	say(1, record(23, strings.Repeat("h", 200)))
	for i := range 60 * len(records) * len(records) {
		say(1, record(23, strings.Repeat("a", records[i%len(records)])))
	}
	n := records[len(records)-1]
	had := next[1]
	if gaveUp {
		say(1, record(23, strings.Repeat("a", n)))
		all = all[:len(all)-1] // that was not acknowledged
		add(0, capture.RST|capture.ACK, next[0], had, "")
		return all
	}
	say(1, record(23, strings.Repeat("a", n))[:n/2])
	add(1, capture.FIN|capture.ACK, next[1], next[0], "")
	return all
}

// A segment with data and a FIN goes up by itself, and is longer than what is kept of
// it: whether the last chunk ends it is told all the same.
func TestRecordedEnd(t *testing.T) {
	needRoot(t)
	for end, want := range map[string]string{"\r\n0\r\n\r\n": "", "\r\n": "truncated-response proven [] unsafe lost=true", "": "truncated-response proven [] unsafe lost=true"} {
		var all []capture.Segment
		add := adder(&all)
		request := "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
		response := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5dc\r\n" + strings.Repeat("t", 1500) + end
		asked, said := 1+uint32(len(request)), 1+uint32(len(response))
		add(0, capture.SYN, 0, 0, "")
		add(1, capture.SYN|capture.ACK, 0, 1, "")
		add(0, capture.ACK, 1, 1, "")
		add(0, capture.ACK|capture.PSH, 1, 1, request)
		add(1, capture.ACK|capture.FIN, 1, asked, response)
		add(0, capture.ACK|capture.FIN, asked, said+1, "")
		add(1, capture.ACK, said+1, asked+1, "")
		found, r := recorded(t, all)
		r.Close()
		got := strings.Join(slices.Collect(maps.Values(judged(found))), "; ")
		if full := strings.Join(slices.Collect(maps.Values(judged(whole(all)))), "; "); got != want || full != want {
			t.Errorf("%q: recorded %q, whole %q, want %q", end, got, full, want)
		}
	}
}

func TestRecordedLikeWhole(t *testing.T) {
	needRoot(t)
	names, err := filepath.Glob("../testdata/witness/*.pcap.gz")
	if err != nil || len(names) == 0 {
		t.Fatalf("no captures: %v", err)
	}
	findings, segments, events := 0, 0, uint64(0)
	for _, name := range names {
		all := readCapture(t, name)
		want := judged(whole(all))
		found, r := recorded(t, all)
		got := judged(found)
		for k, w := range want {
			if got[k] != w {
				t.Errorf("%s: %s:\n  whole    %s\n  recorded %s", filepath.Base(name), k, w, got[k])
			}
		}
		for k, g := range got {
			if want[k] == "" {
				t.Errorf("%s: %s: only recorded: %s", filepath.Base(name), k, g)
			}
		}
		findings += len(want)
		segments += len(all)
		events += r.stats.Recorder.Records + r.stats.Recorder.Segments
		r.Close()
	}
	if findings < 1000 || events > uint64(segments)/2 {
		t.Errorf("%d findings, %d events of %d segments", findings, events, segments)
	}
}
