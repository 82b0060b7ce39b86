package correlate

import (
	"slices"
	"time"

	"whyreset/capture"
)

// facts are what is known of a connection, and of one request on it, when it is
// judged. They are all that the rules (rules_*.go) may look at.
//
// The names K, Kc, a and b are those of the literature on this: K is the
// server's close, Kc the client's, and [a,b) are the request's bytes.
type facts struct {
	connFacts
	requestFacts
}

// connFacts are those of the connection.
type connFacts struct {
	conn    Connection
	server  *server
	tally   *tally       // what was counted of the connection, shared by the facts of all its requests
	brief   bool         // nobody wants to read about connections that ended with nothing lost
	counted *ruling      // what ended returns where brief, to spare the allocation
	now     capture.Time // the capture's clock when this is judged
	time    capture.Time // when the connection ended; now, if it did not
	atEnd   bool         // the capture ended before the connection did

	hasRTT               bool
	away                 time.Duration // of the handshake's round trip, the client's part
	serverRTT            time.Duration // from the place of capture to the server and back, as the handshake showed it; 0 if not known
	nearest              time.Duration // the least time in which the server acknowledged data, and its SYN; 0 if not both are known
	openTime             capture.Time  // end of the handshake; 0 if not seen
	requests, responses  int
	announced, untracked bool
	kept                 bool // it comes from a recorder, which leaves out what is inside bursts
	startBare            bool // see conn.startBare
	ackSeen              bool // the ACK that ends the handshake was captured
	upgraded             bool
	up                   *upgrade // nil unless upgraded
	missing              missing
	agent                uint16 // see conn.agent

	K, Kc      closing    // first FIN, else first RST with an acknowledgement
	rstS, rstC closing    // first such RST
	first      Party      // who closed first in sequence terms; BothParties if neither knew of the other
	replies    []replyRST // RSTs of the server without an acknowledgement
	refusals   []replyRST // the same of the client

	clientSeen, serverSeen bool
	clientEnd, serverEnd   int64        // behind the last byte that was seen of it, not counting the server's close_notify
	clientSent, serverSent int64        // the same, with the FIN and the close_notify
	clientAck, serverAck   int64        // the highest it acknowledged, other than in a RST
	lastServer             capture.Time // the server's last data
	clientAckTime          capture.Time // when the client last acknowledged more

	headers [2]ipHeader    // of the client's and the server's segments other than RSTs
	resets  [2]*resetTrace // how the first RST in the client's and in the server's name looked; nil if there was none
	probes  [2]uint8       // keep-alive probes of each that nothing came back to
	resends [2]uint8       // how often each sent data again that was not acknowledged after all
	opening opening
	others  capture.Time // when another connection of this client to this server was last accepted; 0 if not known

	unasked  response
	respTime capture.Time // last byte of the last complete response; 0 if none
	respEnd  int64
	preface  int64
	client   int       // which half is the client's
	protocol protocol  // what conn.Protocol names
	tls      *tlsConn  // nil if the connection does not speak TLS
	mismatch *mismatch // nil if each end understood the other

	clientTop int64 // the highest sequence number that the client used

	kernel [2]*kernelEnd // what the kernels of the client's and of the server's end said; nil for nothing
	unsent [2]unsent     // of resets
	slack  time.Duration // how far apart what a kernel said and its packet may be
}

// requestFacts are those of a request. Nearly all connections end without one that
// is worth them.
type requestFacts struct {
	hasRequest bool
	q          request  // the request that is judged; else the last one
	prev       response // the last complete response to a request before q
	hasPrev    bool
	prevBytes  int64 // of that request
	behind     bool  // an earlier request is outstanding too
	front      int64 // the first byte of the earliest of them
	frontEnd   int64 // how far its response had come; 0 if there was none
	frontLost  bool  // where that response ends is not known
	frontClose bool  // that request asked for the connection's close
}

// A tally keeps a connection with several findings from being counted twice.
type tally struct {
	lost     bool
	verdicts []Verdict
}

