package correlate

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"whyreset/capture"
)

// Config sets a tracker's bounds.
type Config struct {
	// MaxConnections bounds the connections followed at once; 0 means
	// DefaultMaxConnections. Beyond it one that was quiet for long is given up
	// and counted in Summary.Evicted.
	MaxConnections int
	// Brief leaves connections that ended with nothing lost to the Summary,
	// instead of reporting a finding for each.
	Brief bool
	// Local reports whether a reset that no fact tells of was not sent by the TCP of
	// the end in whose name it came: that end is a socket on this host, none of
	// whose resets is filtered out, and the kernel tells of those without a socket
	// too, as Linux does from 6.10 on. Nil: that holds for none. Only with it, and
	// with Tracker.FactsUntil, is anything concluded from a reset that no kernel
	// told of. It is asked for each of those, when its connection is judged.
	Local func(*Silence) bool
}

// DefaultMaxConnections is the bound when Config does not set one.
const DefaultMaxConnections = 1 << 20

const (
	// linger is how long, in packet time, an ended connection waits for segments
	// that its verdict would use, such as the reset that answers a request: longer
	// than nearly all round trips.
	linger = 500 * time.Millisecond
	// lingerIdle is the same for one without an outstanding request. No verdict on
	// a request depends on it, and short connections take half as long again where
	// a second's worth of them waits, since no cache holds so many.
	lingerIdle = 100 * time.Millisecond
	// lingerOdd is the same where a reset with no close before it met a request, or
	// may not have been taken: whether its sender goes on all the same, and
	// whether SYNs are refused, tells who sent it.
	lingerOdd = 2 * time.Second
	// timerWait is how long a verdict that only lacks the server's idle timer
	// waits for it to be learned.
	timerWait = 2 * time.Minute
	// maxHeld bounds the verdicts that wait for a timer at once.
	maxHeld = 4096
	// answerWait is how long a request must have waited, when the capture ends,
	// for its server to count as silent.
	answerWait = time.Minute
)

// A Tracker follows connections and reports findings.
type Tracker struct {
	emit      func(*Finding)
	max       int
	brief     bool
	local     func(*Silence) bool
	replaced  bool // the connection that is judged has given way to one between the same ports
	facts     factStore
	scratch   facts
	counted   ruling   // see facts.counted
	lastKey   countKey // of lastCount
	lastCount *VerdictCount
	now       capture.Time
	clocks    []capture.Time // the same of each file
	table     *table
	last      *conn // the connection of the previous segment
	all       []*conn
	spare     []*conn
	agents    agents
	who       who        // of the head that is being read
	requests  []*request // to be used again
	ends      []*ends    // the same
	resets    []*resetTrace
	accepts   [1024]accept
	live      int // requests in use
	hand      int
	pendBytes int
	pieces    int // that wait to be framed
	stored    int // bytes of all half.buf

	ended     waitingLine  // connections that ended with a request outstanding
	endedIdle waitingLine  // those that ended without
	endedOdd  waitingLine  // see lingerOdd
	due       capture.Time // when the first of these has waited long enough, or before
	gone      goneRing
	held      []held      // verdicts that wait for a timer
	waits     [2]waitLine // findings that wait for what comes after: for a copy, and for the answer to it
	waiting   int         // how many there are
	trails    []*trail    // requests that were lost within replayWindow
	trailOf   map[uint32]*trail
	repeats   [maxRepeats]repeat

	servers map[capture.Endpoint]*server
	hosts   map[[16]byte]*ipHeader // of their SYN-ACKs, whatever the port
	crowds  map[crowd]int
	elided  map[uint64]*Elided // by conn.id, of those that a recorder kept in part
	counts  map[countKey]*VerdictCount
	reasons map[countKey]map[string]uint64
	sum     Summary
	order   outOrder // what was found, in the order of the ends
	current int64    // the place in order that findings belong to; 0: none
}

type countKey struct {
	verdict Verdict
	server  capture.Endpoint
}

// A lingering connection has ended and waits for what may follow. It may be
// judged earlier, or go on, and its place be used again: then id is not c's any
// more, or c is not ending.
type lingering struct {
	c  *conn
	id uint64
}

func (e lingering) waits() bool { return e.c.id == e.id && e.c.state == ending }

// A held finding is one that the server's idle timer would decide.
type held struct {
	f     *facts
	until capture.Time
}

