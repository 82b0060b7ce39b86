package correlate

import (
	"strconv"
	"time"

	"whyreset/capture"
)

// Rules for connections that were not opened, or whose request met a listener
// that never took it.

const (
	// synPatience is how long a SYN may wait for its answer before the first copy
	// is due at the latest (RFC 6298, section 2.1; older systems took 3 s).
	synPatience = 3 * time.Second
	// synAnswer is how long the second one must have waited when the capture ends.
	synAnswer = time.Second
)

// The forms of accept-queue-overflow, as modifiers.
const (
	synDropped      = "syn-dropped"
	ackDropped      = "ack-dropped"
	abortOnOverflow = "abort-on-overflow"
)

// neverOpened: no SYN was ever answered. A single one tells nothing: no TCP gives
// up after it, so that it is a probe's, or its client gave up within a second.
func neverOpened(f *facts) *ruling {
	if !f.conn.StartSeen || f.serverSeen || f.opening.syns == 0 || f.opening.clientSpoke || f.Kc.seen() || len(f.refusals) > 0 {
		return nil
	}
	since := f.now.Sub(f.time)
	n := f.opening.syns
	switch {
	case n < 2 && f.atEnd && since < synPatience, n == 2 && f.atEnd && since < synAnswer:
		return &ruling{verdict: StillOpen}
	case n < 2:
		x := &ruling{verdict: Unknown, why: "never opened"}
		x.note(0, 0, "the SYN was never answered, nor sent again")
		return x
	}
	x := &ruling{verdict: ConnectTimeout, confidence: Strong, retry: RetrySafe, unopened: true}
	x.note(0, 0, "the SYN was sent %d times in %s and never answered", n, short(f.time.Sub(f.conn.Start)))
	if f.opening.others && n >= 3 {
		x.verdict, x.confidence, x.by = AcceptQueueOverflow, Weak, Server
		x.modifiers = append(x.modifiers, synDropped)
		x.note(0, 0, "meanwhile another connection of the same client to the same server was accepted: neither the path nor the server's host was gone")
	}
	return x
}

// refusedConnection: a RST acknowledges the SYN (RFC 9293, section 3.10.7.1).
// Where it comes from another distance than the server's SYN-ACKs do, something
// else on the way sent it.
func refusedConnection(f *facts) *ruling {
	if f.K.kind != Refusal {
		return nil
	}
	x := &ruling{verdict: ConnectRefused, confidence: Proven, retry: RetrySafe, by: Server, close: f.serverClose(), unopened: true}
	x.note(f.K.frame, f.K.file, "the reset (frame %d) refuses the SYN: it acknowledges %d and came %s after it", f.K.frame, f.K.ack, short(f.K.time.Sub(f.conn.Start)))
	r := f.resets[1]
	if r == nil || f.vouched(Server, r) {
		return x
	}
	switch {
	case f.unsent[1] == neverSent:
		x.verdict, x.confidence, x.by = FirewallReject, Strong, Middlebox
		x.note(r.frame, r.file, "the kernel of the server's end tells of every reset that its TCP sends, and sent none: a rule that rejects did, on that host or before it")
	case f.server.header.off(r.ttl) > ttlJitter:
		x.verdict, x.confidence, x.by = FirewallReject, Strong, Middlebox
		x.note(r.frame, r.file, "its TTL is %d and the SYN-ACKs from this address and port have %s: something else on the path sent it", r.ttl, f.server.header.ttls())
	case f.server.host.off(r.ttl) > ttlJitter:
		x.verdict, x.confidence, x.by = FirewallReject, Weak, Middlebox
		x.note(r.frame, r.file, "its TTL is %d and the SYN-ACKs from other ports of this address have %s: something else on the path sent it", r.ttl, f.server.host.ttls())
	}
	return x
}

// handshakeAlone reports whether the server's end sent nothing but SYN-ACKs and
// RSTs, and acknowledged none of the client's bytes.
func (f *facts) handshakeAlone() bool {
	return f.conn.StartSeen && f.serverRTT > 0 && f.serverEnd <= 1 && f.serverAck <= 1 && !f.K.seen() && !f.q.resp.began && f.missing&missingBytes == 0
}

// ackDropped: the server sends its SYN-ACK again although the client has
// acknowledged it, and takes none of the request: Linux drops the acknowledgement
// while the accept queue is full (tcp_v4_syn_recv_sock); with SYN cookies it does so
// without a second SYN-ACK, which only tells at the server's own end. Nor would it
// know of the connection if every later packet of the client's were lost.
func ackDroppedOverflow(f *facts) *ruling {
	here := f.conn.Vantage == AtServer && f.q.retrans > 1 && f.q.number == 1
	if f.opening.again == 0 && !here || !f.handshakeAlone() || f.q.retrans == 0 || len(f.replies) > 0 && f.replies[0].time < f.q.time {
		return nil
	}
	if f.atEnd && f.q.retrans < 3 {
		return &ruling{verdict: StillOpen}
	}
	x := &ruling{verdict: AcceptQueueOverflow, confidence: Weak, retry: RetryLikelySafe, lost: true, by: Server, close: f.closeOf(f.first), modifiers: []string{ackDropped}}
	if f.opening.again > 1 || f.conn.Vantage == AtServer || f.conn.Vantage == Local {
		x.confidence = Strong
	}
	if f.opening.again > 0 {
		x.note(0, 0, "the server sent its SYN-ACK %s more after the client had acknowledged it, and never took that acknowledgement", times(int(f.opening.again)))
	} else {
		x.note(0, 0, "the client's acknowledgement of the SYN-ACK and all that followed reached the server's host, and its TCP took none of it")
	}
	x.note(f.q.frame, f.q.file, "the request (frame %d) was sent %d times, and not a byte of it was acknowledged", f.q.frame, f.q.retrans+1)
	f.retryAfterClose(x) // without a reset, the client's kernel may go on to send what its closed socket had left
	if x.retry == RetrySafe {
		x.close = f.serverClose()
	}
	return x
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return strconv.Itoa(n) + " times"
}

