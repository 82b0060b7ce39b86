package correlate

import (
	"cmp"
	"math"
	"slices"
	"time"

	"whyreset/capture"
)

// A kernelEnd is what the kernel of one end said of its socket. Offsets are those
// of conn.
type kernelEnd struct {
	owner  capture.Process
	closed kernelEvent   // the first time that it was closed or shut down
	took   kernelEvent   // the first reset that ended it before its owner had closed it
	resets []kernelEvent // those that it sent, by time
	read   int64         // the highest that its owner had read; 0 if it did not say
	head   []byte        // how what it still had began; nil if it did not say
	doubt  string        // why nothing of this is believed; "" if it is
	socket bool          // it spoke of a socket that had received what the other end sent
}

// A kernelEvent is a reset that a kernel sent, or a close.
type kernelEvent struct {
	seen            bool
	active          bool
	hasUnread       bool // unread, had and read are known
	hasSegment      bool // from, to and ack are known
	unread          uint32
	reason          string
	state, newState string
	time            capture.Time
	had, read       int64 // how far the socket had received, FIN included, and how far its owner had read
	from, to, ack   int64 // of the segment that the reset answers
}

// final reports whether nothing could be read from the socket any more, because its
// owner had closed it. One that is destroyed for another reason keeps what it had
// received (tcp_done leaves the receive queue alone), so that a program may still
// read it: after a reset from its peer, after its peer's silence, after ss -K.
// close() and disconnect throw it away, and are in the state CLOSE when they send
// their reset; orphans have nobody who could read (net/ipv4/tcp.c, tcp_timer.c).
func (e *kernelEvent) final() bool {
	switch e.reason {
	case "TCP_ABORT_ON_CLOSE", "TCP_ABORT_ON_LINGER", "TCP_ABORT_ON_MEMORY", "TCP_DISCONNECT_WITH_DATA":
		return e.active
	}
	return e.active && e.state == "CLOSE"
}

// aborted returns the first reset that the kernel did not send as an answer; nil
// if there was none.
func (k *kernelEnd) aborted() *kernelEvent {
	for i := range k.resets {
		if k.resets[i].active {
			return &k.resets[i]
		}
	}
	return nil
}

// joinFacts gives f what kernels said of the ends of c, and takes that out of the
// store.
func (t *Tracker) joinFacts(c *conn, f *facts) {
	s := &t.facts
	f.slack = moment + unknownPath
	if f.hasRTT {
		f.slack = moment + f.conn.HandshakeRTT
	}
	p := s.pairs[t.table.longHash(&c.ep[0], &c.ep[1])]
	for i := range f.kernel {
		d := f.client
		if i == 1 {
			d = 1 - d
		}
		k := &s.scratch[i]
		*k = kernelEnd{resets: k.resets[:0]}
		if p != nil && p.tell(k, c, d, f.slack) {
			f.kernel[i] = k
			t.countOwner(k)
		}
		if f.resets[i] != nil {
			f.unsent[i] = t.unsent(c, f, i, d)
		}
	}
	if k := f.kernelOf(Server); k != nil && k.socket && c.startSeen && f.openTime != 0 {
		f.server.told = max(f.server.told, c.start)
	}
	if p != nil {
		before := len(p.facts)
		_, end := p.life(&c.ep[0], c, f.slack)
		_, end2 := p.life(&c.ep[1], c, f.slack)
		end = min(end, end2)
		p.facts = slices.DeleteFunc(p.facts, func(x capture.SocketFact) bool { return x.Time < end })
		if s.held -= before - len(p.facts); len(p.facts) == 0 {
			s.forget(p)
		}
	}
}

// life returns when facts of the socket of local are c's: from its birth, as far as
// that was told, to the next on the same ports.
func (p *pairFacts) life(local *capture.Endpoint, c *conn, slack time.Duration) (from, to capture.Time) {
	from, to = c.start.Add(-slack), math.MaxInt64
	for i := range p.facts {
		x := &p.facts[i]
		if x.Local != *local || x.Kind != capture.Opened || x.State == "SYN_SENT" {
			continue
		}
		switch {
		case x.Time > max(c.start, c.openTime).Add(slack):
			return from, x.Time
		case c.startSeen && x.Time < c.start.Add(-slack): // an older connection's
		default:
			from = x.Time
		}
	}
	return from, to
}