// New returns a tracker that calls emit with each finding, in the order in which
// the connections ended; a verdict that waits for a server's idle timer comes once
// that is known, or after timerWait. The finding belongs to emit.
func New(cfg Config, emit func(*Finding)) *Tracker {
	if cfg.MaxConnections <= 0 {
		cfg.MaxConnections = DefaultMaxConnections
	}
	return &Tracker{
		emit:    emit,
		max:     cfg.MaxConnections,
		brief:   cfg.Brief,
		local:   cfg.Local,
		table:   newTable(rand.Uint64()),
		agents:  newAgents(),
		servers: map[capture.Endpoint]*server{},
		hosts:   map[[16]byte]*ipHeader{},
		crowds:  map[crowd]int{},
		elided:  map[uint64]*Elided{},
		counts:  map[countKey]*VerdictCount{},
		reasons: map[countKey]map[string]uint64{},
	}
}

// Add takes the next segment of the capture. It keeps no reference to s.
func (t *Tracker) Add(s *capture.Segment) {
	for s.File >= len(t.clocks) {
		t.clocks = append(t.clocks, 0)
	}
	t.clocks[s.File] = max(t.clocks[s.File], s.Time)
	if s.Time > t.now {
		t.advance(s.Time)
	}
	c, d, fresh := t.last, 0, false
	if c != nil && c.ep[0] == s.Src && c.ep[1] == s.Dst {
	} else if c != nil && c.ep[1] == s.Src && c.ep[0] == s.Dst {
		d = 1
	} else {
		hash := t.table.longHash(&s.Src, &s.Dst)
		c, d = t.table.find(&s.Src, &s.Dst, slotHash(hash))
		if c == nil {
			if s.Elided == nil && t.late(s, hash) {
				return
			}
			c, d, fresh = t.open(s, slotHash(hash)), 0, true
		}
		t.last = c
	}
	if s.Elided != nil {
		if c.kept = true; s.Elided.Before {
			c.elide(t, s, d)
			return
		}
	}
	if fresh {
	} else if c.half[d].ends != c.half[1-d].ends && c.elsewhere(s, d) {
		// Its SYN was not captured, and the ports are those of one that had closed.
		c, d = t.replace(c, s), 0
	} else if s.Flags&(capture.SYN|capture.RST) == capture.SYN || c.pendingFrom >= 0 {
		if c = t.again(c, s, d); c == nil {
			return
		}
		if c.ep[0] == s.Src {
			d = 0
		} else {
			d = 1
		}
	}
	c.segment(t, s, d)
}

// elsewhere reports whether a segment with data, of a connection that one end has
// closed, lies further from all that both ends sent than any window reaches
// (RFC 7323, section 2.3), or behind a FIN. A server in TIME-WAIT goes on a little
// behind the sequence numbers that it had (tcp_timewait_state_process).
func (c *conn) elsewhere(s *capture.Segment, d int) bool {
	h, p := &c.half[d], &c.half[1-d]
	if s.Len == 0 || s.Flags&(capture.SYN|capture.RST) != 0 || s.Flags&capture.ACK == 0 || !h.based || !p.based || !h.fin.seen() && !p.fin.seen() {
		return false
	}
	const window = 1 << 30
	beyond := func(off int64, h *half) bool {
		return off > h.upTo()+window/16 || off < 1-window/16 || h.fin.seen() && off > h.fin.off+1
	}
	return beyond(h.rel(s.Seq), h) && beyond(p.rel(s.Ack), p)
}

// again handles a segment that may begin another connection on the same
// endpoints. It returns the connection that the segment belongs to; nil if none.
func (t *Tracker) again(c *conn, s *capture.Segment, d int) *conn {
	switch {
	case s.Flags&(capture.SYN|capture.ACK|capture.RST) == capture.SYN:
		h := &c.half[d]
		if h.based && s.Seq == h.base && c.startSeen {
			return c // sent again
		}
		if r := c.half[1-d].reset; r != nil && c.half[d].packets == 0 && r.raw == s.Seq+1 && s.Time.Sub(r.time) < moment {
			return t.refusedBefore(c, s, r)
		}
		if c.ended != 0 || c.half[0].fin.seen() || c.half[1].fin.seen() || (c.responses+c.requests == 0 && !c.startSeen && c.half[0].next+c.half[1].next <= 2) {
			return t.replace(c, s)
		}
		if c.startSeen && c.half[1-d].packets == 0 {
			return t.replace(c, s) // the first attempt was never answered
		}
		// An open connection: a live peer answers a stray SYN with a challenge
		// ACK (RFC 5961, section 4). Only the SYN-ACK makes it a new connection.
		c.pendingFrom, c.pendingSYN, c.pendingTime = int8(d), s.Seq, s.Time
		return nil
	case c.pendingFrom >= 0 && d == int(1-c.pendingFrom) && s.Has(capture.SYN|capture.ACK) && s.Ack == c.pendingSYN+1,
		c.pendingFrom >= 0 && d == int(c.pendingFrom) && s.Seq == c.pendingSYN+1 && s.Flags&capture.RST == 0:
		syn, from := *s, c.pendingFrom
		syn.Src, syn.Dst = c.ep[from], c.ep[1-from]
		syn.Seq, syn.Flags, syn.Time, syn.Len, syn.Payload = c.pendingSYN, capture.SYN, c.pendingTime, 0, nil
		n := t.replace(c, &syn)
		n.segment(t, &syn, 0)
		return n
	}
	return c
}

