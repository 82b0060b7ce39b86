package correlate

import (
	"bytes"

	"whyreset/capture"
)

// A recorder in the kernel keeps the first segment of each burst of data and its
// last ones. What lies between is framed where its length is known; where it is
// chunked, the end is recognised by how it looks. What came before the latest
// exchanges is not shown at all, but how far it went.

// elide takes in what a recorder tells of a connection's past instead of its
// segments.
func (c *conn) elide(t *Tracker, s *capture.Segment, d int) {
	e := s.Elided
	c.last = max(c.last, s.Time)
	c.file = int32(s.File)
	if c.client < 0 && e.Client >= 0 {
		c.client = int8(d ^ e.Client)
	}
	// Requests that it had before were answered, as were those that nobody kept.
	for len(c.queue) > 0 && e.Exchanges > 0 {
		c.pop(t)
	}
	t.discard(c)
	for i, at := range e.Last {
		h := &c.half[d^i]
		if at == 0 && !h.based {
			continue
		}
		if !h.based {
			h.setBase(e.Next[i] - 1)
		}
		to := h.rel(e.Next[i])
		if to < h.next {
			to = h.next
		}
		h.next, h.end = to, max(h.end, to)
		if to > h.top {
			h.top, h.topTime = to, at
		}
		h.lastData = max(h.lastData, at)
		h.last = max(h.last, at)
		h.packets = max(h.packets, 1)
		h.buf, h.left, h.scanned = h.buf[:0], 0, 0
		switch {
		case c.tls != nil && h.state != passing:
			th := &c.tls.half[d^i]
			th.drop(t)
			th.nheader = 0
			c.tls.established, c.tls.scrap = true, scrap{}
			if h.state = recordStart; !e.Whole {
				h.state = lost
				th.torn = true
				c.tls.whole = false
			}
		case h.state == inFrames: // each burst begins a frame, as far as can be told
		case h.state == passing:
		case e.Whole && c.protocol == http1:
			h.state = atStart
		case e.Whole:
			h.state = lost // it is not known which protocol it speaks
		default:
			h.state = lost
			c.missing |= missingSync
			c.accounted = false
		}
	}
	for i := range c.half {
		h, p := &c.half[i], &c.half[1-i]
		if p.based && p.next > h.ack {
			h.ack, h.ackSeen, h.ackTime = p.next, true, s.Time
		}
	}
	if c.upgraded {
		return
	}
	if e.Exchanges > 0 || e.Bytes > 0 {
		before := t.elided[c.id]
		if before == nil {
			before = &Elided{}
			t.elided[c.id] = before
		}
		*before = Elided{before.Requests + e.Exchanges, before.Bytes + e.Bytes, s.Time}
	}
	if c.tls != nil {
		c.tls.hurried += e.Hurried
	}
	c.requests += int32(e.Exchanges)
	c.responses += int32(e.Exchanges)
	c.current, c.firstOpen = -1, 0
	if e.Whole && c.client >= 0 {
		sh := 1 - int(c.client)
		c.accounted = true
		c.respTime, c.respEnd = e.Last[sh^d], c.half[sh].next
	}
}

// passChunks passes over chunked content up to its end, which it recognises.
func (c *conn) passChunks(t *Tracker, d int, pc *piece) {
	ends := pc.tail
	if len(pc.payload) == pc.n {
		ends = pc.payload
	}
	pc.skip(pc.n)
	c.half[d].extend(c, d, pc)
	// The last chunk and no trailer fields (RFC 9112, section 7.1).
	if bytes.HasSuffix(ends, []byte("\r\n0\r\n\r\n")) || string(ends) == "0\r\n\r\n" {
		c.messageEnd(t, d, pc)
	}
}

// passRecords passes over records of a message under TLS, or returns false if pc is
// not inside one whose records were left out. Where they end is not seen, so the
// message counts as complete, as it does behind each record. What was as long as a
// close_notify was none, since more came.
func (c *conn) passRecords(t *Tracker, d int, pc *piece) bool {
	th := &c.tls.half[d]
	if !c.kept || th.role != roleData && th.role != roleClosing || len(c.queue) == 0 || d != int(c.client) && !c.queue[len(c.queue)-1].resp.began {
		return false
	}
	th.role, th.nheader, th.notify, th.blind = roleData, 0, closing{}, true
	c.half[d].state, c.half[d].left = inRecords, 0
	pc.skip(pc.n)
	c.recordGrows(d, pc)
	c.dataEnds(t, d, pc)
	if x := c.tls; d != int(c.client) {
		x.doubtful, x.maybeTicket, x.perhapsTicket = false, false, false // more than a ticket
		x.answer += minHead
	}
	return true
}

// cutHead goes on behind a head that was cut off, of chunked content.
func (c *conn) cutHead(t *Tracker, d int, hd *head, pc *piece) {
	if d == int(c.client) {
		c.requestHead(t, d, hd, pc)
	} else {
		c.responseHead(t, d, hd, pc)
	}
	if h := &c.half[d]; h.state == chunkSize {
		h.state = inChunks
		c.passChunks(t, d, pc)
	}
}

// answeredUnframed completes the response whose end could not be seen, and which the
// client had to the last byte before it went on.
func (c *conn) answeredUnframed(t *Tracker, at *stamp) {
	sh := &c.half[1-c.client]
	if !c.kept || len(c.queue) != 1 || !at.hasAck || at.ack < sh.end || sh.end != sh.next {
		return
	}
	if q := c.queue[0]; q.resp.began && !q.resp.complete && (sh.state == inChunks || !q.resp.framed) {
		c.current = 0
		q.resp.framed, q.resp.complete = true, true
		sh.state = atStart
		c.finishResponse(t, &q.resp, &piece{off: sh.end, at: stamp{time: sh.lastData}})
	}
}
