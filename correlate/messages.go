package correlate

// beginRequest opens a request at offset off.
func (c *conn) beginRequest(t *Tracker, off int64, at *stamp) {
	c.answeredUnframed(t, at)
	// The client goes on: earlier requests whose responses could not be framed
	// had what the client wanted of them.
	for len(c.queue) > 0 && c.queue[0].resp.began && !c.queue[0].resp.framed {
		c.giveUp(t)
	}
	// And a response without a length, on a connection that was not to be closed,
	// did not last until the close if the client goes on behind it.
	if sh := &c.half[1-c.client]; sh.state == untilClose && at.hasAck {
		if r := c.reading(); r != nil && r.impliedClose && at.ack > r.start {
			c.loseSync(1-int(c.client), missingSync)
			c.current = -1
			for len(c.queue) > 0 {
				c.giveUp(t)
			}
		}
	}
	// And where the server's bytes could not be framed, a request that was sent
	// with more of them acknowledged follows an answer that nobody could read.
	for len(c.queue) > 0 && c.half[1-c.client].state == lost && !c.queue[0].resp.complete &&
		at.hasAck && at.ack > c.queue[0].ack {
		c.giveUp(t)
	}
	c.settleAnswered(t)
	if n := len(c.queue); n >= maxPipeline || n >= 8 && t.live > maxLive+len(t.all) {
		c.giveUp(t)
	}
	c.requests++
	r := t.newRequest()
	c.queue = append(c.queue, r)
	r.number = int(c.requests)
	r.start, r.end = off, off
	r.time, r.lastTime = at.time, at.time
	r.frame, r.file = at.frame, at.file
	r.ack, r.resent = at.ack, at.resent
	if at.hasAck {
		r.acknowledged(at.ack)
	}
	switch {
	case c.requests == 1 && off == 1+int64(c.preface) && c.openTime != 0:
		r.idle, r.hasIdle = at.time.Sub(c.openTime), true
	case c.requests == 1 && off == 1+int64(c.preface) && c.synAckTime != 0:
		r.idle, r.hasIdle = at.time.Sub(c.synAckTime), true
	case c.respTime != 0 && c.half[1-c.client].next == c.respEnd && (len(c.queue) == 1 || c.queue[len(c.queue)-2].resp.complete):
		r.idle, r.hasIdle = at.time.Sub(c.respTime), true
	}
	r.idle = max(r.idle, 0)
	if r.hasIdle && c.requests > 1 {
		t.reused(c, r.idle)
	}
}

const (
	// maxPipeline bounds the outstanding requests that are kept of a connection.
	maxPipeline = 16384
	// maxLive bounds those of all connections together, beside one for each.
	maxLive = 1 << 17
	// maxTarget bounds what is kept of a request target.
	maxTarget = 2048
)

// noteHead keeps what a head says of its message, whether it is whole or cut.
func (c *conn) noteHead(d int, hd *head) {
	if d == int(c.client) {
		r := c.queue[len(c.queue)-1]
		method := hd.method[:min(len(hd.method), 32)]
		target := hd.target[:min(len(hd.target), maxTarget)]
		r.nmethod, r.ntarget = uint16(len(method)), uint16(len(target))
		r.text = append(append(append(r.text[:0], method...), target...), hd.host[:min(len(hd.host), 255)]...)
		r.head = string(hd.method) == "HEAD"
		r.connect = string(hd.method) == "CONNECT"
		r.close = hd.close || hd.minor == 0 && !hd.keepAlive
		return
	}
	if r := c.reading(); r != nil {
		r.status = hd.status
		r.close = !hd.persistent()
	}
}

func (c *conn) requestHead(t *Tracker, d int, hd *head, pc *piece) {
	h := &c.half[d]
	c.noteHead(d, hd)
	r := c.queue[len(c.queue)-1]
	r.framed, r.headEnded = true, true
	t.sawRequest(c, r, hd, pc.off-r.start+max(hd.length, 0))
	c.expecting = hd.expect && (hd.chunked || hd.length > 0)
	if hd.who != nil {
		t.noteAgent(c, hd.who)
	}
	switch {
	case hd.invalid: // nor can what follows be told from content
		r.framed = false
		c.loseSync(d, missingSync)
		h.state = passing
	case hd.chunked:
		h.state = chunkSize
	case hd.length > 0:
		h.state, h.left = inBody, hd.length
	default:
		c.messageEnd(t, d, pc)
	}
}

