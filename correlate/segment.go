package correlate

import (
	"slices"
	"sort"
	"time"

	"whyreset/capture"
)

// segment takes in one segment from half d.
func (c *conn) segment(t *Tracker, s *capture.Segment, d int) {
	h, p := &c.half[d], &c.half[1-d]
	if h.packets++; h.packets == 0 {
		h.packets--
	}
	quiet := s.Time.Sub(c.last)
	c.last = max(c.last, s.Time)
	c.file = int32(s.File)
	if !h.based {
		switch {
		case s.Flags&capture.SYN != 0:
			h.setBase(s.Seq)
		case s.Flags&(capture.RST|capture.ACK) == capture.RST && s.Seq == 0:
		default:
			h.setBase(s.Seq - 1)
		}
	}
	if s.Flags&capture.ACK != 0 && !p.based && s.Flags&capture.RST == 0 {
		p.setBase(s.Ack - 1)
	}
	at := stamp{time: s.Time, frame: s.Frame, file: int32(s.File)}
	if s.Flags&capture.ACK != 0 && p.based {
		at.hasAck, at.ack = true, p.rel(s.Ack)
		if at.ack > p.end+1<<28 || at.ack < 0 {
			at.hasAck, at.ack = false, 0 // acknowledges what was never sent
		}
	}
	if s.Flags&capture.RST != 0 {
		c.resetSeen = true
		c.reset1(t, s, d, at)
		return
	}
	h.last = s.Time
	if p.probes != 0 {
		p.probes = 0
	}
	off := h.rel(s.Seq)
	at.resent = s.Len > 0 && h.top >= off+int64(s.Len) && s.Time.Sub(h.topTime) > moment
	if s.Flags&capture.SYN != 0 {
		c.syn(t, s, d, quiet)
		off++ // data in a SYN (RFC 7413) begins behind it
	}
	if c.resetSeen && h.reset != nil {
		h.wentOn(s, off, at)
	}
	if r := p.reset; r != nil && s.Time.Sub(r.time) < moment {
		r.unasked = 0 // this may be what it answers
	}
	h.header.note(s)
	if past := off + int64(s.Len); past > h.top {
		h.top, h.topTime = past, s.Time
	} else if off < h.top && s.Len <= 1 {
		h.probed(s, off, quiet)
	}
	if at.hasAck {
		if at.ack > h.ack || !h.ackSeen {
			p.resends = 0
			if at.ack == p.end && p.lastData != 0 && d != int(c.client) {
				c.rtt = shorter(c.rtt, s.Time.Sub(p.lastData))
			}
			h.ack, h.ackSeen, h.ackTime = at.ack, true, s.Time
			if len(c.queue) > 0 && d == int(c.client) {
				c.settleAnswered(t)
			}
		}
		if c.openTime == 0 && c.startSeen && d == int(c.client) && s.Flags&capture.SYN == 0 {
			if s.Len > 0 && c.synAckTime != 0 { // the ACK of the handshake itself was not captured
				c.openTime = c.synAckTime
			} else {
				c.openTime, c.ackSeen = s.Time, true
			}
		}
	}
	closes := false
	if s.Flags&capture.FIN != 0 {
		closes = !h.fin.seen()
		c.finSegment(t, h, p, off+int64(s.Len), at)
	}
	if s.Len > 0 {
		pc := piece{off: off, n: s.Len, payload: s.Payload, at: at}
		if s.Elided != nil {
			pc.tail, pc.interim = s.Elided.Tail, s.Elided.Interim
		}
		c.data(t, d, &pc, s)
	} else if c.waited > 0 || len(h.pend)+len(p.pend) > 0 {
		c.settle(t, false)
	} else if c.resetSeen && c.ended != 0 && p.reset != nil && p.reset.challenges(h, s, off, at) {
		c.revive(t, p)
	}
	if closes {
		t.closed(c, d, &h.fin)
	}
	if c.gone && s.Flags&(capture.FIN|capture.ACK) != 0 && c.ended == 0 && h.fin.seen() && p.fin.seen() &&
		h.ack > p.fin.off && p.ack > h.fin.off {
		t.end(c, s.Time)
	}
}

// syn notes the handshake. It fixes the roles: the client is the one that sent
// the SYN (in a simultaneous open, the one that sent it first).
func (c *conn) syn(t *Tracker, s *capture.Segment, d int, quiet time.Duration) {
	c.startSeen = true
	if s.Flags&capture.ACK == 0 {
		if c.synTime == 0 {
			c.synTime = s.Time
			if c.client < 0 {
				c.client = int8(d)
			}
		}
		c.opening.asked(t, c, quiet)
	} else {
		if c.client < 0 {
			c.client = int8(1 - d)
		}
		c.opening.accepted(t, c, s)
		if c.synAckTime == 0 {
			c.synAckTime = s.Time
		}
	}
	if c.requests == 0 && c.half[0].next == 1 && c.half[1].next == 1 {
		c.accounted = true
	}
}