// gather collects the facts of c, without those of a request. They hold until
// the next call.
func (t *Tracker) gather(c *conn, atEnd bool) *facts {
	client := c.clientSide()
	ch, sh := &c.half[client], &c.half[1-client]
	f := &t.scratch
	f.connFacts = connFacts{} // and then field by field: a literal is built elsewhere and copied, most of a kilobyte
	f.brief, f.server, f.counted = t.brief, t.serverOf(c), &t.counted
	f.now, f.time, f.atEnd = t.now, c.ended, atEnd && c.ended == 0
	f.openTime, f.requests, f.responses = c.openTime, int(c.requests), int(c.responses)
	f.announced, f.untracked, f.upgraded, f.missing = c.announced, c.untracked, c.upgraded, c.missing
	f.startBare, f.ackSeen, f.agent = c.startBare, c.ackSeen, c.agent
	f.up = c.up
	f.rstS, f.rstC, f.replies, f.refusals = sh.rst, ch.rst, sh.resets(), ch.resets()
	f.clientSeen, f.serverSeen = ch.packets > 0, sh.packets > 0
	f.clientEnd, f.serverEnd, f.clientAck, f.serverAck = ch.end, sh.end, ch.ack, sh.ack
	f.lastServer, f.clientTop, f.clientAckTime = sh.lastData, ch.top, ch.ackTime
	f.respTime, f.respEnd, f.preface = c.respTime, c.respEnd, int64(c.preface)
	if c.unasked != nil {
		f.unasked = *c.unasked
	}
	if f.openTime == 0 {
		f.openTime = c.synAckTime
	}
	f.opening = c.opening
	f.opening.clientSpoke = ch.ackSeen
	if f.time == 0 {
		f.time = c.last
		if f.atEnd {
			f.now = t.clock(c)
			if f.opening.syns == 0 || f.serverSeen || f.opening.clientSpoke { // else its last SYN was the last that happened
				f.time = f.now
			}
		}
	}
	f.clientSent, f.serverSent = ch.upTo(), sh.upTo()
	f.K, f.Kc = firstClose(sh), firstClose(ch)
	f.client = client
	if c.mismatch != nil && c.mismatch.what != "" {
		f.mismatch = c.mismatch
	}
	f.first = whoFirst(&f.K, &f.Kc)
	f.headers = [2]ipHeader{ch.header, sh.header}
	f.resets = [2]*resetTrace{ch.reset, sh.reset}
	f.probes, f.resends = [2]uint8{ch.probes, sh.probes}, [2]uint8{ch.resends, sh.resends}
	if len(c.queue) > 0 {
		f.others = t.acceptedAfter(c, c.synAckTime)
	}
	v := &f.conn
	v.ID, v.Client, v.Server = c.id, c.ep[f.client], c.ep[1-f.client]
	v.Start, v.StartSeen = c.start, c.startSeen
	v.Requests, v.Responses = int(c.requests), int(c.responses)
	if f.kept = c.kept; f.kept {
		v.Elided = t.elided[c.id]
	}
	f.protocol, v.Protocol = c.protocol, c.protocol.String()
	if c.tls != nil {
		t.gatherTLS(c, f)
		if !f.readable() {
			v.Requests, v.Responses = 0, 0 // runs of records that need not be messages
		}
	}
	if c.synTime != 0 && c.synAckTime != 0 {
		f.serverRTT = max(c.synAckTime.Sub(c.synTime), 1)
	}
	if c.rtt > 0 && f.serverRTT > 0 {
		f.nearest = min(f.serverRTT, time.Duration(c.rtt)<<rttShift)
	}
	if f.serverRTT > 0 && c.openTime >= c.synAckTime && c.ackSeen {
		d1, d2 := c.synAckTime.Sub(c.synTime), c.openTime.Sub(c.synAckTime)
		f.hasRTT, f.away = true, d2
		v.HandshakeRTT, v.HasRTT = d1+d2, true
		v.Vantage = vantage(d1, d2)
	}
	if t.facts.clock != 0 {
		t.joinFacts(c, f)
	}
	return f
}

// resets returns the RSTs without an acknowledgement.
func (h *half) resets() []replyRST {
	if h.nreply == 0 {
		return nil
	}
	return slices.Clone(h.reply[:h.nreply])
}

func firstClose(h *half) closing {
	if h.fin.seen() {
		return h.fin
	}
	if h.rst.seen() {
		return h.rst
	}
	return closing{}
}

// whoFirst compares closes by what they acknowledge: an end that acknowledges
// the other's FIN closed after it. The order of packets says nothing, since it
// differs from one place on the path to another.
func whoFirst(k, kc *closing) Party {
	switch {
	case !k.seen() && !kc.seen():
		return NoParty
	case !k.seen():
		return Client
	case !kc.seen():
		return Server
	}
	serverKnew := k.hasAck && kc.kind == FINClose && k.ack > kc.off && !k.resent
	clientKnew := kc.hasAck && k.kind == FINClose && kc.ack > k.off && !kc.resent
	switch {
	case serverKnew && !clientKnew:
		return Client
	case clientKnew && !serverKnew:
		return Server
	}
	return BothParties
}

