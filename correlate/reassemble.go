package correlate

import "slices"

const (
	// patience is how many more segments of a connection may pass before bytes
	// that their receiver has acknowledged, and the capture has not shown, count
	// as missing from the capture. Until then they may only be out of order.
	patience = 16
	// maxPend bounds the pieces that wait in one direction.
	maxPend = 8192
	// maxPieces bounds them in all directions together.
	maxPieces = 1 << 18
	// maxPendBytes bounds the bytes that wait in all directions together; beyond
	// it pieces wait without their bytes, as if the capture had cut them off.
	maxPendBytes = 16 << 20
)

// hold keeps a copy of a piece that cannot be framed yet.
func (c *conn) hold(t *Tracker, h *half, from *piece) {
	pc := *from
	if len(h.pend) >= maxPend || t.pieces >= maxPieces {
		c.settle(t, true)
		if len(h.pend) >= maxPend || t.pieces >= maxPieces {
			return
		}
	}
	if h.skips(pc.off+int64(pc.n)) || t.pendBytes+len(pc.payload) > maxPendBytes {
		pc.payload = nil
	} else {
		pc.payload, pc.tail = slices.Clone(pc.payload), slices.Clone(pc.tail)
		t.pendBytes += len(pc.payload)
	}
	i := len(h.pend)
	for i > 0 && h.pend[i-1].off > pc.off {
		i--
	}
	h.pend = slices.Insert(h.pend, i, pc)
	t.pieces++
}

// skips reports whether the bytes up to end belong to a body whose end is known
// to lie further on, so that nobody will look at them.
func (h *half) skips(end int64) bool {
	switch h.state {
	case inBody, inChunk, inFrames:
		return end <= h.next+h.left
	case inRecord: // an alert or a hello is to be read
		return end <= h.next+h.left && h.left > maxHello
	case untilClose, passing:
		return true
	}
	return false
}

// settle frames what can be framed of the pieces that wait. With force, or when
// patience is at its end, it takes what still lacks for missing.
func (c *conn) settle(t *Tracker, force bool) {
	for {
		if c.drain(t, 0) || c.drain(t, 1) {
			c.waited = 0
			continue
		}
		if len(c.half[0].pend)+len(c.half[1].pend) == 0 {
			c.waited = 0
			return
		}
		if !force {
			if c.waited++; c.waited <= patience {
				return
			}
		}
		if !c.skipHole(t, force) {
			return
		}
		c.waited = 0
	}
}

// drain frames the first waiting pieces of half d whose turn has come.
func (c *conn) drain(t *Tracker, d int) bool {
	h, p := &c.half[d], &c.half[1-d]
	n := 0
	for ; n < len(h.pend) && h.pend[n].off <= h.next && p.reached(h.pend[n].at.ack); n++ {
		pc := h.pend[n]
		t.pendBytes -= len(pc.payload)
		if pc.off+int64(pc.n) > h.next {
			c.deliver(t, d, &pc)
		}
	}
	if n == 0 {
		return false
	}
	h.pend = slices.Delete(h.pend, 0, n)
	t.pieces -= n
	return true
}

// skipHole gives up one run of bytes that the capture lacks. It returns false if
// those bytes may still come: the receiver has not acknowledged them either.
func (c *conn) skipHole(t *Tracker, force bool) bool {
	for d := range c.half {
		h, p := &c.half[d], &c.half[1-d]
		if len(h.pend) == 0 {
			continue
		}
		head := &h.pend[0]
		if head.off > h.next && (force || p.ack > h.next || p.packets == 0 || len(h.pend) > maxPend/2) {
			c.hole(t, h, d, head.off)
			return true
		}
		if head.off <= h.next && !p.reached(head.at.ack) {
			to := head.at.ack
			if len(p.pend) > 0 && p.pend[0].off > p.next {
				to = min(to, p.pend[0].off)
			}
			if p.fin.seen() && p.fin.off >= p.next {
				to = min(to, p.fin.off)
			}
			if to <= p.next { // its own piece waits for this half: only force breaks the knot
				head.at.hasAck, head.at.ack = false, 0
				return true
			}
			c.hole(t, p, 1-d, to)
			return true
		}
	}
	return false
}

// deliver frames a piece whose turn has come.
func (c *conn) deliver(t *Tracker, d int, pc *piece) {
	h := &c.half[d]
	if skip := h.next - pc.off; skip > 0 {
		pc.off += skip
		pc.n -= int(skip)
		pc.payload = pc.payload[min(int(skip), len(pc.payload)):]
	}
	h.fresh = int(c.speaking) != d
	c.speaking = int8(d)
	from, to := pc.off, pc.off+int64(pc.n)
	c.frame(t, d, pc)
	h.next = to
	if d != int(c.client) {
		return
	}
	for i := len(c.queue) - 1; i >= 0; i-- {
		r := c.queue[i]
		if r.end <= from {
			break
		}
		r.lastTime = pc.at.time
		if pc.at.hasAck {
			r.acknowledged(pc.at.ack)
		}
	}
}