func (c *conn) finSegment(t *Tracker, h, p *half, off int64, at stamp) {
	if !h.fin.seen() {
		// Sequence numbers behind it, from either end, tell of an earlier copy.
		resent := h.top > off && at.time.Sub(h.topTime) > moment || p.ack > off && at.time.Sub(p.ackTime) > moment
		h.closings(t).fin = closing{kind: FINClose, hasAck: at.hasAck, resent: resent, off: off, ack: at.ack, heard: p.lastData, time: at.time, frame: at.frame, file: at.file}
		return
	}
	if off == h.fin.off && at.hasAck {
		h.fin.ack = min(h.fin.ack, at.ack)
	}
}

// reset1 takes in a RST.
func (c *conn) reset1(t *Tracker, s *capture.Segment, d int, at stamp) {
	h, p := &c.half[d], &c.half[1-d]
	c.trace(t, s, d, at)
	refuses := h.packets == 1 && c.synTime != 0 && d != int(c.client) && at.hasAck && at.ack >= 1 && at.ack <= max(1, p.top) && !p.ackSeen
	if !h.based || h.packets == 1 && s.Seq == 0 || refuses {
		// Nothing else was ever seen from this end: a refused SYN (RFC 9293,
		// section 3.5.2; some boxes choose another sequence number than 0), or a
		// reset of something that began before the capture.
		kind := ReplyReset
		if refuses || at.hasAck && at.ack > 0 && s.Seq == 0 && p.next == 1 {
			kind = Refusal
			h.reset.refusal = true
			t.serverOf(c).refused = s.Time
		}
		h.closings(t).rst = closing{kind: kind, hasAck: at.hasAck, ack: at.ack, time: s.Time, frame: s.Frame, file: int32(s.File)}
		if kind == Refusal {
			t.refuse(c, s.Time)
		}
		t.end(c, s.Time)
		return
	}
	off := h.rel(s.Seq)
	// A RST counts if its sequence number is the next one the other end expects
	// or lies in its window; Linux also takes one just below once it has had a
	// FIN (tcp_reset_check in net/ipv4/tcp_input.c). One that does not count still
	// tells what its sender thought.
	taken := !p.ackSeen || off >= p.ack-1 && off <= max(h.upTo(), p.ack)+1<<20
	e := h.closings(t)
	switch {
	case !at.hasAck:
		i := slices.IndexFunc(e.reply[:e.nreply], func(r replyRST) bool { return r.off == off })
		if i >= 0 {
			e.reply[i].again = min(e.reply[i].again, 254) + 1
		} else if i < 0 && int(e.nreply) < len(e.reply) {
			e.reply[e.nreply] = replyRST{off: off, ttl: s.TTL, taken: taken, time: s.Time, frame: s.Frame, file: int32(s.File)}
			e.nreply++
		}
	case !taken:
	case !e.rst.seen():
		if d != int(c.client) && c.startSeen && c.responses == 0 && c.requests > 0 {
			t.serverOf(c).dropped.note(s.Time)
		}
		e.rst = closing{kind: ActiveReset, hasAck: true, off: off, ack: at.ack, heard: p.lastData, time: s.Time, frame: s.Frame, file: int32(s.File)}
	case off == e.rst.off:
		e.rst.ack = min(e.rst.ack, at.ack)
	}
	if !taken {
		e.ignored++
		return
	}
	t.closed(c, d, &e.rst)
	t.end(c, s.Time)
}

// data takes in payload: it is framed at once if it is the next in sequence and
// everything it acknowledges was framed before, so that cause comes before
// effect however the capture ordered them. Else it waits.
func (c *conn) data(t *Tracker, d int, pc *piece, s *capture.Segment) {
	h, p := &c.half[d], &c.half[1-d]
	end := pc.off + int64(pc.n)
	if end <= h.next {
		c.again(t, h, d, pc, s)
		if c.waited > 0 || len(h.pend)+len(p.pend) > 0 {
			c.settle(t, false)
		}
		return
	}
	if c.ended != 0 && end > h.end && h.overruled(end, s.Time) {
		c.revive(t, h)
	}
	h.end = max(h.end, end)
	h.lastData = pc.at.time
	h.sigs[h.nsig] = sign(s)
	h.nsig = (h.nsig + 1) % uint8(len(h.sigs))
	if pc.off <= h.next && len(h.pend) == 0 && p.reached(pc.at.ack) {
		c.deliver(t, d, pc)
		if len(p.pend) > 0 {
			c.settle(t, false)
		}
		return
	}
	c.hold(t, h, pc)
	c.settle(t, false)
}

