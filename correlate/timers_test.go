package correlate

import (
	"math/rand/v2"
	"testing"
	"time"
)

const ms = time.Millisecond

// learnt returns the timer that closes after the given idle times show, a second
// apart.
func learnt(idle ...time.Duration) *Timer {
	var l learner
	for i, d := range idle {
		l.add(d, epoch.Add(time.Duration(i)*time.Second))
	}
	return l.timer()
}

// around returns n idle times from least to least+width.
func around(least, width time.Duration, n int) []time.Duration {
	r := rand.New(rand.NewPCG(uint64(least), uint64(n)))
	d := []time.Duration{least, least + width}
	for len(d) < n {
		d = append(d, least+time.Duration(r.Int64N(int64(width)+1)))
	}
	return d[:n]
}

func TestLearner(t *testing.T) {
	s := time.Second
	join := func(lists ...[]time.Duration) (all []time.Duration) {
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}
	for _, tt := range []struct {
		name        string
		idle        []time.Duration
		closes      int // 0: no timer
		least, most time.Duration
	}{
		{"none", nil, 0, 0, 0},
		{"one", []time.Duration{5 * s}, 0, 0, 0},
		{"two that agree", []time.Duration{5 * s, 5*s + ms}, 2, 5 * s, 5*s + ms},
		{"two that do not", []time.Duration{5 * s, 9 * s}, 0, 0, 0},
		{"two a tenth apart", []time.Duration{500 * ms, 570 * ms}, 0, 0, 0},
		{"too short to be a timer", []time.Duration{ms, 2 * ms, 3 * ms, 49 * ms}, 0, 0, 0},
		{"short ones are not counted", []time.Duration{ms, ms, ms, ms, 5 * s, 5 * s}, 2, 5 * s, 5 * s},
		{"half of them agree", []time.Duration{5 * s, 5 * s, 7 * s, 20 * s}, 2, 5 * s, 5 * s},
		{"fewer than half agree", []time.Duration{5 * s, 5 * s, 7 * s, 9 * s, 20 * s}, 0, 0, 0},
		{"restarts in between", join(around(60*s, 5*ms, 20), around(s, 50*s, 8)), 20, 60 * s, 60*s + 5*ms},
		{"jitter of a short timer", around(300*ms, 45*ms, 10), 10, 300 * ms, 345 * ms},
		{"two timers, one behind the other", join(around(5*s, 5*ms, 12), around(75*s, 5*ms, 10)), 12, 5 * s, 5*s + 5*ms},
		{"looked at once a second", around(2*s, 990*ms, 20), 20, 2 * s, 2*s + 990*ms},
		{"once a second, and a restart or two", join(around(5*s, 990*ms, 20), []time.Duration{s, 3 * s}), 20, 5 * s, 5*s + 990*ms},
		{"chance", around(100*ms, 60*s, 12), 0, 0, 0},
		{"three all over", []time.Duration{2 * s, 2500 * ms, 2990 * ms}, 0, 0, 0},
	} {
		tm := learnt(tt.idle...)
		switch {
		case tm == nil && tt.closes == 0:
		case tm == nil:
			t.Errorf("%s: no timer", tt.name)
		case tm.Closes != tt.closes || tm.Timeout < tt.least || tm.Timeout > tt.most:
			t.Errorf("%s: %v in %d closes, want %d from %v to %v", tt.name, tm.Timeout, tm.Closes, tt.closes, tt.least, tt.most)
		case tm.Spread < 0 || tm.Spread > tt.most-tt.least:
			t.Errorf("%s: spread %v", tt.name, tm.Spread)
		}
	}
}

// A restart closes everything at once: that counts as one close.
func TestLearnerCountsAnInstantOnce(t *testing.T) {
	var l learner
	for i := range 100 {
		l.add(3*time.Second, epoch.Add(time.Duration(i)*100*time.Microsecond))
	}
	if tm := l.timer(); tm != nil {
		t.Errorf("100 closes at one instant teach %v", tm.Timeout)
	}
	l.add(3*time.Second, epoch.Add(time.Minute))
	if tm := l.timer(); tm == nil || tm.Closes != 2 {
		t.Errorf("two closes a minute apart teach %+v", tm)
	}
}

// A server that is configured anew is learned anew.
func TestLearnerForgets(t *testing.T) {
	var l learner
	at := epoch
	for _, timeout := range []time.Duration{5 * time.Second, 30 * time.Second} {
		for range 2 * maxSamples {
			at = at.Add(time.Second)
			l.add(timeout, at)
		}
		if tm := l.timer(); tm == nil || tm.Timeout != timeout || tm.Closes != maxSamples {
			t.Errorf("after %d closes at %v: %+v", 2*maxSamples, timeout, tm)
		}
	}
	if len(l.samples) > maxSamples {
		t.Errorf("%d samples kept", len(l.samples))
	}
}

func TestTimerMatches(t *testing.T) {
	for _, tt := range []struct {
		timer Timer
		idle  time.Duration
		want  bool
	}{
		{Timer{Timeout: 300 * ms}, 300 * ms, true},
		{Timer{Timeout: 300 * ms}, 298 * ms, true}, // the path's jitter
		{Timer{Timeout: 300 * ms}, 297 * ms, false},
		{Timer{Timeout: 300 * ms}, 310 * ms, true}, // a busy server
		{Timer{Timeout: 300 * ms}, 311 * ms, false},
		{Timer{Timeout: 300 * ms, Spread: 5 * ms}, 293 * ms, true},
		{Timer{Timeout: 300 * ms, Spread: 5 * ms}, 292 * ms, false},
		{Timer{Timeout: 300 * ms, Spread: 5 * ms}, 320 * ms, true},
		{Timer{Timeout: 300 * ms, Spread: 5 * ms}, 321 * ms, false},
		{Timer{Timeout: time.Minute}, time.Minute - 300*ms, true},
		{Timer{Timeout: time.Minute}, time.Minute - 301*ms, false},
		{Timer{Timeout: time.Minute}, time.Minute + 1200*ms, true},
		{Timer{Timeout: time.Minute}, time.Minute + 1201*ms, false},
		{Timer{Timeout: time.Minute}, 0, false},
	} {
		if got := (tt.idle >= tt.timer.Timeout-tt.timer.early() && tt.idle <= tt.timer.Timeout+tt.timer.late()); got != tt.want {
			t.Errorf("%v ± %v matches %v: %v, want %v", tt.timer.Timeout, tt.timer.Spread, tt.idle, got, tt.want)
		}
	}
}

