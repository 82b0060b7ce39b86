package correlate

import (
	"bytes"
	"slices"
	"time"

	"whyreset/capture"
)

// A server is what was learned of one server endpoint and of those who use it.
type server struct {
	closes     learner       // from the last response byte to the server's close of the idle connection
	soonest    time.Duration // the least of all of those, also of restarts and of many at once; 0 if there was none
	clients    learner       // the same for the client's close
	stated     time.Duration
	maxReuse   time.Duration
	gaps       []time.Duration // idle times before a reuse, as the client saw them: the latest, at most maxSamples
	reuses     uint64          // how many there were
	steady     []time.Duration // those of requests that were answered, as the server saw them: the latest, at most maxSteady
	nextSteady int
	rtt        time.Duration // least handshake round trip; 0 if none was seen
	races      uint64
	product    string // the first product in its Server header, in lower case
	via        string // the nearest proxy in the Via header of its responses, in lower case
	described  bool   // the head of a response was read
	agents     [serverAgents]agentCount
	considered int           // how many closes there were when held verdicts were last looked at
	ticket     int           // length of the records in which it sends session tickets (TLS 1.3); 0 if not known
	pads       bool          // it makes records of TLS 1.3 longer than they need be, as JSSE does
	notifies   bool          // it sends close_notify before it closes
	speaks     speaks        // in which protocols it was seen to answer
	lingers    bool          // it was seen to acknowledge requests after its own FIN
	limits     map[int]limit // of closes right after the nth response
	ages       *age          // of connections that ended at a limit or otherwise; nil if there were none
	open       int           // its connections that have not closed yet, as far as they are known for its
	hidden     int           // more of them that a recorder keeps to itself
	counted    bool          // a recorder counts how its connections are reused
	away       time.Duration // the least time from its SYN-ACK to the answer, as seen here; 0 if none was seen
	burst      []departure   // the latest closes of its own accord, at most maxBurst, within restartSpan
	restarts   []Restart     // the latest, at most maxRestarts
	told       capture.Time  // when the latest of its connections began of whose sockets its kernel told; 0: none
	tunnels    *learner      // the same for upgraded connections, from the last bytes to the end; nil if there were none

	header   ipHeader     // of its SYN-ACKs
	host     *ipHeader    // the same of all servers with this address
	accepted capture.Time // its latest SYN-ACK to a new connection; 0 if there was none
	departed capture.Time // when it last closed a connection of its own accord; 0 if it has not
	refused  capture.Time // the latest SYN that was refused in its name; 0 if none was
	dropped  drops
}

// maxServers bounds the servers whose timers are learned.
const maxServers = 1 << 16

func (t *Tracker) serverOf(c *conn) *server {
	if c.server == nil {
		e := c.ep[1-c.clientSide()]
		s := t.servers[e]
		if s == nil {
			s = &server{host: t.hostOf(e.Addr)}
			if len(t.servers) < maxServers {
				t.servers[e] = s
			}
		}
		c.server = s
		if !c.gone {
			s.open++
		}
		if c.kept {
			s.hidden = max(s.hidden-1, 0)
		}
	}
	return c.server
}

// hostOf returns what is known of the servers at an address.
func (t *Tracker) hostOf(addr [16]byte) *ipHeader {
	h := t.hosts[addr]
	if h == nil {
		h = &ipHeader{}
		if len(t.hosts) < maxServers {
			t.hosts[addr] = h
		}
	}
	return h
}

// reused notes that the client sent a request after the connection was idle for
// d where the capture was made. The client itself had the response later, and
// sent the request earlier, by what lies between it and there.
func (t *Tracker) reused(c *conn, d time.Duration) {
	if c.openTime != 0 && c.synAckTime != 0 {
		d -= c.openTime.Sub(c.synAckTime)
	}
	d = max(d, 0)
	s := t.serverOf(c)
	if s.counted {
		return
	}
	s.maxReuse = max(s.maxReuse, d)
	if len(s.gaps) < maxSamples {
		s.gaps = append(s.gaps, d)
	} else {
		s.gaps[s.reuses%maxSamples] = d
	}
	s.reuses++
}

// maxSteady is enough for a median.
const maxSteady = 64

// answeredAfter notes that the server answered a request that it got after it had
// been idle, as far as it knew, for d.
func (t *Tracker) answeredAfter(c *conn, d time.Duration) {
	if c.synTime != 0 && c.synAckTime != 0 {
		d += c.synAckTime.Sub(c.synTime) // its response was on the way, and then the request
	}
	s := t.serverOf(c)
	if s.counted {
		return
	}
	if len(s.steady) < maxSteady {
		s.steady = append(s.steady, d)
		return
	}
	s.steady[s.nextSteady] = d
	s.nextSteady = (s.nextSteady + 1) % maxSteady
}

