package correlate

import (
	"testing"

	"whyreset/capture"
)

// A scan prints a few findings and counts the others; with everything asked for
// it prints them all.
func TestScansAreCountedAndNotListed(t *testing.T) {
	const ports = 1000
	for _, brief := range []bool{true, false} {
		found := 0
		tr := New(Config{Brief: brief}, func(f *Finding) {
			if f.Verdict != ConnectRefused {
				t.Errorf("found %s", f.Verdict)
			}
			found++
		})
		now := epoch
		for i := range ports {
			s := capture.Segment{Time: now, Src: client(1), Dst: theServer, Seq: 7, Flags: capture.SYN, TTL: 64, WScale: -1}
			s.Dst.Port = uint16(i + 1)
			tr.Add(&s)
			s.Src, s.Dst, s.Seq, s.Ack, s.Flags = s.Dst, s.Src, 0, 8, capture.RST|capture.ACK
			tr.Add(&s)
			now = now.Add(resent)
		}
		tr.Finish()
		want := ports
		if brief {
			want = maxAlike
		}
		if sum := tr.Summary(); found != want || sum.Unopened != ports || sum.Unlisted != uint64(ports-want) {
			t.Errorf("brief %v: %d findings, %d counted, %d left out; want %d findings", brief, found, sum.Unopened, sum.Unlisted, want)
		}
	}
}

func TestDescribePayload(t *testing.T) {
	for _, tt := range []struct {
		payload string
		n       int // on the wire
		want    string
	}{
		{"\x33\xaa\x00\x03\x00\x00\x00\x00", 8, "reason 3, new data received after CLOSE was called"},
		{"\x33\xaa\x00\x0e\x00\x00\x00\x00", 8, "reason 14, connection timeout"},
		{"\x33\xaa\x04\xd2\x00\x00\x7e\xd9", 8, "reason 1234 of enterprise 32473"},
		{"\x33\xaa\xff\xff\x00\x00\x00\x00", 8, "reason 65535, which has no name"},
		{"\x33\xaa\x00\x00\x00\x00\x00\x00", 8, "reason 0, which has no name"},
		{"\x33\xaa\x00\x03", 4, "33 aa 00 03"}, // malformed: the draft says to ignore it
		{"\x33\xaa\x00\x03", 8, "33 aa 00 03 and 4 bytes more"},
		{"Go away\r\n", 9, `"Go away"`},
		{"Go", 9, `"Go" and 7 bytes more`},
		{"", 9, "not captured"},
		{"\x00\x00", 2, "00 00"},
		{"say \x1b[2J", 8, "73 61 79 20 1b 5b 32 4a"},
	} {
		if got := describePayload([]byte(tt.payload), tt.n); got != tt.want {
			t.Errorf("%q of %d bytes: %s, want %s", tt.payload, tt.n, got, tt.want)
		}
	}
}