// refusedBefore handles a SYN whose refusal, which opened c, was captured first.
func (t *Tracker) refusedBefore(c *conn, s *capture.Segment, r *resetTrace) *conn {
	rst := capture.Segment{Time: s.Time, Src: s.Dst, Dst: s.Src, Ack: r.raw, Flags: capture.RST | capture.ACK, TTL: r.ttl, IPID: r.ipid, WScale: -1, Frame: r.frame, File: int(r.file)}
	t.order.close(c.place, t.emit)
	t.discard(c)
	t.recycle(c)
	t.sum.Connections--
	n := t.open(s, t.table.hash(&s.Src, &s.Dst))
	t.last = n
	n.segment(t, s, 0)
	n.segment(t, &rst, 1)
	return nil
}

// late reports whether s only follows a connection that was reported already: the
// last acknowledgements, resets, FINs sent again. A SYN never does, nor does data
// after a while.
func (t *Tracker) late(s *capture.Segment, hash uint64) bool {
	if s.Flags&capture.SYN != 0 {
		return false
	}
	at, ok := t.gone.find(hash)
	if !ok || s.Len > 1 && s.Time.Sub(at) > 30*time.Second {
		return false
	}
	t.sum.Late++
	return true
}

// replace lets a new connection take the place of c in the table.
func (t *Tracker) replace(c *conn, s *capture.Segment) *conn {
	t.replaced = true
	t.finish(c, false)
	t.replaced = false
	n := t.open(s, t.table.hash(&s.Src, &s.Dst))
	t.last = n
	return n
}

func (t *Tracker) open(s *capture.Segment, hash uint32) *conn {
	var c *conn
	if len(t.spare) == 0 && len(t.all) >= t.max {
		t.evict()
	}
	if n := len(t.spare); n > 0 {
		c, t.spare = t.spare[n-1], t.spare[:n-1]
	} else {
		c = new(conn)
		t.all = append(t.all, c)
	}
	c.reset()
	c.hash, c.state = hash, open
	c.id = t.sum.Connections
	c.ep[0], c.ep[1] = s.Src, s.Dst
	c.start = s.Time
	c.half[0].next, c.half[1].next = 1, 1
	if s.Flags&capture.SYN == 0 {
		c.startBare = s.Flags == capture.ACK && s.Len == 0
		c.missing |= missingStart
		c.half[0].state, c.half[1].state = lost, lost
	}
	t.sum.Connections++
	t.table.insert(c)
	return c
}

// evict gives up one connection: of the next few, the one that was quiet longest,
// and one without an outstanding request before one with.
func (t *Tracker) evict() {
	var victim *conn
	for range 64 {
		t.hand = (t.hand + 1) % len(t.all)
		c := t.all[t.hand]
		if c.state == free || c == t.last {
			continue
		}
		if victim == nil || t.duller(c, victim) {
			victim = c
		}
	}
	if victim == nil {
		return
	}
	t.sum.Evicted++
	t.order.close(victim.place, t.emit)
	t.discard(victim)
	t.recycle(victim)
}

func (t *Tracker) duller(a, b *conn) bool {
	if (len(a.queue) > 0) != (len(b.queue) > 0) {
		return len(b.queue) > 0
	}
	return a.last < b.last
}

// discard forgets what waits to be framed on c.
func (t *Tracker) discard(c *conn) {
	for d := range c.half {
		for i := range c.half[d].pend {
			t.pendBytes -= len(c.half[d].pend[i].payload)
		}
		t.pieces -= len(c.half[d].pend)
		clear(c.half[d].pend)
		c.half[d].pend = c.half[d].pend[:0]
	}
}