// moment is how far apart packets may be captured that were sent in the other
// order.
const moment = 10 * time.Millisecond

// overruled reports whether data up to end, sent at time now, lies beyond h's own
// RSTs: then they were not h's, or its peer did not take them. Data a moment
// later may only have been captured out of order.
func (h *half) overruled(end int64, now capture.Time) bool {
	over := h.rst.seen() || h.nreply > 0
	if h.rst.seen() {
		over = end > h.rst.off && now.Sub(h.rst.time) > moment
	}
	for _, r := range h.reply[:h.nreply] {
		over = over && end > r.off && now.Sub(r.time) > moment
	}
	return over
}

// revive withdraws the RSTs of h: the connection went on.
func (c *conn) revive(t *Tracker, h *half) {
	h.ignored += int(h.nreply)
	if h.rst.seen() {
		h.ignored++
	}
	h.rst, h.nreply = closing{}, 0
	c.ended, t.due = 0, 0
}

// again takes in bytes that were framed before: a retransmission, or the same
// packet captured twice. Both may be the older copy in sequence terms, so the
// least acknowledgement counts.
func (c *conn) again(t *Tracker, h *half, d int, pc *piece, s *capture.Segment) {
	copied := false
	sig := sign(s)
	for _, g := range h.sigs {
		if g.id == sig.id && (s.IPID != 0 || s.Time.Sub(g.time) < time.Millisecond) {
			copied = true
			t.sum.Duplicates++
			break
		}
	}
	if !copied { // its own copies are to be known, too
		h.sigs[h.nsig] = sig
		h.nsig = (h.nsig + 1) % uint8(len(h.sigs))
		if due := c.half[1-d].ack; pc.off <= due && pc.off+int64(pc.n) > due {
			h.resends = min(h.resends, 254) + 1
		}
	} else if d == int(c.client) {
		c.opening.doubled++
	}
	if d != int(c.client) {
		return
	}
	from := sort.Search(len(c.queue), func(i int) bool { return c.queue[i].end > pc.off })
	for _, r := range c.queue[from:] {
		if pc.off+int64(pc.n) <= r.start {
			break
		}
		if pc.off <= r.start {
			if !copied {
				r.retrans++
			}
			if pc.at.hasAck {
				r.ack = min(r.ack, pc.at.ack)
			}
		}
		if pc.at.hasAck {
			r.acknowledged(pc.at.ack)
		}
	}
}

// settleAnswered lets go of the requests whose response the client has
// acknowledged to the end.
func (c *conn) settleAnswered(t *Tracker) {
	if c.protocol == tls {
		return // a response may always have another record: recordOfRequest lets go of it
	}
	acked := c.half[c.client].ack
	for len(c.queue) > 0 {
		r := c.queue[0]
		if !r.resp.complete || acked < r.resp.end || !(r.complete || r.refused) {
			return
		}
		c.pop(t)
	}
}

// pop moves the oldest request out of the queue.
func (c *conn) pop(t *Tracker) {
	t.freeRequest(c.answered)
	c.answered = c.queue[0]
	n := copy(c.queue, c.queue[1:])
	c.queue[n] = nil
	c.queue = c.queue[:n]
	if c.current >= 0 {
		c.current--
	}
	if c.firstOpen > 0 {
		c.firstOpen--
	}
}

// newRequest returns an empty request, and freeRequest takes one back, so that
// the steady path allocates nothing.
func (t *Tracker) newRequest() *request {
	t.live++
	n := len(t.requests)
	if n == 0 {
		return new(request)
	}
	r := t.requests[n-1]
	t.requests = t.requests[:n-1]
	*r = request{text: r.text[:0]}
	return r
}

func (t *Tracker) freeRequest(r *request) {
	if r != nil {
		t.live--
		t.requests = append(t.requests, r)
	}
}

// clientSide returns which half is the client. Where neither the handshake nor a
// message told, the higher port is taken for the client's.
func (c *conn) clientSide() int {
	if c.client >= 0 {
		return int(c.client)
	}
	a, b := &c.ep[0], &c.ep[1]
	if a.Port < b.Port || a.Port == b.Port && a.Compare(*b) > 0 {
		return 1
	}
	return 0
}

func (c *conn) serverHalf() *half { return &c.half[1-c.clientSide()] }
