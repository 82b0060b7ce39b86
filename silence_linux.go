package main

import (
	"time"

	"whyreset/capture"
	"whyreset/correlate"
)

// Silences judge resets in the name of this host's ends that its kernel did not tell
// of: whether it cannot have sent them. That takes more than that all it sends is told
// of, since a reset in the name of one of its addresses may be another host's: behind
// a balancer, a translation of addresses, a transparent proxy. So it holds
//
//   - only for addresses that exactly one of the places that are watched has, on an
//     interface of its own;
//   - where packets of the connection did reach a socket of this kernel: it told of
//     that, with numbers that fit, or it has the socket still, and that took something
//     after the first packet that was captured. What sent the reset then, sent it in
//     the name of that socket. That a program listens on the port would prove less:
//     who balances or translates need not do it for every connection;
//   - and where a connection was refused at once, for which no socket ever was: only
//     with a listener that its SYN would reach, in the one place that is watched, and
//     nothing there that translates. That connection tracking knows of nothing does
//     not show that: it forgets at once what is refused ([capture.Sockets.Untracked]).
//     So another connection must have been accepted there after that, and have ended,
//     which it would still know.
type silences struct {
	zones *capture.Zones
	views []*view
	whole bool // of every place the kernel tells all, and there is a view
	asked int  // since
	since time.Time
	swept time.Time
}

// A view is into one of the places.
type view struct {
	*capture.Sockets
	name   string
	over   func() bool
	opened capture.Time
}

const (
	// maxSilences bounds what is asked within a second; nothing is known of the
	// others. It costs a few microseconds each.
	maxSilences = 1000
	// remembered is for how long connection tracking knows a connection after its end,
	// well short of that: 10 s, if it is not told to keep them for less.
	remembered = 5 * time.Second
	// ticks is how exact the times are at which a socket was last used.
	ticks = 20 * time.Millisecond
)

// look opens a view into a place. It takes the privileges that entering does.
func (s *silences) look(p capture.Place) {
	v := &view{name: p.Name, over: p.Over}
	open := func() (err error) {
		v.Sockets, err = capture.OpenSockets()
		return err
	}
	var err error
	if p.Enter != nil {
		err = p.Enter(open)
	} else {
		err = open()
	}
	if err != nil {
		s.whole = false // its addresses might be those of another place
		return
	}
	v.opened = capture.Time(time.Now().UnixNano())
	s.views = append(s.views, v)
}

// sweep closes the views into places that are gone, which would hold them.
func (s *silences) sweep(now time.Time) {
	if now.Sub(s.swept) < time.Second {
		return
	}
	s.swept = now
	n := 0
	for _, v := range s.views {
		if v.over != nil && v.over() {
			v.Close()
			continue
		}
		s.views[n] = v
		n++
	}
	clear(s.views[n:])
	s.views = s.views[:n]
}

// unsent reports whether the end in whose name a reset came cannot have sent it.
func (s *silences) unsent(q *correlate.Silence) bool {
	now := time.Now()
	if now.Sub(s.since) >= time.Second {
		s.since, s.asked = now, 0
	}
	if s.asked++; !s.whole || s.asked > maxSilences {
		return false
	}
	var at *view
	for _, v := range s.views {
		if q.Local.Loopback() && v.name != s.zones.Name(q.Local) || !v.Has(&q.Local) {
			continue
		}
		if at != nil {
			return false
		}
		at = v
	}
	if at == nil || at.opened > q.From {
		return false
	}
	if q.Socket {
		return true
	}
	x, ok := at.Find(&q.Local, &q.Remote)
	switch {
	case !ok:
		return false
	case q.Refused:
		return x.Listens && len(s.views) == 1 && q.Accepted >= q.Time && now.Sub(q.Time.Std()) < remembered && at.Untracked()
	}
	return !x.Listens && x.Heard != 0 && x.Heard > q.Since.Add(-ticks)
}

func (s *silences) close() {
	for _, v := range s.views {
		v.Close()
	}
	s.views = nil
}