// describe notes what a response's head says of its server.
func (t *Tracker) describe(c *conn, hd *head) {
	if hd.status < 200 || hd.who == nil && hd.timeout == 0 && (len(hd.server) == 0 || c.server != nil && c.server.product != "") {
		return
	}
	s := t.serverOf(c)
	s.described = true
	if hd.who != nil && len(hd.who.via) > 0 && s.via == "" {
		s.via = nearest(hd.who.via)
	}
	if hd.timeout > 0 {
		s.stated = hd.timeout
	}
	if s.product == "" && len(hd.server) > 0 {
		name := hd.server[:min(len(hd.server), 64)]
		if i := bytes.IndexAny(name, "/ ("); i > 0 {
			name = name[:i]
		}
		s.product = string(bytes.ToLower(name))
	}
}

// closesByHalves reports whether this server ends idle connections by shutting
// down one direction and reading on: it was seen to, or is one of those that do.
func (s *server) closesByHalves() bool {
	return s.lingers || s.product == "apache" || s.product == "lighttpd"
}

// A learner finds the idle timeout in how long connections were idle when they
// were closed. Restarts and limits close connections at other times; a timer
// shows as a cluster.
type learner struct {
	samples []time.Duration // the latest, at most maxSamples
	times   []capture.Time  // when each was taken
	last    capture.Time    // when the latest was taken
	next    int
	total   int
}

const maxSamples = 256

// minTimer is below every idle timeout: closes that soon after a response have
// another reason.
const minTimer = 50 * time.Millisecond

// add takes the idle time d of a close at time at. Closes at one instant say no
// more than one does: a restart closes connections that were used together
// after the same idle time.
func (l *learner) add(d time.Duration, at capture.Time) {
	if d < minTimer || l.total > 0 && at.Sub(l.last).Abs() < 20*time.Millisecond {
		return
	}
	l.last = at
	l.total++
	if len(l.samples) < maxSamples {
		l.samples, l.times = append(l.samples, d), append(l.times, at)
		return
	}
	l.samples[l.next], l.times[l.next] = d, at
	l.next = (l.next + 1) % maxSamples
}

// timer returns the timeout that most closes agree on; nil if fewer than two of
// them do, or if they are not at least half of all. Some servers look at their
// connections once a second or so (gunicorn, lighttpd): where no narrow cluster
// holds, one that is a second wide will do if nearly all closes lie in it.
func (l *learner) timer() *Timer {
	if len(l.samples) < 2 {
		return nil
	}
	d := slices.Clone(l.samples)
	slices.Sort(d)
	// Sharp first: one close that came late must not blur the others.
	c := cluster(d, func(d time.Duration) time.Duration { return max(5*time.Millisecond, d/100) })
	if len(c) < 3 || len(c)*3 < len(d)*2 {
		c = cluster(d, func(d time.Duration) time.Duration { return max(min(50*time.Millisecond, d/5), d/25) })
	}
	if len(c) < 2 || len(c)*2 < len(d) {
		c = cluster(d, func(d time.Duration) time.Duration { return min(1100*time.Millisecond, d*3/5) })
		if len(c) < 4 || len(c)*5 < len(d)*4 {
			return nil
		}
	}
	m := c[len(c)/2]
	return &Timer{Timeout: m, Spread: max(m-c[0], c[len(c)-1]-m), Closes: len(c)}
}

// notBefore returns the time before which the server closes no idle connection. Where it
// looks at them once in a while, the closes that were learned need not show the least by
// as much as they differ, and those that it makes at once, as restarts do, tell as well.
func (s *server) notBefore(tm *Timer) time.Duration {
	low := tm.Timeout - tm.Spread
	if !tm.sharp() {
		low = min(low-2*tm.Spread, s.soonest)
	}
	return low * 9 / 10
}

// cluster returns the longest run of the sorted d that is no wider than width of
// its least.
func cluster(d []time.Duration, width func(time.Duration) time.Duration) []time.Duration {
	best, from := 0, 0
	for i, j := 0, 0; i < len(d); i++ {
		for j < len(d) && d[j] <= d[i]+width(d[i]) {
			j++
		}
		if j-i > best {
			best, from = j-i, i
		}
	}
	return d[from : from+best]
}

// sharp reports whether the closes agree as those of a timer for each connection do.
func (t *Timer) sharp() bool { return t.Spread <= max(2*time.Millisecond, t.Timeout/100) }