func (t *Tracker) recycle(c *conn) {
	t.table.remove(c)
	if t.last == c {
		t.last = nil
	}
	t.strip(c)
	if c.server != nil && !c.gone {
		c.server.open--
	}
	c.state = free
	t.due = 0 // another may be first in its line now
	t.spare = append(t.spare, c)
}

// strip takes back what c, which has been judged, holds beside itself.
func (t *Tracker) strip(c *conn) {
	t.freeRequest(c.answered)
	c.answered = nil
	for i, r := range c.queue {
		t.freeRequest(r)
		c.queue[i] = nil
	}
	c.up = nil
	if c.kept {
		delete(t.elided, c.id)
	}
	c.queue = c.queue[:0]
	if cap(c.queue) > 64 {
		c.queue = nil
	}
	for d := range c.half {
		h := &c.half[d]
		if c.tls != nil {
			c.tls.half[d].drop(t)
		}
		t.stored -= cap(h.buf)
		h.buf, h.pend = nil, nil
		if h.ends != &notClosed {
			if h.reset != nil {
				t.resets = append(t.resets, h.reset)
			}
			t.ends = append(t.ends, h.ends)
			h.ends = &notClosed
		}
	}
}

// end notes that c ended at time at; its verdict waits a little for what follows.
func (t *Tracker) end(c *conn, at capture.Time) {
	if c.ended == 0 {
		c.ended = at
	}
	if c.state != open {
		return
	}
	c.state = ending
	c.place = t.order.open()
	t.due = min(t.due, at.Add(lingerIdle))
	asked := t.facts.clock != 0 // what kernels say of it may come a while later
	switch {
	case asked && c.resetSeen, c.half[0].reset.odd() || c.half[1].reset.odd() || c.wasReset() && (len(c.queue) > 0 || c.responses == 0):
		t.endedOdd.add(c)
	case len(c.queue) > 0 || c.responses == 0 && c.serverHalf().reset != nil, asked && !t.brief:
		t.ended.add(c)
	default:
		t.endedIdle.add(c)
	}
}

// advance lets the clock run to now and judges what has waited long enough, each
// at its own time and in the order of those times. So it makes no difference how far
// apart the calls are: whether a live capture's clock ticks while nothing comes, or
// the next packet of a file comes an hour later.
func (t *Tracker) advance(now capture.Time) {
	for now >= t.due || len(t.held) > 0 || t.waiting > 0 {
		ended, line := t.due, (*waitingLine)(nil)
		if now >= t.due {
			ended, line = t.nextEnded()
			t.due = ended
		}
		next := min(ended, now)
		switch waiting := t.nextWaiting(); {
		case len(t.held) > maxHeld, len(t.held) > 0 && t.held[0].until <= min(next, waiting):
			// Its timer has not been learned in time.
			h := t.held[0]
			t.held = t.held[1:]
			t.now = max(t.now, min(h.until, now))
			t.report(h.f, h.f.decide())
		case waiting <= next:
			t.now = max(t.now, waiting)
			t.releaseWaiting()
		case ended <= now:
			c := line.conns[line.next].c
			line.next++
			t.now = max(t.now, ended)
			t.finish(c, false)
		default:
			t.now = now
			return
		}
	}
	t.now = now
}

// nextEnded returns when the next of the connections that ended has waited long
// enough, and the line that it is the first of; math.MaxInt64 if there is none.
func (t *Tracker) nextEnded() (at capture.Time, line *waitingLine) {
	at = math.MaxInt64
	for _, l := range []struct {
		*waitingLine
		wait time.Duration
	}{{&t.endedIdle, lingerIdle}, {&t.ended, linger}, {&t.endedOdd, lingerOdd}} {
		for ; l.len() > 0; l.next++ {
			e := l.conns[l.next]
			if !e.waits() { // judged earlier
				continue
			}
			if e.c.ended == 0 { // it went on after all
				e.c.state = open
				t.order.close(e.c.place, t.emit)
				e.c.place = 0
				continue
			}
			if due := e.c.ended.Add(l.wait); due < at {
				at, line = due, l.waitingLine
			}
			break
		}
	}
	return at, line
}

// An outOrder brings findings into the order in which their connections ended,
// although those without a request outstanding are judged sooner.
type outOrder struct {
	places []place
	next   int   // of places: those before it are through
	first  int64 // the number of places[0]; numbers begin at 1
}

type place struct {
	findings []*Finding
	holds    int // how many reasons there are to wait with it
}