// resetAfterAccept: the acknowledgement that ends the handshake was answered by a
// RST, and so was each segment behind it. Linux does that to a full accept queue
// with tcp_abort_on_overflow (tcp_check_req), and where the listener went away
// between the SYN and the acknowledgement.
func resetAfterAccept(f *facts) *ruling {
	if !f.handshakeAlone() || len(f.replies) == 0 || f.replies[0].off != 1 {
		return nil
	}
	rst, r := f.replies[0], f.resets[1]
	if r == nil || r.hasAck || r.frame != rst.frame || f.headers[1].off(r.ttl) > 0 || rst.time.Sub(f.openTime) > freshLimit {
		return nil
	}
	// It came as soon as an answer to the handshake's end can.
	if f.ackSeen && rst.time.Sub(f.openTime) > f.serverRTT*5/4+2*moment {
		return nil
	}
	// So does an answer to the request, where that alone was seen to end the handshake.
	if f.hasRequest && !f.ackSeen && rst.time.Sub(f.q.time) > f.serverRTT*5/4+2*moment {
		return nil
	}
	if !f.hasRequest && (!f.ackSeen || rst.again > 0 && f.opening.doubled < 2) {
		return nil
	}
	each := !f.hasRequest || rst.time < f.q.time || !f.ackSeen || rst.again > 0 && f.opening.doubled < 2 || rst.again > 2
	if !each || f.hasRequest && f.q.number > 1 {
		return nil
	}
	x := &ruling{verdict: AcceptQueueOverflow, confidence: Weak, retry: RetrySafe, lost: f.hasRequest, unopened: !f.hasRequest, by: Server,
		close: f.serverClose(), modifiers: []string{abortOnOverflow}}
	x.note(rst.frame, rst.file, "the reset (frame %d) with seq 1 answers the acknowledgement that ends the handshake: the server's TCP did not take the connection that its own SYN-ACK had offered", rst.frame)
	if f.hasRequest {
		x.note(f.q.frame, f.q.file, "nor anything behind it: not a byte of the request (frame %d) was acknowledged", f.q.frame)
		f.retryAfterClose(x)
	}
	switch {
	case f.overflowSaid(x):
	case f.server.refused.Sub(rst.time).Abs() < freshLimit && f.server.refused != 0:
		x.verdict, x.confidence, x.modifiers = BacklogDropped, Strong, nil
		x.note(0, 0, "and SYNs to this server were refused within a second of it: the listener was closed")
	case f.server.accepted > rst.time:
		x.confidence = Strong
		x.note(0, 0, "other connections were accepted afterwards: the listener was still there")
	case f.server.departed != 0 && f.server.departed.Sub(rst.time).Abs() < freshLimit:
		x.modifiers = nil
		x.leaveOpen("refused after the handshake", AcceptQueueOverflow, BacklogDropped)
		x.note(0, 0, "the server closed another connection within a second of it: its listener may have gone")
	}
	return x
}

// drops are resets of connections whose first request was still unanswered, by
// one server at one moment.
type drops struct {
	first, last capture.Time
	n           int
}

// sameMoment is how far apart the resets of one closed listener are at most.
const sameMoment = 50 * time.Millisecond

func (d *drops) note(at capture.Time) {
	if d.n > 0 && at.Sub(d.last) < sameMoment {
		d.n++
		d.last = max(d.last, at)
		return
	}
	*d = drops{at, at, 1}
}

// backlogDropped: the kernel had taken the request for a connection that waited
// to be accepted, and the listener was closed. The same packet comes from a
// program that aborts; several fresh connections at one moment, and SYNs refused
// right afterwards, tell them apart.
func backlogDropped(f *facts) *ruling {
	d := &f.server.dropped
	if f.K.kind != ActiveReset || f.K.ack <= f.q.start || !f.firstUse() || !f.silent() || d.n < 2 || f.K.time < d.first || f.K.time > d.last {
		return nil
	}
	if f.server.refused < f.K.time || f.server.refused.Sub(f.K.time) > freshLimit {
		if d.n < 3 {
			return nil
		}
		x := &ruling{verdict: Ambiguous, retry: RetryAmbiguous, lost: true, by: Server, close: f.serverClose(),
			candidates: []Verdict{BacklogDropped, AbortBeforeResponse}, why: "several fresh connections reset at once"}
		x.noteHad(f)
		x.note(0, 0, "%d fresh connections of this server, none of them answered yet, were reset within %s: the listener was closed, or the program that had accepted them ended", d.n, short(d.last.Sub(d.first)))
		return x
	}
	x := &ruling{verdict: BacklogDropped, confidence: Strong, retry: RetryAmbiguous, lost: true, by: Server, close: f.serverClose()}
	x.noteHad(f)
	x.note(0, 0, "%d fresh connections of this server, none of them answered yet, were reset within %s, and SYNs were refused right afterwards: the listener was closed", d.n, short(d.last.Sub(d.first)))
	return x
}
