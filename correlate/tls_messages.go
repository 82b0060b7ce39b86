package correlate

import (
	"time"

	"whyreset/capture"
)

// Which records make a request, and which a response.

// recordOfRequest takes the client's record that begins for a part of the request
// that is under way, or for a new one. It returns false if it is none.
func (c *conn) recordOfRequest(t *Tracker, th *tlsHalf) bool {
	x := c.tls
	th.records++
	if x.hello.offers2 && x.choice.version == version13 && th.length-th.pad == settingsAck && th.records <= 5 {
		c.isHTTP2()
	}
	if x.http2 {
		return false
	}
	if n := len(c.queue); n > 0 {
		r := c.queue[n-1]
		switch {
		case !r.resp.began,
			th.at.hasAck && th.at.ack <= r.resp.start, // the client sends on, and knows of no response yet
			// The server answered early, or sent a ticket.
			(r.resp.hasAck && r.resp.ack < r.end || r.number == 1 && x.maybeTicket) && th.at.time.Sub(r.lastTime) < uploadPause:
			x.merged = x.merged || r.number == 1 && r.resp.began && x.maybeTicket
			x.run, x.tail = x.run+1, th.length
			x.mayBegin(r, th)
			return true
		case th.at.hasAck && th.at.ack < r.resp.end && r.resp.complete:
			x.foreign = true // HTTP/1 clients read a response to its end
		}
		if !x.makesRequest(th) {
			return false
		}
		x.foreign = x.foreign || x.tooShort()
		c.pop(t)
	}
	off, at := th.off, th.at
	if s := &x.scrap; s.seen && s.at.frame == th.at.frame {
		off, at = s.off, s.at
	}
	r := c.openRequest(t, off, &at)
	if (x.run > 1 || !x.whole || x.likeRest == r.number-1) && (th.length == x.tail || x.tail == 0 || x.run > 1 && th.length > headAndMore) && th.length > headRecord {
		x.likeRest = r.number
	}
	x.run, x.tail = 1, th.length
	if th.torn || x.choice.version == 0 && x.plain(th.length-jssePad) < minHead { // it may be padded
		x.broken = r.number
	}
	if x.whole {
		t.serverOf(c).speaks |= speaksTLS
	}
	return true
}

// openRequest begins a request with the record at off.
func (c *conn) openRequest(t *Tracker, off int64, at *stamp) *request {
	x := c.tls
	x.scrap, x.second = scrap{}, second{}
	c.beginRequest(t, off, at)
	r := c.queue[len(c.queue)-1]
	r.framed, r.headEnded, r.base = true, true, x.base
	switch {
	case r.hasIdle:
	case c.requests == 1 && x.at != 0:
		r.idle, r.hasIdle = max(0, at.time.Sub(x.at)), true
	case c.requests > 1 && c.respTime != 0 && c.missing&missingBytes == 0: // a close_notify is no response
		r.idle, r.hasIdle = max(0, at.time.Sub(c.respTime)), true
	}
	return r
}

// A second is a record behind the answer to an upload that may begin a request of its
// own.
type second struct {
	seen   bool
	off    int64
	at     stamp
	before capture.Time // when the record before it came
}

// mayBegin notes the client's record that is taken for more of r as one that may begin
// another request: it came after a pause, and the client had an answer.
func (x *tlsConn) mayBegin(r *request, th *tlsHalf) {
	if r.resp.complete && !x.maybeTicket && !x.perhapsTicket && th.at.hasAck && th.at.ack >= r.resp.end && th.at.time.Sub(r.lastTime) > moment {
		x.second = second{true, th.off, th.at, r.lastTime}
	}
}

// split makes two requests of one: the server, which had answered, speaks again now that
// it has what came after the pause.
func (c *conn) split(t *Tracker) *request {
	s, r := c.tls.second, c.queue[len(c.queue)-1]
	end, last := r.end, r.lastTime
	r.end, r.lastTime = s.off, s.before
	c.pop(t)
	r = c.openRequest(t, s.off, &s.at)
	r.end, r.lastTime, r.complete = end, last, true
	c.tls.run = 1
	return r
}

// uploadPause is longer than a client pauses inside an upload for want of window.
const uploadPause = 200 * time.Millisecond

// headAndMore is longer than a record with the head of a request and the beginning of
// its content is, as a rule: clients send the head by itself, or with little.
const headAndMore = 8 << 10

// headRecord is longer than nearly all records with the head of a request alone.
const headRecord = 1024

// settingsAck is the length of a record with nothing in it but a SETTINGS frame
// that acknowledges: the first that an HTTP/2 client sends once it has the
// server's (RFC 9113, section 6.5.3).
const settingsAck = 9 + 1 + 16

// recordOfResponse takes the server's record that begins for a part of the
// response to the request that is outstanding. It returns false if it is none.
func (c *conn) recordOfResponse(t *Tracker, th *tlsHalf) bool {
	x := c.tls
	th.records++
	if x.http2 {
		return false
	}
	if len(c.queue) == 0 {
		if x.whole && x.choice.version != version13 && c.requests == 0 {
			x.foreign = true // HTTP servers do not speak first
		}
		return false
	}
	r := c.queue[len(c.queue)-1]
	if !th.at.hasAck || th.at.ack <= r.start {
		return false
	}
	if s := &x.second; s.seen && th.at.ack > s.off && th.at.time.Sub(r.resp.lastTime) > moment {
		r = c.split(t)
	}
	x.goesOn(th.at.ack)
	x.half[c.client].torn = false
	if !r.resp.began {
		if r.hasIdle && r.number > 1 && r.idle-max(0, c.openTime.Sub(c.synAckTime)) < moment {
			x.hurried++
		}
		x.answer = 0
		r.resp = response{began: true, framed: true, start: th.off, end: th.off, ack: th.at.ack, hasAck: true, time: th.at.time, lastTime: th.at.time, frame: th.at.frame, file: th.at.file}
	}
	x.answer += x.plain(th.length - th.pad)
	x.full = th.length >= 1<<14
	if th.torn {
		x.answer += minHead // what was lost may be of it
	}
	if r.resp.complete && th.at.time.Sub(r.resp.lastTime) > time.Second {
		x.pushes++
	}
	if th.at.ack >= r.end {
		r.resp.ack = max(r.resp.ack, r.end) // it has all of the request now
	}
	return true
}
