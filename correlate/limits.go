package correlate

import (
	"slices"
	"strconv"
	"time"

	"whyreset/capture"
)

// requestLimits are those of requests per connection that servers have by default
// (Apache, Tomcat and older nginx 100; nginx 1000).
var requestLimits = []int{100, 1000, 10000}

// A limit says how often a server closed right after its nth response. Closes
// within a second of one another count once: so many at once are a restart.
type limit struct {
	times int
	last  capture.Time
}

// An age says after what age a server closes connections, however much they are
// used. A timer of idle connections makes ages alike too, where they are all used
// alike; then the idle times are alike as well.
type age struct {
	learner
	least, most time.Duration // of the idle times; both are 0 while all closes came right after a response
}

// A ServerLimit is a limit of requests or of age that a server's connections end
// at.
type ServerLimit struct {
	Server   capture.Endpoint
	Requests int   // its closes come after so many responses; 0 if it has no such limit
	Closes   int   // how many of them agree
	Age      Timer // its closes come at this age of a connection; Closes is 0 if it has no such limit
}

// A limitMatch is the limit that explains a close.
type limitMatch struct {
	requests int
	age      time.Duration
	closes   int // how many closes show it; 0 for a default that servers have
}

// limited reports whether the server's closes right after a response come after
// the nth as a rule.
func (s *server) limited(n int) bool {
	all := 0
	for _, l := range s.limits {
		all += l.times
	}
	return s.limits[n].times >= 3 && s.limits[n].times*2 >= all
}

// aged returns the age at which the server closes connections; nil if there is
// none.
func (s *server) aged() *Timer {
	if s.ages == nil || s.ages.most > 0 && s.ages.most-s.ages.least <= 1200*time.Millisecond {
		return nil
	}
	tm := s.ages.timer()
	if tm == nil || tm.Closes < 3 || tm.Timeout < time.Second {
		return nil
	}
	return tm
}

// learnLimit takes in after how many responses, and at what age, the server closed
// f's connection or announced that it would. last is the last request that was
// answered.
func (t *Tracker) learnLimit(f *facts, last *request) {
	if f.responses < 2 || !f.conn.StartSeen || f.untracked || last == nil || last.close || f.missing&(missingBytes|missingSync|missingHead) != 0 {
		return
	}
	s := f.server
	at, idle := f.respTime, time.Duration(0)
	if !last.resp.close {
		if !f.closedIdle(Server) || s.restartAt(f.K.time, f.conn.Start) != nil {
			return
		}
		at, idle = f.K.time, f.K.time.Sub(f.respTime)
	}
	if idle < minTimer {
		idle = 0
		if s.limits == nil {
			s.limits = map[int]limit{}
		}
		if l, known := s.limits[f.responses]; known || len(s.limits) < 64 {
			if l.times == 0 || at.Sub(l.last) > time.Second {
				s.limits[f.responses] = limit{l.times + 1, at}
			}
		}
	} else if tm := s.learned(); tm != nil && (idle-tm.Timeout).Abs() <= tm.late() {
		return
	}
	if s.ages == nil {
		s.ages = &age{}
	}
	if n := len(s.ages.times); n > 0 && at.Sub(s.ages.last).Abs() < time.Second {
		return // connections that began together say no more than one
	}
	if len(s.ages.samples) == 0 {
		s.ages.least, s.ages.most = idle, idle
	}
	s.ages.least, s.ages.most = min(s.ages.least, idle), max(s.ages.most, idle)
	s.ages.add(at.Sub(f.conn.Start), at)
}

// atLimit returns the limit of requests or of age at which the server closed, or
// said that it would; nil if it was at none that is known.
func (f *facts) atLimit() *limitMatch {
	idle, ok := f.idleBefore(&f.K)
	if !ok || f.responses == 0 || !f.conn.StartSeen {
		return nil
	}
	said := f.hasRequest && f.q.resp.close && !f.q.close // the last response said so, and the request had not
	at := f.K.time
	if said {
		at = f.respTime
	}
	age := at.Sub(f.conn.Start)
	right := idle < minTimer && (said || !f.announced)
	switch tm := f.server.aged(); {
	case right && f.responses > 1 && f.server.limited(f.responses):
		return &limitMatch{requests: f.responses, closes: f.server.limits[f.responses].times}
	case right && slices.Contains(requestLimits, f.responses):
		return &limitMatch{requests: f.responses}
	case tm != nil && (age-tm.Timeout).Abs() <= tm.late() && (right || !f.announced && !f.onTime()):
		return &limitMatch{age: tm.Timeout, closes: tm.Closes}
	case right && (age-time.Hour).Abs() < 36*time.Second: // nginx's keepalive_time, ALB's client keepalive
		return &limitMatch{age: time.Hour}
	}
	return nil
}

// limited says on x that the server closed at a limit; it returns false, and does
// nothing, if it did not.
func (x *ruling) limited(f *facts) bool {
	m := f.atLimit()
	if m == nil {
		return false
	}
	if f.announced {
		x.modifiers = append(x.modifiers, "announced")
	}
	x.modifiers = append(x.modifiers, "limit-match")
	x.note(0, 0, "%s", m.text())
	return true
}

// text names the limit.
func (m *limitMatch) text() string {
	what := "after " + strconv.Itoa(m.requests) + " responses"
	if m.requests == 0 {
		what = "at an age of " + short(m.age)
	}
	if m.closes == 0 {
		return "servers have a limit " + what + " by default"
	}
	return "this server closes connections " + what + ", as " + strconv.Itoa(m.closes) + " closes show"
}

// shownLimits returns the limits that the server's closes show.
func (s *server) shownLimits() (l ServerLimit, any bool) {
	for n := range s.limits {
		if s.limited(n) {
			l.Requests, l.Closes, any = n, s.limits[n].times, true
		}
	}
	if tm := s.aged(); tm != nil && l.Requests == 0 {
		l.Age, any = *tm, true
	}
	return l, any
}