// tell fills k with what was said of half d of c. It reports whether that is
// anything.
func (p *pairFacts) tell(k *kernelEnd, c *conn, d int, slack time.Duration) bool {
	from, to := p.life(&c.ep[d], c, slack)
	told := false
	var where uint64
	for i := range p.facts {
		x := &p.facts[i]
		if x.Local != c.ep[d] || x.Time < from || x.Time >= to {
			continue
		}
		e := kernelEvent{seen: true, active: x.Active, reason: x.Reason, state: x.State, newState: x.NewState, time: x.Time, unread: x.Unread}
		if x.Kind != capture.Opened && !c.locate(&e, x, d) {
			continue // of another connection's segment
		}
		told = true
		if x.Owner.Known() && (x.Owner.PID != 0 || !k.owner.Known()) {
			k.owner = x.Owner
		}
		if where != 0 && x.Where != 0 && where != x.Where {
			k.doubt = "sockets in two network namespaces have these addresses"
		}
		where = cmp.Or(x.Where, where)
		if e.hasUnread {
			k.read = max(k.read, e.read)
			if c.near(&e, d) {
				k.socket = true
			}
			k.doubt = cmp.Or(k.doubt, c.contradicts(&e, x.Kind, d, slack))
		}
		if len(k.head) == 0 && x.Kind != capture.ResetReceived {
			k.head = x.Head
		}
		switch {
		case x.Kind == capture.ResetSent:
			k.resets = append(k.resets, e)
		case x.Kind == capture.Closed && !k.closed.seen:
			k.closed = e
		case x.Kind == capture.ResetReceived && !k.took.seen && (x.State == "ESTABLISHED" || x.State == "CLOSE_WAIT"):
			// Later states are those in which the kernel resets a socket itself, when
			// data comes for it (tcp_rcv_state_process).
			k.took = e
		}
	}
	return told
}

// locate gives e its offsets. It reports false if the segment that the reset
// answers lies nowhere near those of c.
func (c *conn) locate(e *kernelEvent, x *capture.SocketFact, d int) bool {
	h, p := &c.half[d], &c.half[1-d]
	if !p.based {
		return true
	}
	if x.HasUnread && x.State != "SYN_SENT" && x.State != "SYN_RECV" {
		e.hasUnread, e.had = true, p.rel(x.RcvNxt)
		data := e.had
		if data == p.end+1 { // a FIN, which is none of the bytes that can be read
			data--
		}
		e.read = data - int64(x.Unread)
	}
	if x.HasSegment {
		e.hasSegment, e.from = true, p.rel(x.Seq)
		e.to = e.from + int64(x.Len)
		if h.based {
			e.ack = h.rel(x.Ack)
		}
		const near = 1 << 20
		return e.from >= -near && e.from <= max(p.upTo(), p.top)+near && (e.from >= -1 || !c.startSeen)
	}
	return true
}

// contradicts says why what a kernel counted cannot be of the socket of half d, as
// its packets show it; "" if it can. What a segment acknowledges is rcv_nxt at that
// moment (__tcp_transmit_skb in net/ipv4/tcp_output.c).
func (c *conn) contradicts(e *kernelEvent, kind capture.FactKind, d int, slack time.Duration) string {
	h, p := &c.half[d], &c.half[1-d]
	reset := kind == capture.ResetSent && e.active
	switch {
	case e.had > max(p.upTo(), p.top, h.ack)+1, c.startSeen && (e.had < 1 || e.read < 1):
		return "it counts bytes that are not of this connection"
	case reset && e.had < h.ack:
		return "it had received less than it acknowledges"
	case reset && h.rst.seen() && h.rst.kind == ActiveReset && h.rst.hasAck && h.rst.ack != e.had && h.rst.time.Sub(e.time).Abs() <= slack:
		return "its reset and the one that was captured acknowledge different numbers"
	case kind == capture.Closed && e.newState != "CLOSE" && h.fin.seen() && h.fin.hasAck && h.fin.ack < e.had:
		return "it had received more when it closed than its FIN acknowledges"
	}
	return ""
}

// An OwnerCount counts the resets that the kernel sent for the sockets of one
// program, of its own accord: because they were closed or aborted.
type OwnerCount struct {
	Command, Container, Name string
	Reason                   string // "" where the kernel does not say
	Resets                   uint64
}

func (t *Tracker) countOwner(k *kernelEnd) {
	e := k.aborted()
	if e == nil || k.doubt != "" || !k.owner.Known() {
		return
	}
	key := OwnerCount{Command: k.owner.Command, Container: k.owner.Container, Name: k.owner.Name, Reason: e.reason}
	if _, ok := t.facts.owners[key]; ok || len(t.facts.owners) < maxServers {
		t.facts.owners[key]++
	}
}

// ownerCounts returns the owners' resets, most first.
func (s *factStore) ownerCounts() []OwnerCount {
	var all []OwnerCount
	for o, n := range s.owners {
		o.Resets = n
		all = append(all, o)
	}
	slices.SortFunc(all, func(a, b OwnerCount) int {
		return cmp.Or(cmp.Compare(b.Resets, a.Resets), cmp.Compare(a.Command, b.Command), cmp.Compare(a.Container, b.Container),
			cmp.Compare(a.Name, b.Name), cmp.Compare(a.Reason, b.Reason))
	})
	return all
}
