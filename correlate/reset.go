package correlate

import (
	"math"
	"time"

	"whyreset/capture"
)

// An ipHeader is what the IP headers of one end's segments, RSTs aside, have in
// common.
type ipHeader struct {
	ttlLow, ttlHigh uint8  // the range of its TTLs; 0 before any
	steady          uint8  // how many times in a row its IP ID went on by a little
	id              uint16 // the latest IP ID
}

// maxStep is the most by which an IP ID goes on from one segment to the next
// where a counter is kept: an offloaded segment counts as the packets that it
// becomes, and other connections may share the counter.
const maxStep = 64

func (h *ipHeader) note(s *capture.Segment) {
	if s.TTL != h.ttlHigh || s.TTL != h.ttlLow {
		h.ttlHigh = max(h.ttlHigh, s.TTL)
		if s.TTL < h.ttlLow || h.ttlLow == 0 {
			h.ttlLow = s.TTL
		}
	}
	switch step := s.IPID - h.id; {
	case step == 0: // IPv6, or the same packet once more
	case step <= maxStep:
		h.id, h.steady = s.IPID, min(h.steady, 254)+1
	case step < -maxStep&math.MaxUint16: // else it came out of order
		h.id, h.steady = s.IPID, 0
	}
}

// off returns by how much ttl is out of the range that was seen; 0 if nothing was.
func (h *ipHeader) off(ttl uint8) int {
	switch {
	case h.ttlLow == 0:
		return 0
	case ttl < h.ttlLow:
		return int(h.ttlLow) - int(ttl)
	case ttl > h.ttlHigh:
		return int(ttl) - int(h.ttlHigh)
	}
	return 0
}

// A resetTrace is the first RST in the name of one end, and what there is to tell
// whether that end sent it.
type resetTrace struct {
	hasAck   bool
	refusal  bool // it refuses a SYN
	ttl      uint8
	answers  uint8 // how many RSTs there were that may each answer another segment: their numbers were acknowledged
	guesses  uint8 // how many RSTs followed whose sequence numbers lie ahead of everything sent
	ipid     uint16
	file     int32
	off, ack int64  // its numbers
	raw      uint32 // the acknowledgement number as in the header
	time     capture.Time
	frame    uint64

	before     ipHeader      // that end's, as far as it had been seen
	packets    uint64        // how many of that end's segments had been seen
	next       int64         // behind everything that end had sent, its FIN included
	heard      int64         // the highest offset of that end's that the other had acknowledged
	quiet      time.Duration // since that end's latest segment; -1 if there was none
	unasked    time.Duration // since the other end's latest segment; -1 if there was none
	finFirst   bool          // that end had sent its FIN
	answered   int64         // the highest number among answers
	challenged bool          // the other end answered it with an acknowledgement, and was alive
	over       bool          // what that end sent later is not looked at any more

	after      uint8 // how many of that end's segments came later that no closed connection sends
	afterFrame uint64
	afterTime  capture.Time

	length, captured int // bytes of payload, on the wire and in the capture
	payload          [maxResetPayload]byte
}

// maxResetPayload bounds what is kept of a RST's payload.
const maxResetPayload = 64