// beginResponse opens a response at offset off: to the oldest request that has
// none, unless its acknowledgement says that the server had nothing of that
// request yet.
func (c *conn) beginResponse(t *Tracker, off int64, at *stamp) {
	resp := response{began: true, start: off, end: off, ack: at.ack, hasAck: at.hasAck, time: at.time, lastTime: at.time, frame: at.frame, file: at.file}
	c.current = -1
	// After a gap the oldest requests may have been answered where the capture
	// saw nothing. The response is then taken for that to the latest request that
	// the server had, and of those before it nothing is known.
	if c.missing != 0 && at.hasAck {
		for len(c.queue) > 1 && c.queue[1].start < at.ack {
			c.giveUp(t)
		}
	}
	for int(c.firstOpen) < len(c.queue) && c.queue[c.firstOpen].resp.complete {
		c.firstOpen++
	}
	for i := int(c.firstOpen); i < len(c.queue); i++ {
		r := c.queue[i]
		if r.resp.complete || r.resp.began && r.resp.status >= 200 {
			continue
		}
		if at.hasAck && at.ack <= r.start {
			break
		}
		c.current = int32(i)
		r.resp = resp
		return
	}
	if c.accounted {
		c.current = -2
		c.unasked = new(response) // not &resp, which would then be allocated each time
		*c.unasked = resp
	}
}

// responseHead decides where the response ends (RFC 9112, section 6.3).
func (c *conn) responseHead(t *Tracker, d int, hd *head, pc *piece) {
	h := &c.half[d]
	c.noteHead(d, hd)
	resp := c.reading()
	var req *request
	if c.current >= 0 {
		req = c.queue[c.current]
	}
	t.describe(c, hd)
	if c.responses == 0 {
		t.serverOf(c).speaks |= speaksHTTP
	}
	switch {
	case hd.status == 101:
		if resp != nil {
			resp.framed, resp.complete = true, true
			c.finishResponse(t, resp, pc)
		}
		c.upgradeTo(hd.upgradeTo, pc.at.time)
		return
	case hd.status < 200:
		// An interim response: the final one is still to come.
		if req != nil {
			req.resp, req.base = response{}, pc.off
		}
		c.current = -1
		h.state = atStart
		return
	}
	if resp != nil {
		resp.framed = true
	}
	if hd.status == 400 && req != nil && req.number == 1 {
		c.refused(&pc.at)
	}
	if req != nil && req.tracks != nil && req.tracks.copyOf != nil {
		req.tracks.copyOf.copy.Status = hd.status
	}
	switch {
	case req != nil && req.connect && hd.status < 300:
		resp.complete = true
		c.finishResponse(t, resp, pc)
		c.upgradeTo([]byte("connect"), pc.at.time)
	case req != nil && req.head, hd.status == 204, hd.status == 304:
		c.messageEnd(t, d, pc)
	case hd.invalid:
		c.loseSync(d, missingSync)
		if resp != nil {
			resp.framed = false
		}
	case hd.chunked:
		h.state = chunkSize
	case hd.length == 0:
		c.messageEnd(t, d, pc)
	case hd.length > 0:
		h.state, h.left = inBody, hd.length
	default:
		h.state = untilClose
		if resp != nil {
			resp.untilClose, resp.impliedClose, resp.close = true, !resp.close, true
		}
	}
}

// messageEnd closes the message of direction d, which ends where pc begins.
func (c *conn) messageEnd(t *Tracker, d int, pc *piece) {
	h := &c.half[d]
	h.state = atStart
	if d == int(c.client) {
		if n := len(c.queue); n > 0 {
			r := c.queue[n-1]
			r.complete, r.end = true, pc.off
			c.settleAnswered(t)
		}
		return
	}
	resp := c.reading()
	if resp == nil { // to a request that was not captured
		c.current = -1
		c.respTime, c.respEnd = pc.at.time, pc.off
		return
	}
	resp.complete = true
	c.finishResponse(t, resp, pc)
}

func (c *conn) finishResponse(t *Tracker, resp *response, pc *piece) {
	resp.end, resp.lastTime = pc.off, pc.at.time
	of := c.current
	asked := of >= 0
	c.current = -1
	c.announced = c.announced || resp.close
	if !asked {
		return
	}
	if q := c.queue[of]; q.hasIdle && q.number > 1 {
		t.answeredAfter(c, q.idle)
	}
	c.announced = c.announced || c.queue[of].close // the client asked for it (RFC 9112, section 9.6)
	c.responses++
	c.respTime, c.respEnd = pc.at.time, pc.off
	c.settleAnswered(t)
}

// expectation looks at the first bytes behind a head with Expect: 100-continue.
// A client that was refused need not send the content; its next bytes are then
// the next request (RFC 9110, section 10.1.1).
func (c *conn) expectation(h *half, payload []byte) {
	n := len(c.queue)
	if n == 0 || !c.queue[n-1].resp.complete || likeRequest(payload, false) != yes {
		return
	}
	c.queue[n-1].refused = true
	h.state, h.left = atStart, 0
}
