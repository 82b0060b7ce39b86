package correlate

import (
	"slices"
	"strconv"
	"time"

	"whyreset/capture"
)

const (
	// restartSpan is within what time a server that goes down closes its
	// connections.
	restartSpan = time.Second
	// maxRestart bounds how long one is followed.
	maxRestart = 5 * time.Second
	// maxBurst is how many closes are looked at to recognise one, and
	// maxRestarts how many are kept of a server.
	maxBurst, maxRestarts = 64, 64
)

// A Restart is a time at which a server closed a sizeable part of its connections
// although they had been idle for different times: it was stopped, restarted or
// reloaded, or its worker was replaced.
type Restart struct {
	Server   capture.Endpoint
	From, To capture.Time // the first and the last of the closes
	Closed   int          // connections
	Open     int          // how many were open before, as far as was seen
	Refused  bool         // it refused new connections right afterwards
	Lost     uint64       // lost requests that are put down to it
}

// A departure is an unannounced close by the server that no request asked for.
type departure struct {
	at, start capture.Time  // of the close, and of the connection
	idle      time.Duration // how long the connection had been idle
	busy      bool          // it was not: the server had a request
	responses int
	open      int // connections of the server that were open, this one included
}

// closed is called when half d of c has closed, by FIN or RST, and everything
// that came with that was framed.
func (t *Tracker) closed(c *conn, d int, k *closing) {
	first := !c.gone
	if first {
		c.gone = true
		if c.server != nil {
			c.server.open--
		}
	}
	if c.client < 0 {
		return
	}
	byServer := d != int(c.client)
	if len(c.queue) > 0 {
		t.leaveTrails(c, c.last, byServer && k.kind == FINClose)
	}
	if first && byServer && k.hasAck && (len(c.queue) > 0 || !c.announced) && !c.half[c.client].fin.seen() {
		t.serverOf(c).departed = k.time
		t.depart(c, k)
	}
}

// depart notes that the server closed c of its own accord.
func (t *Tracker) depart(c *conn, k *closing) {
	x := departure{at: k.time, start: c.start, responses: int(c.responses)}
	last := c.respTime
	if c.up != nil {
		last = c.up.last
	}
	if c.unasked != nil {
		return
	}
	if n := len(c.queue); n > 0 {
		switch r := c.queue[n-1]; {
		case r.resp.complete && c.announced, r.resp.untilClose && k.kind == FINClose:
			return
		case r.resp.complete:
		case k.ack > r.start:
			x.busy = last == 0 || k.time.Sub(r.time) >= prompt || r.time.Sub(last) < minTimer || r.resp.began
		}
	}
	if last == 0 && !x.busy {
		return
	}
	if !x.busy {
		x.idle = max(k.time.Sub(last), 0)
	}
	s := t.serverOf(c)
	x.open = s.open + s.hidden + 1
	s.depart(x)
}

// depart takes in one close and looks whether it is part of a restart.
func (s *server) depart(x departure) {
	if r := s.restarting(x.at); r != nil && x.start < r.From {
		r.To = max(r.To, x.at)
		r.Closed++
		s.forgetCloses(r)
		return
	}
	n := 0
	for n < len(s.burst) && (len(s.burst)-n >= maxBurst || x.at.Sub(s.burst[n].at) > restartSpan) {
		n++
	}
	s.burst = append(slices.Delete(s.burst, 0, n), x)
	if b := s.fellTogether(false); b != nil {
		s.noteRestart(b, false)
	}
}

// refuse notes that the server's host refused a connection.
func (t *Tracker) refuse(c *conn, at capture.Time) {
	s := t.servers[c.ep[1-c.clientSide()]]
	if s == nil {
		return
	}
	if r := s.restarting(at); r != nil {
		r.Refused = true
		return
	}
	for len(s.burst) > 0 && at.Sub(s.burst[0].at) > restartSpan {
		s.burst = slices.Delete(s.burst, 0, 1)
	}
	if b := s.fellTogether(true); b != nil {
		s.noteRestart(b, true)
	}
}

// restarting returns the restart that is under way at time at; nil if none is.
func (s *server) restarting(at capture.Time) *Restart {
	if n := len(s.restarts); n > 0 {
		if r := &s.restarts[n-1]; at.Sub(r.To) <= restartSpan && at.Sub(r.From) <= maxRestart {
			return r
		}
	}
	return nil
}

// restartAt returns the restart to which a close at time at belongs, of a
// connection that began at start; nil if none.
func (s *server) restartAt(at, start capture.Time) *Restart {
	for i := len(s.restarts) - 1; i >= 0; i-- {
		if r := &s.restarts[i]; r.From <= at && at <= r.To && start < r.From {
			return r
		}
	}
	return nil
}

func (s *server) noteRestart(b []departure, refused bool) {
	r := Restart{From: b[0].at, To: b[len(b)-1].at, Closed: len(b), Open: max(b[0].open, len(b)), Refused: refused}
	s.burst = s.burst[:0]
	if len(s.restarts) >= maxRestarts {
		s.restarts = slices.Delete(s.restarts, 0, 1)
	}
	s.restarts = append(s.restarts, r)
	s.forgetCloses(&s.restarts[len(s.restarts)-1])
}