// What a server says of itself counts only until its closes show more.
func TestServerTimer(t *testing.T) {
	s := &server{}
	if tm := s.timer(); tm != nil {
		t.Errorf("nothing known gives %+v", tm)
	}
	s.stated = 5 * time.Second
	if tm := s.timer(); tm == nil || tm.Stated != 5*time.Second || tm.Closes != 0 || tm.Timeout != 0 {
		t.Errorf("a stated timeout gives %+v", tm)
	}
	s.closes.add(5*time.Second, epoch)
	s.closes.add(5*time.Second, epoch.Add(time.Second))
	if tm := s.timer(); tm == nil || tm.Stated != 5*time.Second || tm.Closes != 2 || tm.Timeout != 5*time.Second {
		t.Errorf("a stated timeout and two closes give %+v", tm)
	}
}

// Requests that come within a round trip before the close, or a wake-up after it,
// are those that are bound to be lost.
func TestExpectedRaces(t *testing.T) {
	tm := &Timer{Timeout: time.Second, Closes: 2}
	s := &server{rtt: 10 * ms, gaps: []time.Duration{
		100 * ms, 990 * ms, 990*ms + 1, 999 * ms, time.Second, time.Second + wakeUp - 1, time.Second + wakeUp, 2 * time.Second,
	}, reuses: 80}
	if got := s.expected(tm); got != 40 {
		t.Errorf("%v races expected, want 4 of 8 gaps in 80 reuses", got)
	}
	if got := s.expected(&Timer{Stated: time.Second}); got != 0 {
		t.Errorf("%v races expected of a timer that was never seen", got)
	}
}

// The learner sees what the packets show, from the last response byte to the FIN.
func TestLearningFromPackets(t *testing.T) {
	tr := New(Config{}, ignore)
	k := newTalk(tr, newWire(), 1)
	for i := range 4 {
		k.begin(i + 1)
		k.handshake()
		k.exchange(get, ok)
		k.wire.now = k.wire.now.Add(300*ms - 2*ms) // the ACK and the FIN take one each
		k.send(srv, fin, nil)
		k.send(cli, fin, nil)
		k.send(srv, ack, nil)
	}
	tr.Finish()
	servers := tr.Summary().Servers
	if len(servers) != 1 || servers[0].Server != theServer || servers[0].Timer.Timeout != 300*ms || servers[0].Timer.Closes != 4 {
		t.Errorf("learned %+v", servers)
	}
}

// Offsets are right wherever 2^32 is passed, and however far a connection has come.
func TestRel(t *testing.T) {
	for _, base := range []uint32{0, 1, 1000, 1<<31 - 1, 1 << 31, 1<<32 - 2, 1<<32 - 1} {
		for _, next := range []int64{1, 1000, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 1, 5<<32 + 7} {
			for _, off := range []int64{next, next + 1, next - 1, next + 1<<31 - 1, next - 1<<31, next - 1000, next + 65535} {
				h := half{base: base, next: next, based: true}
				seq := base + uint32(off)
				if got := h.rel(seq); got != off {
					t.Errorf("base %d, next %d: %d is %d, want %d", base, next, seq, got, off)
				}
			}
		}
	}
}

// More than 2^32 bytes on one connection: a response of 5 GB, most of which a
// capture of heads alone has not kept.
func TestLongConnection(t *testing.T) {
	tr := New(Config{}, func(f *Finding) {
		if f.Lost || f.Verdict != CleanClose || f.Response.Bytes < 5<<30 {
			t.Errorf("%s: %+v", f.Verdict, f.Response)
		}
	})
	k := newTalk(tr, newWire(), 1)
	k.handshake()
	k.send(cli, psh, get)
	const segment = 60000
	k.send(srv, psh, []byte("HTTP/1.1 200 OK\r\nContent-Length: 5368680000\r\n\r\n"))
	for range 5368680000 / segment {
		k.make(srv, psh, nil)
		k.seg.Len = segment
		k.add()
		k.send(cli, ack, nil)
	}
	k.exchange(get, ok)
	framedWhole(t, tr, 2)
	tr.Finish()
	if s := tr.Summary(); s.StillOpen != 1 {
		t.Errorf("summary %+v", s)
	}
}

func TestVantageByTTL(t *testing.T) {
	for _, tt := range []struct {
		client, server uint8
		want           Vantage
	}{
		{64, 57, AtClient},
		{64, 128, NoVantage}, // both whole: one link
		{64, 64, NoVantage},
		{64, 63, NoVantage}, // a container's bridge
		{57, 64, AtServer},
		{117, 255, AtServer},
		{128, 50, AtClient},
		{60, 60, InMiddle},
		{63, 50, NoVantage},
		{0, 64, NoVantage},
		{64, 0, NoVantage},
	} {
		if got := vantageByTTL(tt.client, tt.server); got != tt.want {
			t.Errorf("TTLs %d and %d: %q, want %q", tt.client, tt.server, got, tt.want)
		}
	}
}