// about completes the facts with request q. prev is the last request before it
// that got its response, front the earliest that did not; nil if there is none.
func (f *facts) about(q, prev, front *request) *facts {
	g := *f
	g.q, g.hasRequest = *q, true
	if front != nil {
		g.behind, g.front, g.frontEnd = true, front.start, front.resp.end
		g.frontLost = front.resp.began && !front.resp.framed
		g.frontClose = front.close
	}
	g.q.text = slices.Clone(q.text)
	for i, r := range f.resets {
		if r != nil {
			g.resets[i] = new(*r)
		}
		if k := f.kernel[i]; k != nil {
			g.kernel[i] = new(*k)
			g.kernel[i].resets = slices.Clone(k.resets)
		}
	}
	if prev != nil {
		g.prev, g.hasPrev, g.prevBytes = prev.resp, true, prev.end-prev.start
	}
	return &g
}

// idleBefore is how long the connection was idle before the close k: since the
// last response, or since the handshake. It is false if not known.
func (f *facts) idleBefore(k *closing) (time.Duration, bool) {
	last := f.serverEnd
	if k == &f.K {
		last = f.K.off
	}
	switch {
	case last > f.serverEnd || f.missing&missingBytes != 0 && last > f.respEnd:
		return 0, false // there may be another response, which was not captured
	case f.respTime != 0 && last <= max(f.respEnd, f.unasked.end):
		return max(0, k.time.Sub(f.respTime)), true
	case f.lastServer != 0:
		return max(0, k.time.Sub(f.lastServer)), true
	case f.openTime != 0 && f.responses == 0:
		return max(0, k.time.Sub(f.openTime)), true
	}
	return 0, false
}

// closedIdle reports whether p closed a connection that was, as far as p's own
// TCP knew, idle after a complete response.
func (f *facts) closedIdle(p Party) bool {
	if f.responses == 0 || f.respTime == 0 || f.upgraded || f.missing&(missingBytes|missingSync|missingHead) != 0 {
		return false
	}
	if p == Server {
		return f.K.seen() && f.K.kind != Refusal && f.K.hasAck && (f.first == Server || f.first == BothParties) &&
			f.K.off == f.respEnd && (!f.hasRequest || f.K.ack <= f.q.start) && f.K.ack <= f.clientEnd // else it had what was not captured
	}
	return f.Kc.seen() && f.first == Client && !f.hasRequest && f.Kc.hasAck && f.Kc.ack >= f.respEnd
}

// firstUse reports whether q is the first request of a connection whose
// beginning was seen: nothing went either way before it.
func (f *facts) firstUse() bool {
	if f.tls != nil {
		return f.tls.whole && f.q.number == 1
	}
	return f.conn.StartSeen && f.q.number == 1 && f.q.start == 1+f.preface && f.q.ack <= 1
}

// pipelined reports whether q was sent before the last response that the server
// gave had been received, or behind a request that the server had when it closed.
func (f *facts) pipelined() bool {
	// Nothing is processed behind a request that asks for the close (RFC 9112, section 9.6).
	return f.hasPrev && f.q.ack < f.prev.end || f.frontClose || f.behind && f.K.hasAck && f.K.ack > f.front && f.K.ack <= f.q.start
}

// responseBase is the offset at which the first byte of the response to q was due.
func (f *facts) responseBase() int64 {
	if f.q.resp.began {
		return f.q.resp.start
	}
	base := max(f.q.ack, f.q.base)
	if f.hasPrev {
		base = max(base, f.prev.end)
	}
	if f.behind {
		base = max(base, f.frontEnd)
	}
	if f.unasked.began {
		base = max(base, f.unasked.end)
	}
	return base
}

// serverTop is the offset up to which the server is known to have sent data,
// whether or not the capture shows it.
func (f *facts) serverTop() int64 {
	top := f.serverEnd
	if f.K.seen() {
		top = max(top, f.K.off)
		if f.K.kind == FINClose {
			return max(top, min(f.clientAck, f.K.off))
		}
	}
	for _, r := range f.replies {
		top = max(top, r.off)
	}
	if f.rstS.seen() && f.rstS.kind != Refusal {
		top = max(top, f.rstS.off)
	}
	return max(top, f.clientAck)
}

// silent reports whether the server sent no byte of a response to q: not that
// none was captured, but that its sequence numbers leave no room for one.
func (f *facts) silent() bool {
	if f.q.resp.began || f.frontLost {
		return false
	}
	top := f.serverTop()
	if f.K.kind == FINClose && top == f.K.off+1 { // the FIN's own number
		top--
	}
	return f.serverSeen && top <= f.responseBase()
}

// clientUnseen reports whether the server acknowledged something of the client's
// that was not captured: data, or the client's FIN.
func (f *facts) clientUnseen() bool {
	top := f.clientEnd
	if f.clientSent == top+1 { // the FIN
		top++
	}
	for _, r := range f.refusals { // bear what the server acknowledged
		if r.off > top {
			return true
		}
	}
	return max(f.serverAck, f.clientTop) > top || f.K.hasAck && f.K.ack > top || f.clientSent > top
}

