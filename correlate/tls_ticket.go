package correlate

// Session tickets (RFC 8446, section 4.6.1), with header and tag, are longer than
// minTicket and, unless they hold a client's certificate, shorter than maxTicket.
const (
	minTicket = 48
	maxTicket = 2048
	// The name and the protocol that the client asked for lengthen its tickets.
	ticketVaries = 64
	// allTickets stands for their length where they have all come.
	allTickets = -1
)

// withoutTickets takes back what was taken for the first response, if it was the
// session tickets of TLS 1.3. Servers that use OpenSSL send two of the same length
// after a full handshake, as soon as they have the client's Finished, which may be
// before they have its request, or after. After a resumed one they send one, or
// none: that cannot be told from a short response, unless its length is quite another.
func (c *conn) withoutTickets(t *Tracker, r *request, th *tlsHalf, pc *piece) {
	x := c.tls
	if x.choice.version != version13 || r.number > 2 || !x.whole {
		return
	}
	s := t.serverOf(c)
	x.replies++
	first := r.resp.start == th.off // nothing of the response but this record
	if r.number == 2 {
		// The rest of an upload may have gone between two tickets.
		x.twins = x.twins || x.ticketLen == 0 && x.replies == 2 && first && th.length == x.firstLen && th.length >= minTicket && th.length <= maxTicket &&
			th.at.time.Sub(x.firstTime) <= busy
		return
	}
	prompt := th.at.time.Sub(x.at) <= busy || th.at.time.Sub(x.ticketTime) <= busy
	switch {
	case x.ticketLen != 0 && !(first && th.length == x.ticketLen):
		return // a response, behind the tickets
	case x.ticketLen != 0 && prompt:
		x.ticketTime = th.at.time
	case first:
		x.firstLen, x.firstTime = th.length, th.at.time
		possible := th.length >= minTicket && th.length <= maxTicket && !x.hello.noTickets
		x.maybeTicket = possible && (s.ticket != 0 && max(s.ticket-th.length, th.length-s.ticket) <= ticketVaries ||
			!x.choice.resumed && th.pad == jssePad) // JSSE sends one, and its lengths vary more
		x.perhapsTicket = possible && s.ticket == 0
		x.doubtful = x.maybeTicket || x.perhapsTicket
		return
	case x.replies > 2 || th.length != x.firstLen || th.length < minTicket || th.length > maxTicket || r.resp.start != th.off-int64(th.length+recordHeader) ||
		th.at.time.Sub(r.resp.time) > busy:
		x.maybeTicket, x.perhapsTicket = false, false // whatever the first was, this is a response
		return
	}
	s.ticket, x.ticketLen, x.ticketTime, x.replies = th.length, th.length, th.at.time, 0
	x.maybeTicket, x.perhapsTicket = false, false
	r.resp, r.base = response{}, pc.off
	c.responses--
	c.respTime, c.respEnd = 0, 0
}

// ticketEnds takes in a record of the server's that answers nothing: it acknowledges
// nothing of the request that is outstanding, or there is none.
func (c *conn) ticketEnds(t *Tracker, th *tlsHalf) {
	x := c.tls
	if !x.established || x.choice.version != version13 || th.length < minTicket {
		return
	}
	alone := len(c.queue) == 1 && !c.queue[0].resp.began
	switch {
	case c.responses == 0 && (c.requests == 0 || c.requests == 1 && alone): // nothing else comes so early
	case c.requests == 2 && alone && c.answered != nil && x.replies == 1 && x.whole && th.length == x.firstLen && th.length <= maxTicket && th.at.time.Sub(x.firstTime) <= busy:
		// HTTP/1 clients read a response to its end: what came before was a ticket too,
		// and what the client sent in between goes on with its first request.
		r, rest := c.answered, c.queue[0]
		r.end, r.lastTime, r.complete, r.resp, r.base = rest.end, rest.lastTime, rest.complete, response{}, x.base
		c.queue[0], c.answered = r, nil
		t.freeRequest(rest)
		c.requests, c.responses, c.respTime, c.respEnd = 1, 0, 0, 0
		x.run++
		x.replies, x.maybeTicket, x.perhapsTicket, x.doubtful = 0, false, false, false
	default:
		return
	}
	t.serverOf(c).ticket, x.ticketLen, x.ticketTime = th.length, th.length, th.at.time
}