// trace notes a RST in the name of half d. Once the connection has gone on in
// spite of one, the next counts as the first.
func (c *conn) trace(t *Tracker, s *capture.Segment, d int, at stamp) {
	h, p := &c.half[d], &c.half[1-d]
	r := h.reset
	off := int64(0)
	if h.based {
		off = h.rel(s.Seq)
	}
	if r != nil && !r.challenged && !(r.after > 0 && p.ack > r.next) {
		guess := func(off int64) bool { return off > r.next+1 && off > p.ack && off < r.next+1<<20 && r.after == 0 }
		switch {
		case guess(off) && r.off <= r.next:
			r.guesses = min(r.guesses, 254) + 1
		case guess(r.off) && off <= r.next && s.Time.Sub(r.time) < moment: // it was captured out of order
			r.guesses = min(r.guesses, 254) + 1
			r.off, r.ack, r.time, r.frame, r.hasAck = off, at.ack, s.Time, s.Frame, at.hasAck
		}
		if r.length == 0 {
			r.carries(s)
		}
		r.answer(at, off, p)
		return
	}
	if r == nil {
		r = t.newReset()
		h.closings(t).reset = r
	}
	*r = resetTrace{
		hasAck: at.hasAck, ttl: s.TTL, ipid: s.IPID, file: int32(s.File), off: off, ack: at.ack, time: s.Time, frame: s.Frame, raw: s.Ack,
		before: h.header, packets: uint64(h.packets - 1), next: h.upTo(), heard: p.ack, quiet: -1, unasked: -1, finFirst: h.fin.seen(),
	}
	if h.last != 0 {
		r.quiet = s.Time.Sub(h.last)
	}
	if p.last != 0 {
		r.unasked = s.Time.Sub(p.last)
	}
	r.carries(s)
	r.answer(at, off, p)
}

// answer counts a RST of the form that answers a segment.
func (r *resetTrace) answer(at stamp, off int64, p *half) {
	if !at.hasAck && off <= p.ack && (r.answers == 0 || off > r.answered) {
		r.answers, r.answered = min(r.answers, 254)+1, off
	}
}

// far reports whether the RST came from another distance than its sender's other
// segments had.
func (r *resetTrace) far() bool { return r.packets >= 2 && r.before.off(r.ttl) > ttlJitter }

// ahead reports whether the RST's number lies in the window at best, and is not
// the next that was due.
func (r *resetTrace) ahead() bool { return r.off > r.next && r.off > r.heard }

// odd reports whether what follows will tell more about the RST.
func (r *resetTrace) odd() bool { return r != nil && !r.refusal && (r.far() || r.ahead()) }

// challenges reports whether a segment of h's, the other end's, that bears no
// data is its answer to a RST that it did not take (RFC 5961, section 3.2): the
// acknowledgement that it had sent before once more. One that a RST ends sends
// nothing any more.
func (r *resetTrace) challenges(h *half, s *capture.Segment, off int64, at stamp) bool {
	r.challenged = r.challenged || r.ahead() && s.Flags == capture.ACK && off == h.top && at.ack == h.ack && at.ack == r.heard && int32(s.File) == r.file
	return r.challenged
}

func (r *resetTrace) carries(s *capture.Segment) {
	r.length, r.captured = s.Len, len(s.Payload)
	copy(r.payload[:], s.Payload)
}

// resendWait is the least time after which TCP sends data again, other than for
// acknowledgements that it gets (RFC 6298; Linux's TCP_RTO_MIN is 200 ms).
const resendWait = 150 * time.Millisecond

// wentOn looks at a segment that h, in whose name a RST was seen, sent all the
// same. Only what cannot have been overtaken by the RST on its way counts.
func (h *half) wentOn(s *capture.Segment, off int64, at stamp) {
	r, end := h.reset, off+int64(s.Len)
	since := s.Time.Sub(r.time)
	if s.Flags&capture.SYN != 0 || off > h.top {
		r.over = true // what follows may be of another connection on these ports
	}
	if r.over || int32(s.File) != r.file || since <= moment {
		return
	}
	fresh := end > h.top || at.hasAck && h.ackSeen && at.ack > h.ack || s.Flags&capture.FIN != 0 && !h.fin.seen()
	if !fresh && !(s.Len > 1 && since > resendWait && s.IPID != h.header.id) {
		return
	}
	if r.after == 0 {
		r.afterFrame, r.afterTime = s.Frame, s.Time
	}
	r.after = min(r.after, 254) + 1
}