// fellTogether returns those of the latest closes that cannot be the work of
// timers or limits, of which each connection has its own; nil if there are none.
// With refused, the server did not accept connections right afterwards.
func (s *server) fellTogether(refused bool) []departure {
	n := len(s.burst)
	if n == 0 || n < 3 && !refused {
		return nil
	}
	if b := s.burst; s.together(b, refused) {
		return b
	}
	// What closed earlier in this second may have nothing to do with it.
	at := n - 1
	for at > 0 && s.burst[n-1].at.Sub(s.burst[at-1].at) <= atInstant {
		at--
	}
	if b := s.burst[at:]; at > 0 && s.together(b, refused) {
		return b
	}
	return nil
}

// atInstant is within what time a server closes a few connections when it goes
// down: only many take longer.
const atInstant = 100 * time.Millisecond

func (s *server) together(b []departure, refused bool) bool {
	n := len(b)
	from, span := b[0].at, b[n-1].at.Sub(b[0].at)
	if n < 3 && !refused || n < 8 && span > atInstant {
		return false
	}
	open := b[0].open
	// A server that has several workers loses one of them at an instant.
	if n*2 < open && !(n >= 4 && n*5 >= open && span <= atInstant) && !refused {
		return false
	}
	var idle []time.Duration
	busy, brief, served, sameCount := 0, 0, true, true
	for _, x := range b {
		switch {
		case x.start >= from:
			return false // what was opened meanwhile is closed for another reason
		case x.busy:
			busy++
		case x.idle < minTimer:
			brief++
		default:
			idle = append(idle, x.idle)
		}
		served = served && x.responses > 0
		sameCount = sameCount && x.responses == b[0].responses
	}
	if tm := s.learned(); tm != nil {
		idle = slices.DeleteFunc(idle, func(d time.Duration) bool { return (d - tm.Timeout).Abs() <= tm.late() })
	}
	if refused {
		return busy+brief+len(idle) > 0
	}
	switch {
	case brief == n && sameCount:
		return false // a limit of requests, or a server that closes after each without saying so
	case busy == n && !(served && span <= prompt):
		return false // requests that it cannot digest
	}
	slices.Sort(idle)
	alike := len(cluster(idle, idleWidth))
	return n-alike >= 2 && busy+brief+len(idle)-alike >= 2
}

// idleWidth is how far apart the closes of an idle timer may lie. Some servers
// look at their connections once a second.
func idleWidth(d time.Duration) time.Duration {
	if d < time.Second {
		return max(20*time.Millisecond, d/20)
	}
	return max(1200*time.Millisecond, d/20)
}

// onTime reports whether the server closed when its idle timer was due.
func (f *facts) onTime() bool {
	idle, ok := f.idleBefore(&f.K)
	tm := f.timer()
	return ok && tm != nil && tm.Closes > 0 && (idle-tm.Timeout).Abs() <= tm.late()
}

// mark says on x that its close was part of the restart.
func (r *Restart) mark(x *Finding) {
	x.Modifiers = slices.DeleteFunc(x.Modifiers, func(m string) bool { return m == "server-idle" })
	x.Modifiers = append(x.Modifiers, "deploy-restart")
	text := "the server closed " + strconv.Itoa(r.Closed) + " of its connections within " + short(r.To.Sub(r.From)) + ", whatever they were doing"
	if r.Closed == 1 {
		text = "the server closed the connection"
	}
	if r.Refused {
		text += ", and refused new ones right afterwards"
	}
	x.Evidence = append(x.Evidence, Evidence{Text: text + ": a restart or a deploy, not an idle timer"})
	if x.Lost {
		r.Lost++
	}
}

// countRestart counts a finding of s that a restart explains: a lost request of
// it is then none that s's idle timer raced with.
func (t *Tracker) countRestart(x *Finding, s *server) {
	if !x.Lost {
		return
	}
	t.countFor(countKey{x.Verdict, x.Connection.Server}).Restart++
	if x.Verdict.racesTimer(x.Modifiers) {
		s.races--
	}
}

// racesTimer reports whether a request that was lost with v counts as one that
// met its server's idle timer.
func (v Verdict) racesTimer(modifiers []string) bool {
	return v.Family() == "idle-race" || slices.Contains(modifiers, nearMiss)
}

// forgetCloses takes back what the closes of a restart taught of timers.
func (s *server) forgetCloses(r *Restart) {
	s.closes.forget(r.From, r.To)
	if s.ages != nil {
		s.ages.forget(r.From, r.To)
	}
	for n, l := range s.limits {
		if l.last >= r.From && l.last <= r.To {
			s.limits[n] = limit{times: l.times - 1}
		}
	}
}

// forget drops the samples that were taken from from to to.
func (l *learner) forget(from, to capture.Time) {
	for i := len(l.samples) - 1; i >= 0; i-- {
		if at := l.times[i]; at >= from && at <= to {
			l.samples = slices.Delete(l.samples, i, i+1)
			l.times = slices.Delete(l.times, i, i+1)
			l.total--
		}
	}
	if l.next > len(l.samples) || len(l.samples) < maxSamples {
		l.next = 0
	}
}
