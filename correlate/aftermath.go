package correlate

import (
	"math"
	"slices"
	"strconv"

	"whyreset/capture"
)

// What comes after a connection's end bears on its findings too: the request may
// be sent again, and others may show that the server was going down. So findings
// wait for it, in packet time, in their places in the order.

// A waiting finding is complete but for what comes after it.
type waiting struct {
	x      *Finding
	place  int64
	until  capture.Time
	trail  *trail
	server *server
	closed capture.Time // when the server closed; 0 if it did not, or not of its own accord
}

// A waitLine holds findings in the order in which they were made.
type waitLine struct {
	all  []waiting
	next int
}

func (l *waitLine) len() int { return len(l.all) - l.next }

func (l *waitLine) add(w waiting) {
	if l.next > 1024 && l.next*2 > len(l.all) {
		l.all = slices.Delete(l.all, 0, l.next)
		l.next = 0
	}
	l.all = append(l.all, w)
}

// after completes x with what came after it, at once or when that is known.
func (t *Tracker) after(x *Finding, f *facts, r *ruling) {
	w := waiting{x: x, place: t.current, server: f.server}
	if f.hasRequest && f.q.tracks != nil && r.lost {
		w.trail = f.q.tracks.lost
	}
	if w.trail != nil {
		w.until = w.trail.at.Add(replayWindow)
	}
	if (f.first == Server || f.first == BothParties) && f.K.seen() && (r.lost || !f.announced) && !f.onTime() {
		w.closed = f.K.time
		w.until = max(w.until, f.K.time.Add(restartSpan))
	}
	if w.until == 0 {
		return
	}
	if w.place == 0 {
		t.complete(&w)
		return
	}
	t.order.hold(w.place)
	t.waits[0].add(w)
	t.waiting++
}

// nextWaiting returns until when the next of the waiting findings waits;
// math.MaxInt64 if there is none.
func (t *Tracker) nextWaiting() capture.Time {
	at := capture.Time(math.MaxInt64)
	if t.waiting == 0 {
		return at
	}
	for i := range t.waits {
		if l := &t.waits[i]; l.len() > 0 {
			at = min(at, l.all[l.next].until)
		}
	}
	return at
}

// releaseWaiting completes the findings that have waited long enough.
func (t *Tracker) releaseWaiting() {
	for i := range t.waits {
		for l := &t.waits[i]; l.len() > 0; l.next++ {
			w := &l.all[l.next]
			if w.until > t.now {
				break
			}
			c := w.trail.replay()
			if c != nil && c.Status == 0 && !c.Lost && i == 0 && c.Time.Add(replayWindow) > t.now {
				w.until = c.Time.Add(replayWindow)
				t.waits[1].add(*w)
				continue
			}
			t.waiting--
			t.complete(w)
			t.order.close(w.place, t.emit)
			*w = waiting{}
		}
	}
}

// finishWaiting completes all of them.
func (t *Tracker) finishWaiting() {
	for i := range t.waits {
		for l := &t.waits[i]; l.len() > 0; l.next++ {
			w := &l.all[l.next]
			t.waiting--
			t.complete(w)
			t.order.close(w.place, t.emit)
			*w = waiting{}
		}
	}
}

// complete adds to w's finding what came after it.
func (t *Tracker) complete(w *waiting) {
	if w.closed != 0 {
		if r := w.server.restartAt(w.closed, w.x.Connection.Start); r != nil {
			r.mark(w.x)
			t.countRestart(w.x, w.server)
		}
	}
	if c := w.trail.replay(); c != nil {
		t.noteReplay(w.x, c)
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