// open returns the number of the next place.
func (o *outOrder) open() int64 {
	if o.next > 1024 && o.next*2 > len(o.places) {
		o.places = slices.Delete(o.places, 0, o.next)
		o.first += int64(o.next)
		o.next = 0
	}
	if o.first == 0 {
		o.first = 1
	}
	o.places = append(o.places, place{holds: 1})
	return o.first + int64(len(o.places)) - 1
}

// add puts x into place n.
func (o *outOrder) add(n int64, x *Finding) {
	p := &o.places[n-o.first]
	p.findings = append(p.findings, x)
}

// hold calls for one more close of place n.
func (o *outOrder) hold(n int64) { o.places[n-o.first].holds++ }

// close says that nothing more comes for place n, and emits what is due. Place 0
// is none.
func (o *outOrder) close(n int64, emit func(*Finding)) {
	if n == 0 {
		return
	}
	o.places[n-o.first].holds--
	for ; o.next < len(o.places) && o.places[o.next].holds == 0; o.next++ {
		for _, x := range o.places[o.next].findings {
			emit(x)
		}
		o.places[o.next].findings = nil
	}
}

// A waitingLine holds connections in the order of their ends.
type waitingLine struct {
	conns []lingering
	next  int // of conns: those before it have gone
}

func (l *waitingLine) len() int { return len(l.conns) - l.next }

func (l *waitingLine) add(c *conn) {
	if l.next > 1024 && l.next*2 > len(l.conns) {
		l.conns = slices.Delete(l.conns, 0, l.next)
		l.next = 0
	}
	l.conns = append(l.conns, lingering{c, c.id})
}

// finish reports c, which has ended or, if atEnd, was met by the capture's end.
func (t *Tracker) finish(c *conn, atEnd bool) {
	c.settle(t, true)
	c.noteCutHead(t, 0)
	c.noteCutHead(t, 1)
	t.discard(c)
	if c.place == 0 {
		c.place = t.order.open()
	}
	t.current = c.place
	t.judge(c, atEnd)
	t.current = 0
	t.order.close(c.place, t.emit)
	t.gone.add(t.table.longHash(&c.ep[0], &c.ep[1]), c.last)
	t.recycle(c)
}

// clock returns the time at which the capture that last showed c ended: another
// file that was read with it may be from another day.
func (t *Tracker) clock(c *conn) capture.Time {
	if len(t.clocks) <= 1 {
		return t.now
	}
	return t.clocks[c.file]
}

// Following returns how many connections are kept in memory.
func (t *Tracker) Following() int { return len(t.all) }

// Open returns how many connections have not been judged yet.
func (t *Tracker) Open() int { return len(t.all) - len(t.spare) }

// Held returns how many requests are known to be lost and wait for the server's
// idle timer to be learned, at most two minutes.
func (t *Tracker) Held() int { return len(t.held) }

// Connections returns how many connections were met so far.
func (t *Tracker) Connections() uint64 { return t.sum.Connections }

// Lost returns how many requests are known to be lost so far.
func (t *Tracker) Lost() uint64 { return t.sum.Lost }

// Tick tells the tracker that the capture's clock has reached now and that no
// segment from before is to come, so that findings come out while none arrives.
// It makes them come earlier, and changes nothing else.
func (t *Tracker) Tick(now capture.Time) {
	if now > t.now {
		t.advance(now)
	}
}

// Finish ends the capture: everything that can still be judged is.
func (t *Tracker) Finish() {
	ended := slices.Concat(t.ended.conns[t.ended.next:], t.endedIdle.conns[t.endedIdle.next:], t.endedOdd.conns[t.endedOdd.next:])
	slices.SortFunc(ended, func(a, b lingering) int {
		return cmp.Or(cmp.Compare(a.c.ended, b.c.ended), cmp.Compare(a.id, b.id))
	})
	for _, e := range ended {
		if e.waits() && e.c.ended != 0 {
			t.finish(e.c, false)
		}
	}
	t.ended, t.endedIdle, t.endedOdd = waitingLine{}, waitingLine{}, waitingLine{}
	var rest []*conn
	for _, c := range t.all {
		if c.state == open || c.state == ending {
			rest = append(rest, c)
		}
	}
	slices.SortFunc(rest, func(a, b *conn) int { return int(int64(a.id) - int64(b.id)) })
	for _, c := range rest {
		t.finish(c, true)
	}
	for _, h := range t.held {
		t.report(h.f, h.f.decide())
	}
	t.held = nil
	t.finishWaiting()
}
