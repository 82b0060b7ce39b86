package correlate

import (
	"time"

	"whyreset/capture"
)

// An unsent says what a kernel's silence means of the first RST in its end's name.
type unsent uint8

const (
	maybeSent  unsent = iota // it spoke of it, or cannot be known to have missed it
	sentOthers               // it sent resets on this connection later, and none until then
	neverSent                // it sent none at all
)

// queueLife is how long a RST may have been on its way from where its kernel told of
// it to where it was captured, or in a queue in between: captures see what leaves a
// host behind the queues of its interfaces.
const queueLife = 10 * time.Second

// A Silence is a reset that no kernel told of.
type Silence struct {
	Local, Remote capture.Endpoint // of the connection; in the name of Local it came
	// From is since when a fact might have told of it.
	From capture.Time
	// Since is when the first segment of the connection that was captured came, and
	// Time when the reset did.
	Since, Time capture.Time
	// Socket says that the kernel told of Local's socket, and that this had received
	// what the packets of this connection, and of no other, had brought.
	Socket bool
	// Refused says that the reset answers the SYN that opens the connection: no
	// socket of its own was ever behind it.
	Refused bool
	// Accepted is when the latest of the connections began that Local accepted and
	// that have ended since, of whose sockets there the kernel told; 0: none.
	Accepted capture.Time
}

// unsent compares the first RST in the name of end i, half d of c, with the resets
// that its kernel sent. Silence means something only where every reset would have been
// told of, at that time and at that end.
func (t *Tracker) unsent(c *conn, f *facts, i, d int) unsent {
	k, r := f.kernel[i], f.resets[i]
	if t.local == nil || t.replaced || k != nil && k.doubt != "" {
		return maybeSent // what is on its ports now may be another connection's
	}
	const wait = 200 * time.Millisecond
	near := f.slack + wait
	since := r.time.Add(-queueLife)
	if c.startSeen {
		since = max(since, c.start.Add(-near))
	}
	if !t.facts.whole(since, r.time.Add(near)) {
		return maybeSent
	}
	x := neverSent
	switch first, last := t.facts.sent.of(t.sender(&c.ep[d], &c.ep[1-d])); {
	case last == 0 || last < since:
	case first > r.time.Add(near):
		x = sentOthers
	default: // no other RST had been captured, which it could tell of
		return maybeSent
	}
	q := Silence{Local: c.ep[d], Remote: c.ep[1-d], From: since, Since: c.start, Time: r.time, Socket: k != nil && k.socket, Refused: r.refusal}
	if i == 1 {
		q.Accepted = f.server.told
	}
	if !t.local(&q) {
		return maybeSent
	}
	return x
}

// near reports whether what a kernel counted of the socket of half d lies so close to
// the packets' numbers that it is of this connection: those of another begin anywhere
// in 2^32.
func (c *conn) near(e *kernelEvent, d int) bool {
	const bytes = 1 << 20 // not captured yet, or received since
	p := &c.half[1-d]
	top := max(p.upTo(), p.top, c.half[d].ack)
	return e.had <= top+1 && e.had >= top-bytes
}

// A sentLog remembers when kernels sent resets, apart from the facts: those are gone
// with the first connection that they may be of, and on busy ports the next begins
// within the same moment. A sender is known by a hash; that of another is taken for
// it at worst.
type sentLog struct {
	now, before map[uint64]span
	turned      capture.Time // when before was now
}

// A span is from the first to the last reset.
type span struct{ first, last capture.Time }

// maxSent bounds the senders that are remembered, of each half of the time.
const maxSent = 1 << 16

// add takes in a reset. It reports false if there is no room.
func (l *sentLog) add(sender uint64, at, clock capture.Time) bool {
	const life = 3 * queueLife
	if l.now == nil || clock.Sub(l.turned) > life {
		l.before, l.now, l.turned = l.now, map[uint64]span{}, clock
	}
	x, ok := l.now[sender]
	switch {
	case !ok && len(l.now) >= maxSent:
		return false
	case !ok:
		x = span{at, at}
	}
	l.now[sender] = span{min(x.first, at), max(x.last, at)}
	return true
}

// of returns when a sender's first and last resets were that are remembered; 0 if none
// are.
func (l *sentLog) of(sender uint64) (first, last capture.Time) {
	a, ok := l.before[sender]
	b, ok2 := l.now[sender]
	switch {
	case ok && ok2:
		return min(a.first, b.first), max(a.last, b.last)
	case ok:
		return a.first, a.last
	}
	return b.first, b.last
}

// sender returns what stands for an end of a connection in a sentLog.
func (t *Tracker) sender(local, remote *capture.Endpoint) uint64 {
	return t.table.longHash(local, remote) + t.table.hashEndpoint(local)
}