// probed counts a keep-alive probe: a segment just below what was sent (RFC 9293,
// section 3.8.4) after a silence of both ends.
func (h *half) probed(s *capture.Segment, off int64, quiet time.Duration) {
	if off == h.top-1 && quiet > 500*time.Millisecond && s.Flags&(capture.SYN|capture.FIN) == 0 && h.probes < 255 {
		h.probes++
	}
}

// newReset returns an empty trace; strip takes it back.
func (t *Tracker) newReset() *resetTrace {
	if n := len(t.resets); n > 0 {
		r := t.resets[n-1]
		t.resets = t.resets[:n-1]
		return r
	}
	return new(resetTrace)
}

// An rtt is a round-trip time in units of 1.024 µs, which take no division: 0 if
// it is not known.
type rtt uint32

const rttShift = 10

// shorter returns the less of r and d.
func shorter(r rtt, d time.Duration) rtt {
	if r != 0 && d >= time.Duration(r)<<rttShift {
		return r
	}
	return rtt(min(max(d>>rttShift, 1), math.MaxUint32))
}

// An opening tells how a connection was opened, beyond the times in conn.
type opening struct {
	syns        uint8 // how often the SYN was sent
	again       uint8 // how often the SYN-ACK was sent again after the client had acknowledged it
	doubled     uint8 // how many packets of the opening, and of the request, were captured twice
	others      bool  // a while after the first SYN, another connection of the same client to the same server was accepted
	clientSpoke bool  // the client sent more than SYNs
}

// aliveAfter is how long after a SYN without an answer another connection must be
// accepted to show that the server's host and the path to it are still there: one
// that is accepted at the same moment may have been the last.
const aliveAfter = 500 * time.Millisecond

// resent is how far apart copies of a SYN are at least that were sent, and not
// only captured again on their way.
const resent = 200 * time.Millisecond

// asked notes a SYN of c's client; quiet is how long nothing had been seen of c.
func (o *opening) asked(t *Tracker, c *conn, quiet time.Duration) {
	switch {
	case o.syns > 0 && quiet < resent:
		o.doubled++
		return
	case o.syns > 0 && c.synAckTime == 0:
		o.others = o.others || t.acceptedAfter(c, c.synTime.Add(aliveAfter)) != 0
	}
	o.syns = min(o.syns, 254) + 1
}

// accepted notes a SYN-ACK of c's server.
func (o *opening) accepted(t *Tracker, c *conn, s *capture.Segment) {
	switch {
	case c.synAckTime == 0:
		key := t.acceptKey(c)
		t.accepts[key%uint64(len(t.accepts))] = accept{key, s.Time}
		v := t.serverOf(c)
		v.accepted = s.Time
		v.header.note(s)
		v.host.note(s)
	case s.Time.Sub(c.synAckTime) < resent:
		o.doubled++
	case c.openTime != 0 && s.Time.Sub(c.openTime) > moment:
		o.again = min(o.again, 254) + 1
	}
}

// An accept says when a client, known by its address, was last accepted by a
// server. They are kept in a table of fixed size where later ones take the place
// of others: to forget one means to accuse nobody.
type accept struct {
	key  uint64
	time capture.Time
}

func (t *Tracker) acceptKey(c *conn) uint64 {
	client := c.ep[c.clientSide()]
	client.Port = 0
	return t.table.longHash(&client, &c.ep[1-c.clientSide()])
}

// acceptedAfter returns when c's client was last accepted by c's server, if that
// was after the given time; else 0.
func (t *Tracker) acceptedAfter(c *conn, after capture.Time) capture.Time {
	key := t.acceptKey(c)
	if e := &t.accepts[key%uint64(len(t.accepts))]; e.key == key && e.time > after {
		return e.time
	}
	return 0
}

// wasReset reports whether a RST ended c, and no FIN or refusal.
func (c *conn) wasReset() bool {
	a, b := &c.half[0], &c.half[1]
	if a.fin.seen() || b.fin.seen() {
		return false
	}
	return a.reset != nil && !a.reset.refusal || b.reset != nil && !b.reset.refusal
}
