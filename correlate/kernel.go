package correlate

import (
	"bytes"
	"slices"
	"time"

	"whyreset/capture"
)

// What kernels say of their sockets waits here for the connections that it is of:
// a fact may come before the packets that it belongs to, or after.

const (
	// maxFacts bounds the facts that wait, and maxFactsOfPair those of one pair of
	// endpoints: a socket has few, but each segment for one that is gone makes one.
	maxFacts       = 1 << 16
	maxFactsOfPair = 64
	// factLife is how long, in packet time, facts wait for a connection that is not
	// followed yet, or not any more.
	factLife = 10 * time.Second
	// unknownPath stands for the round trip where no handshake was captured.
	unknownPath = 250 * time.Millisecond
	// maxHoles bounds how many times are remembered at which facts were lost.
	maxHoles = 64
)

// A factStore holds facts by the hash of their endpoints.
type factStore struct {
	pairs   map[uint64]*pairFacts
	queue   []*pairFacts // each of pairs once, in the order in which they are looked at
	next    int          // of queue: those before it have gone
	held    int          // facts
	clock   capture.Time
	from    capture.Time // since when every fact was handed over; 0: that is not said
	reached capture.Time // until when
	told    uint64       // how many were lost before that
	holes   []hole
	sent    sentLog
	owners  map[OwnerCount]uint64 // by all but Resets
	scratch [2]kernelEnd
}

// A hole is a time of which facts are missing.
type hole struct{ from, to capture.Time }

// pairFacts are the facts of both ends of the connections between two endpoints,
// by time.
type pairFacts struct {
	hash        uint64
	a, b        capture.Endpoint
	facts       []capture.SocketFact
	until, seen capture.Time // when they have waited long enough; the same when they were last looked at
}

// Fact takes what a kernel says of a socket. It keeps no reference to f. Endpoints
// must be those of segments, with the same zones. Facts may come in any order, and
// before the segments that they go with or after; but a connection is judged with what
// is there by then: 2 s of packet time after a reset, 0.5 s after a close.
func (t *Tracker) Fact(f *capture.SocketFact) {
	s := &t.facts
	if s.pairs == nil {
		s.pairs, s.owners = map[uint64]*pairFacts{}, map[OwnerCount]uint64{}
	}
	s.clock = max(s.clock, t.now, f.Time)
	t.sum.Facts++
	t.expireFacts(maxFacts - 1)
	if f.Kind == capture.ResetSent && !s.sent.add(t.sender(&f.Local, &f.Remote), f.Time, s.clock) {
		s.miss(f.Time, f.Time)
	}
	hash := t.table.longHash(&f.Local, &f.Remote)
	p := s.pairs[hash]
	if p == nil {
		p = &pairFacts{hash: hash, a: f.Local, b: f.Remote, seen: s.clock.Add(factLife)}
		s.pairs[hash] = p
		s.queue = append(s.queue, p)
	}
	p.until = s.clock.Add(factLife)
	if len(p.facts) >= maxFactsOfPair {
		t.sum.FactsDropped++
		s.miss(f.Time, f.Time)
		return
	}
	g := *f
	g.Head = bytes.Clone(f.Head)
	i := len(p.facts)
	for i > 0 && p.facts[i-1].Time > g.Time {
		i--
	}
	p.facts = slices.Insert(p.facts, i, g)
	s.held++
}

// FactsLost tells the tracker how many facts were lost until at, counted from the
// beginning.
func (t *Tracker) FactsLost(at capture.Time, lost uint64) {
	s := &t.facts
	if lost > s.told {
		t.sum.FactsLost += lost - s.told
		s.told = lost
		s.miss(s.reached, at)
	}
}

// FactsUntil tells the tracker that it has been handed every fact from before at, none
// being held back by the one who reads them, except for lost ones, the number of which
// is counted from the beginning. It must have been counted before at: the latest count
// of those who hand facts over late is told with FactsLost. The first call says since
// when facts are taken. Only where this is known does it mean anything that a kernel
// did not speak.
func (t *Tracker) FactsUntil(at capture.Time, lost uint64) {
	s := &t.facts
	if s.from == 0 {
		s.from, s.reached = at, at
	}
	t.FactsLost(at, lost)
	s.reached = max(s.reached, at)
	s.clock = max(s.clock, t.now)
	t.expireFacts(maxFacts)
}

// miss notes that facts are missing.
func (s *factStore) miss(from, to capture.Time) {
	if n := len(s.holes); n > 0 && from <= s.holes[n-1].to.Add(time.Second) && to >= s.holes[n-1].from {
		s.holes[n-1] = hole{min(from, s.holes[n-1].from), max(to, s.holes[n-1].to)}
		return
	}
	if len(s.holes) == maxHoles { // the two oldest, and all between them, count as one
		s.holes[1].from = s.holes[0].from
		s.holes = slices.Delete(s.holes, 0, 1)
	}
	s.holes = append(s.holes, hole{from, to})
}

// whole reports whether every fact from from to to is here.
func (s *factStore) whole(from, to capture.Time) bool {
	return s.from != 0 && s.from <= from && s.reached >= to &&
		!slices.ContainsFunc(s.holes, func(h hole) bool { return h.from <= to && h.to >= from })
}

// expireFacts lets go of facts that have waited long enough, unless their
// connection is still followed, and of the oldest where there are more than room.
func (t *Tracker) expireFacts(room int) {
	s := &t.facts
	for s.next < len(s.queue) {
		p := s.queue[s.next]
		full := s.held > room
		if len(p.facts) > 0 && p.seen > s.clock && !full && len(s.queue)-s.next <= 2*maxFacts {
			return
		}
		if s.next++; s.next > 1024 && s.next*2 > len(s.queue) {
			s.queue = slices.Delete(s.queue, 0, s.next)
			s.next = 0
		}
		if len(p.facts) == 0 { // they were joined
			s.forget(p)
			continue
		}
		if p.until <= s.clock && !full {
			if c, _ := t.table.find(&p.a, &p.b, slotHash(p.hash)); c != nil {
				p.until = s.clock.Add(factLife)
			}
		}
		if p.until > s.clock && !full {
			p.seen = p.until
			s.queue = append(s.queue, p)
			continue
		}
		s.forget(p)
		n := uint64(len(p.facts))
		s.held -= len(p.facts)
		if full {
			t.sum.FactsDropped += n
			s.miss(p.facts[0].Time, p.facts[n-1].Time)
		} else if _, ok := t.gone.find(p.hash); !ok {
			t.sum.FactsUnjoined += n
		}
	}
}

// forget takes p out of the table.
func (s *factStore) forget(p *pairFacts) {
	if s.pairs[p.hash] == p {
		delete(s.pairs, p.hash)
	}
}