// early and late are how far from the timeout a close may be and still be the
// timer's. A timer fires late when its server is busy and never early, so there is
// less room before the timeout than behind it; what there is allows for the path's
// jitter.
func (t *Timer) early() time.Duration { return t.Spread + max(2*time.Millisecond, t.Timeout/200) }
func (t *Timer) late() time.Duration  { return 2*t.Spread + max(10*time.Millisecond, t.Timeout/50) }

// learned returns the idle timeout that the server's closes show, if they really
// show one. Connections in steady use that something else ends, such as workers
// that are replaced, were idle for about a round trip and the clients' pause when
// it came: a time of that size must recur sharply to be a timer's.
func (s *server) learned() *Timer {
	tm := s.closes.timer()
	if tm == nil {
		return nil
	}
	sharp := tm.sharp()
	usual := s.usualGap()
	switch {
	case tm.Closes == 2 && !(sharp && tm.Timeout > 2*usual):
		return nil
	case tm.Timeout < 2*usual && !sharp:
		return nil
	case tm.Closes < 5 && tm.Timeout < time.Second && !sharp: // so few that differ so much had other reasons
		return nil
	}
	return tm
}

// usualGap is the median of the idle times after which it got requests that it
// answered.
func (s *server) usualGap() time.Duration {
	if len(s.steady) == 0 {
		return 0
	}
	g := slices.Clone(s.steady)
	slices.Sort(g)
	return g[len(g)/2]
}

// timer returns what is known of the server's idle timeout; nil if nothing is.
func (s *server) timer() *Timer {
	tm := s.learned()
	if tm == nil && s.stated > 0 {
		tm = &Timer{}
	}
	if tm != nil {
		s.describeTimer(tm)
	}
	return tm
}

// describeTimer adds what the server's header fields say.
func (s *server) describeTimer(tm *Timer) {
	tm.Stated, tm.Product, tm.Via, tm.Described = s.stated, s.product, s.via, s.described
}

// wakeUp is how long a server takes from its timer to its close: even without a
// path in between, requests that come then are lost.
const wakeUp = 500 * time.Microsecond

// expected estimates how many requests were bound to meet the server's close. The
// server closes at T after its response; a request that the client sends g after
// it had that response arrives a round trip later, and the FIN is on its way to
// the client until g = T. So those with T-RTT < g < T are lost.
func (s *server) expected(tm *Timer) float64 {
	if len(s.gaps) == 0 || tm.Closes == 0 {
		return 0
	}
	n := 0
	for _, g := range s.gaps {
		if g > tm.Timeout-s.rtt && g < tm.Timeout+wakeUp {
			n++
		}
	}
	return float64(n) * float64(s.reuses) / float64(len(s.gaps))
}

// learn takes what c's end teaches of the timers at its ends.
func (t *Tracker) learn(f *facts) {
	s := f.server
	if f.hasRTT && (s.away == 0 || f.away < s.away) {
		s.away = f.away
	}
	if f.hasRTT && (s.rtt == 0 || f.conn.HandshakeRTT < s.rtt) {
		s.rtt = f.conn.HandshakeRTT
	}
	if f.responses == 0 || f.announced || f.untracked {
		return
	}
	switch {
	case f.closedIdle(Server):
		if d := f.K.time.Sub(f.respTime); d >= minTimer && (s.soonest == 0 || d < s.soonest) {
			s.soonest = d
		}
		if s.restartAt(f.K.time, f.conn.Start) != nil {
			break
		}
		s.lingers = s.lingers || f.hasRequest && f.K.kind == FINClose && f.serverAck > f.q.start
		s.closes.add(f.K.time.Sub(f.respTime), f.K.time)
		t.reconsider(s)
	case f.closedIdle(Client):
		s.clients.add(f.Kc.time.Sub(f.respTime), f.Kc.time)
	}
}

// reconsider reports the held findings that the server's timer now decides.
func (t *Tracker) reconsider(s *server) {
	// All of them again at every close would take quadratic time; what two closes
	// do not decide, four may.
	if len(t.held) == 0 || s.closes.total < 2*s.considered {
		return
	}
	if s.learned() == nil {
		return
	}
	s.considered = s.closes.total
	kept := t.held[:0]
	for _, h := range t.held {
		if h.f.server == s {
			if r := h.f.decide(); r.verdict != Ambiguous {
				t.report(h.f, r)
				continue
			}
		}
		kept = append(kept, h)
	}
	clear(t.held[len(kept):])
	t.held = kept
}