// serverUnseen reports whether the client acknowledged something behind all that
// was captured of the server's, a FIN among it.
func (f *facts) serverUnseen() bool { return f.clientAck > max(f.serverEnd+1, f.serverSent) }

// shown reports whether every byte that the server sent was captured up to K.
func (f *facts) shown() bool { return f.K.off <= f.serverEnd }

// answered reports whether the response to q was sent whole, and not refused by
// a client that had gone before the end of it arrived.
func (f *facts) answered() bool {
	r := &f.q.resp
	if !f.wholeResponse() || f.hidesEnd() || f.doneBefore() {
		return false
	}
	got := f.clientAck
	if f.rstC.hasAck {
		got = max(got, f.rstC.ack)
	}
	// A RST in answer to the server's FIN says nothing about the response, unless
	// the FIN came with its end.
	alone := f.K.kind == FINClose && f.first != Client && !(f.K.time == r.lastTime && f.K.off == r.end)
	refused := len(f.refusals) > 0 && !alone || f.rstC.seen() && f.rstC.hasAck && f.rstC.ack < r.end
	return got >= r.end || !refused && f.resends[1] < deadAfter
}

// doneBefore reports whether the client had said close_notify before it had all of the
// response: HTTP clients do not read on behind that, whatever their TCP takes.
func (f *facts) doneBefore() bool {
	return f.first == Client && f.Kc.notify && f.Kc.hasAck && f.Kc.ack < f.q.resp.end
}

func (f *facts) wholeResponse() bool {
	if f.q.resp.untilClose && !f.q.resp.complete {
		return f.K.kind == FINClose && !f.rstS.seen() // what the FIN ends is whole, whatever the capture lacks of it
	}
	return f.q.resp.complete
}

// rejected returns the RST by which the server's TCP refused a segment of q: it
// bears that segment's acknowledgement as its sequence number (RFC 9293, section
// 3.5.2).
func (f *facts) rejected() (replyRST, bool) {
	for _, r := range f.replies {
		if slices.Contains(f.q.acks[:f.q.nacks], r.off) {
			return r, true
		}
	}
	return replyRST{}, false
}

// serverReset reports whether a RST that the client had to accept came from the
// server's end.
func (f *facts) serverReset() bool {
	return f.rstS.seen() || slices.ContainsFunc(f.replies, func(r replyRST) bool { return r.taken })
}

// delay is how long after the first byte of q had reached the server its close
// was sent. It is not exact if the round trip from here to the server is not
// known.
func (f *facts) delay() (d time.Duration, exact bool) {
	d = f.K.time.Sub(f.q.time) - f.serverRTT
	return max(d, 0), f.serverRTT > 0
}

// timer returns the server's idle timer as known now; nil if it is not.
func (f *facts) timer() *Timer { return f.server.timer() }

// halfClosed reports whether the client, after its FIN, went on to acknowledge
// the server's data: it had shut down one direction, and was still reading. The
// kernel answers data for a socket that was closed with a reset.
func (f *facts) halfClosed() bool {
	return f.Kc.kind == FINClose && !f.Kc.notify && f.Kc.hasAck && len(f.refusals) == 0 && !f.rstC.seen() &&
		min(f.clientAck, f.serverEnd) > f.Kc.ack
}

// due says how the server's close of q compares with its idle timer.
type due uint8

const (
	dueUnknown due = iota // the timer is not known well enough to tell
	dueNow                // the timer was due when q came, and when the close came
	dueLater              // it was not due yet when one of them came
)

// busy is how long a server that has much to do may take from its timer to its
// close.
const busy = 250 * time.Millisecond

// atTimer compares the server's close with its idle timer. A server whose timer
// is not due reads what arrives, so both count: when q arrived, and when the
// close was sent.
func (f *facts) atTimer() due {
	tm := f.timer()
	closed, ok := f.idleBefore(&f.K)
	if tm == nil || !ok {
		return dueUnknown
	}
	arrived := closed - f.K.time.Sub(f.q.time) + f.serverRTT
	if tm.Closes > 0 {
		early, low := tm.early(), f.server.notBefore(tm)
		switch {
		case closed < low, arrived < low && f.serverRTT > 0:
			return dueLater
		case closed < tm.Timeout-early || arrived < tm.Timeout-early-10*time.Millisecond:
			return dueUnknown
		case closed-max(arrived, tm.Timeout) > busy+tm.late(), arrived-tm.Timeout > min(busy, max(prompt, tm.Timeout))+tm.late():
			return dueUnknown // in the latter case it had let the timer pass
		}
		return dueNow
	}
	// Only the server's own word. Several products add up to a second.
	switch {
	case closed < tm.Stated*9/10:
		return dueLater
	case closed <= tm.Stated+1200*time.Millisecond && closed-arrived <= prompt:
		return dueNow
	}
	return dueUnknown
}
