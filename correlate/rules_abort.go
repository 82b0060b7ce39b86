package correlate

import (
	"fmt"
	"time"

	"whyreset/capture"
)

// Rules for requests that one end gave up while they were under way.

// timedOutWithAnswer: RFC 9110, section 15.5.9. The client did get an answer, and
// the answer is that the server gave up on the request.
func timedOutWithAnswer(f *facts) *ruling {
	r := &f.q.resp
	if r.status != 408 || !r.complete || f.q.complete || !r.hasAck || r.ack <= f.q.start {
		return nil
	}
	x := &ruling{verdict: RequestTimeout, confidence: Proven, retry: RetryLikelySafe, refused: true, by: f.first, close: f.closeOf(f.first)}
	x.note(r.frame, r.file, "the server answered 408 (frame %d) after %s without the rest of the request", r.frame, short(r.time.Sub(f.q.lastTime)))
	return x
}

// earlyResponseReset: the server answered before it had all of the request, and
// its reset met the rest of it (RFC 9112, section 9.6).
func earlyResponseReset(f *facts) *ruling {
	r := &f.q.resp
	if !r.began || !r.framed || !r.hasAck || r.status == 408 && r.complete && !f.q.complete || !f.serverReset() || f.first == Client {
		return nil
	}
	sent := max(f.q.end, f.clientEnd)
	if f.clientUnseen() || f.missing&(missingBytes|missingHead|missingSync) != 0 {
		return nil // what answers what is not certain
	}
	early := r.ack < f.q.end || !f.q.complete && f.q.framed
	had := r.ack
	if f.K.hasAck {
		had = f.K.ack
	}
	if !early || r.ack <= f.q.start || had >= sent && f.q.complete || f.K.seen() && !f.shown() {
		return nil
	}
	if f.q.complete && f.serverAck >= f.q.end && len(f.replies) == 0 && f.K.kind == FINClose {
		return nil // it did read the rest
	}
	if f.K.kind == FINClose && !f.wholeResponse() && f.K.off == r.end {
		return nil // the server ended it there itself, and no reset did
	}
	x := &ruling{verdict: EarlyResponseReset, confidence: Strong, retry: RetryUnsafe, by: Server, close: f.serverClose()}
	if f.K.seen() {
		x.confidence = Proven
	}
	x.note(r.frame, r.file, "the response %d began (frame %d) when the server had acknowledged %d of the request's bytes, which reach to %d", r.status, r.frame, r.ack, sent)
	x.noteServerReset(f, "resets the connection under the rest of the request")
	switch {
	case !f.wholeResponse():
		x.lost = true
	case f.clientAck >= r.end:
		x.note(0, 0, "the client's TCP acknowledged the whole response; a client that was still writing may not have read it")
	default:
		x.modifiers = append(x.modifiers, "response-lost")
		x.note(0, 0, "the response was sent whole, and no acknowledgement of it was seen: it may be lost with the reset")
	}
	return x
}

// clientAbort: the client closed while it waited, or while it sent.
func clientAbort(f *facts) *ruling {
	k := f.Kc
	gone := len(f.refusals) > 0 // answers segments of a connection it no longer has
	switch {
	case f.first == Client && f.halfClosed():
		return nil
	case f.first == Client:
	case f.first == BothParties && f.wholeResponse(): // the server was done, and the client was not there for the end
	case !k.seen() && gone && (!f.K.seen() || f.wholeResponse()): // nobody was there for the response
		r := f.refusals[0]
		if f.headers[0].off(r.ttl) > 0 {
			return incomplete(f, "a reset with another TTL than the client's stands in its name")
		}
		k = closing{kind: ReplyReset, off: r.off, time: r.time, frame: r.frame, file: r.file}
	default:
		return nil
	}
	if k.hasAck && k.ack > max(f.serverEnd+1, f.serverSent) || f.serverUnseen() && f.clientAck > f.serverTop() {
		return incomplete(f, "the client acknowledged bytes of the server's that were not captured before it closed")
	}
	if k.hasAck && k.ack > f.serverEnd && !(f.K.kind == FINClose && k.ack == f.K.off+1) {
		return incomplete(f, "the client's close acknowledges a byte or a FIN of the server's that was not captured")
	}
	if k.hasAck && k.off < f.q.end {
		return incomplete(f, "the client's close lies before bytes that it sent: somebody else may have forged it")
	}
	if !f.conn.StartSeen && k.kind == FINClose && f.q.complete && !gone {
		switch {
		case k.time.Sub(f.q.lastTime) < atOnce:
			return incomplete(f, "the client closed right behind the request, as it does when the server's close, which was not captured, has arrived")
		case f.lastServer == 0 && !f.K.seen():
			return incomplete(f, "the server sent nothing since the capture began: it may have closed before")
		}
	}
	x := &ruling{confidence: Proven, lost: true, by: Client, close: &k}
	switch {
	case k.kind == ActiveReset, gone && k.kind == FINClose:
	case gone:
		x.confidence = Strong // no close of the client's was seen
	case f.K.seen() || f.serverReset(): // the server closed in turn, without a complete response
		x.confidence = Strong
		if f.q.complete && k.time.Sub(f.q.lastTime) < atOnce {
			x.confidence = Weak
			x.note(0, 0, "a client that closes its sending side behind the request, and reads on, would look the same")
		}
	case f.now.Sub(k.time) >= linger:
		x.confidence = Weak // it may have closed one direction only, and still be waiting
	default:
		return &ruling{verdict: StillOpen}
	}
	if f.frontLost || f.missing&(missingBytes|missingSync) != 0 {
		return incomplete(f, "which response belongs to which request is not known")
	}
	resp := &f.q.resp
	had := int64(0)
	if resp.began && k.hasAck {
		had = k.ack - resp.start
	} else if resp.began {
		had = f.clientAck - resp.start
	}
	switch {
	case resp.began && !resp.framed:
		return incomplete(f, "how much of a response there was to come is not known")
	case resp.untilClose && !f.K.seen() && !gone && k.kind == FINClose:
		return incomplete(f, "the response was to end with the server's close, which was not captured")
	case !resp.began && (k.hasAck && k.ack > f.responseBase() || f.clientAck > f.responseBase()) && !(f.K.kind == FINClose && f.K.off <= f.responseBase()):
		return incomplete(f, "the client had acknowledged bytes that may be the response")
	case !f.q.framed:
		return incomplete(f, "where the request ends is not known")
	case !f.q.complete && had <= 0:
		x.verdict, x.retry = ClientAbortMidUpload, RetryAmbiguous
		x.note(k.frame, k.file, "the client's %s (frame %d) came after %d bytes of a request (frame %d) that was not complete", k.name(), k.frame, f.q.end-f.q.start, f.q.frame)
	case had > 0:
		x.verdict, x.retry = ClientAbortMidResponse, RetryUnsafe
		x.note(k.frame, k.file, "the client's %s (frame %d) came when it had acknowledged %d bytes of the response (frame %d), and not the end of it", k.name(), k.frame, had, resp.frame)
	default:
		x.verdict, x.retry = ClientAbortBeforeResponse, RetryAmbiguous
		x.note(k.frame, k.file, "the client's %s (frame %d) came %s after its request (frame %d), before any byte of a response had reached it",
			k.name(), k.frame, short(k.time.Sub(f.q.time)), f.q.frame)
		if resp.began {
			x.note(resp.frame, resp.file, "the response (frame %d) came after that", resp.frame)
		}
	}
	if gone && k.kind != ReplyReset {
		x.note(f.refusals[0].frame, f.refusals[0].file, "and its reset (frame %d) refuses what the server sent: nobody was waiting for it", f.refusals[0].frame)
	}
	early := resp.complete && (resp.hasAck && resp.ack < f.q.end || !f.q.complete)
	if e := f.clientClosed(); gone && k.kind == ReplyReset && e != nil && !(early && resp.time < e.time) {
		x.note(0, 0, "the client's program had closed its socket %s before, says its kernel; that close was not captured", short(max(0, k.time.Sub(e.time))))
	} else if c := f.kernelOf(Client); gone && k.kind == ReplyReset && c != nil && c.took.seen {
		x.verdict, x.confidence, x.by = InjectedReset, Strong, Middlebox
		x.note(0, 0, "the client had not closed: its kernel took a reset %s before, and none in the server's name was captured", short(max(0, k.time.Sub(c.took.time))))
	} else if gone && k.kind == ReplyReset && early {
		// It may have read the answer, and closed with the rest of its upload unsent.
		x.lost = false
		x.leaveOpen("the client was gone, and whether it had the response is not known", x.verdict, EarlyResponseReset, InjectedReset)
	} else if gone && k.kind == ReplyReset {
		// A client's socket that closes says so, and a RST that says so is not sent
		// again when it is lost; but one that was reset in the server's name says
		// nothing, and the server's end cannot see that RST.
		x.leaveOpen("the client was gone, and no close of its was captured", x.verdict, InjectedReset)
		x.note(0, 0, "no close of the client's was seen: its TCP may also have been reset in the server's name; a capture at the client would tell")
	}
	if f.K.seen() && f.K.hasAck && f.K.ack > k.off && k.kind == FINClose {
		x.note(f.K.frame, f.K.file, "the server's %s (frame %d) acknowledges that %s: it closed afterwards", f.K.name(), f.K.frame, k.name())
	}
	return x
}

// atOnce is how soon after a request the FIN of a client comes that only shuts
// down its sending side, as nc -N does.
const atOnce = 50 * time.Millisecond

// bothClosed: each end closed without knowing of the other's close, and the
// server had the request. Either may be the cause.
func bothClosed(f *facts) *ruling {
	if f.first != BothParties || f.q.resp.complete {
		return nil
	}
	if f.q.resp.began && !f.q.resp.framed || !f.q.resp.began && !f.silent() || !f.q.framed || !f.shown() || f.Kc.hasAck && f.Kc.ack > f.serverEnd {
		return incomplete(f, "whether the request was answered before both ends closed is not known")
	}
	if f.q.resp.began && f.wholeResponse() {
		return nil
	}
	x := &ruling{verdict: Ambiguous, lost: true, retry: RetryAmbiguous, by: BothParties, close: f.serverClose(), why: "both ends closed at once",
		candidates: []Verdict{ClientAbortBeforeResponse, CloseBeforeResponse}}
	if f.q.resp.began {
		x.retry, x.candidates = RetryUnsafe, []Verdict{ClientAbortMidResponse, TruncatedResponse}
	}
	x.note(f.K.frame, f.K.file, "the server's %s (frame %d) and the client's %s (frame %d) crossed: neither acknowledges the other", f.K.name(), f.K.frame, f.Kc.name(), f.Kc.frame)
	return x
}

// stall is how long a client must have been silent inside its own request for
// the server's close to be about that.
const stall = 500 * time.Millisecond

// requestTimeout: the server closed, without a word, on a request that had not
// come to its end for some time.
func requestTimeout(f *facts) *ruling {
	if !f.K.seen() || !f.q.framed && f.q.resp.began || !f.silent() || f.clientUnseen() {
		return nil
	}
	// What the client sent later does not matter: it was not there.
	last, had, part := f.lastBefore(), f.q.end-f.q.start, !f.q.complete
	if f.K.hasAck && f.K.ack > f.q.start && f.K.ack < f.q.end && f.q.lastTime > last {
		had, part = f.K.ack-f.q.start, true
	}
	if !part {
		return nil
	}
	quiet := f.K.time.Sub(last) - f.conn.HandshakeRTT
	taken := f.K.time.Sub(f.q.time) - f.conn.HandshakeRTT
	// Either silence, or so little at a time that it comes to the same.
	slow := taken >= stall && (!f.q.headEnded || taken > time.Second && had < int64(taken/time.Second)*500)
	if !slow && (quiet < stall || f.K.hasAck && f.K.ack < f.q.start+had) {
		return nil
	}
	if f.missing&(missingHead|missingSync|missingBytes) != 0 {
		return incomplete(f, "where the request ends is not known")
	}
	x := &ruling{verdict: RequestTimeout, confidence: Strong, retry: RetryLikelySafe, lost: true, by: Server, close: f.serverClose()}
	if quiet < stall {
		x.note(f.K.frame, f.K.file, "the server's %s (frame %d) came %s after the beginning of the request (frame %d), of which %d bytes had been sent, and not the end",
			f.K.name(), f.K.frame, short(taken), f.q.frame, had)
		return x
	}
	x.note(f.K.frame, f.K.file, "the server's %s (frame %d) came when the client had been silent for %s inside its request (frame %d), of which %d bytes had been sent",
		f.K.name(), f.K.frame, short(quiet), f.q.frame, had)
	return x
}

// lastBefore is when the client had last sent a part of q before the server's
// close was captured.
func (f *facts) lastBefore() capture.Time {
	if f.K.heard >= f.q.time {
		return min(f.q.lastTime, f.K.heard)
	}
	return f.q.lastTime
}

// prompt is how soon after a request's arrival a server's close must come to be
// the close of an idle connection: its event loop had no time to read.
const prompt = 50 * time.Millisecond

// couldBeIdle reports whether the server's close of q may have been meant for an
// idle connection; sure says that its time does not speak against it.
func (f *facts) couldBeIdle() (could, sure bool) {
	d, exact := f.delay()
	at := f.atTimer()
	enough := prompt
	if f.timer() == nil { // with nothing to compare, a busy server has the benefit of the doubt
		enough = busy
	}
	if f.pipelined() || f.behind || exact && d > enough && at != dueNow {
		return false, false
	}
	idle, ok := f.idleBefore(&f.K)
	return !ok || idle >= minTimer && !(f.firstUse() && idle < freshLimit), exact || d <= prompt
}

// closeBeforeResponse: the server's FIN acknowledges the request, and there is
// no room for a byte of a response before it. Linux sends FIN and not RST only if
// the application had read all there was (tcp_close), but a server that shuts
// down one direction to linger does so unread.
func closeBeforeResponse(f *facts) *ruling {
	if f.K.kind != FINClose || !f.K.hasAck || f.K.ack <= f.q.start || f.q.resp.began || f.K.notify && f.rstS.seen() {
		return nil
	}
	if !f.silent() || !f.shown() {
		return incomplete(f, "the server's sequence numbers leave room for a response that was not captured")
	}
	if x := f.undelivered(); x != nil {
		return x
	}
	x := &ruling{verdict: CloseBeforeResponse, confidence: Proven, retry: RetryAmbiguous, lost: true, by: Server, close: f.serverClose()}
	if f.K.ack < f.q.end {
		x.confidence = Strong // it had not all of it
	}
	x.noteHad(f)
	x.note(f.K.frame, f.K.file, "and its sequence number %d is where the response was due: not a byte of one was sent", f.K.off)
	if f.K.resent {
		x.leaveOpen("the first copy of the close was not captured", CloseBeforeResponse, IdleRaceLingering)
		x.note(f.K.frame, f.K.file, "but this is not its first copy, and the first may have acknowledged less")
		return x
	}
	could, sure := f.couldBeIdle()
	if !could {
		return x
	}
	x.confidence = Strong
	switch at := f.atTimer(); {
	case at == dueLater:
	case at == dueNow && sure && f.server.closesByHalves():
		x.verdict, x.confidence = IdleRaceLingering, Weak
		x.noteTimer(f, "which fits the server's idle timer, and it closes idle connections by halves")
	default:
		// Some servers have read the request by the time their timer fires, and
		// drop it (aiohttp).
		x.timer = at == dueUnknown
		if at == dueNow {
			x.leaveOpen("closed when the idle timer was due", CloseBeforeResponse, IdleRaceLingering)
			x.noteTimer(f, "which fits the server's idle timer")
		} else {
			x.leaveOpen("closed at once, idle timer not known", CloseBeforeResponse, IdleRaceLingering)
			x.noteTimer(f, "and this server's idle timer is not known well enough to compare")
		}
	}
	return x
}

// abortBeforeResponse: the server's reset acknowledges the request, and there is
// no room for a byte of a response before it. The same packets come from an idle
// close that found the request unread (RFC 2525, section 2.17); only the timer
// tells.
func abortBeforeResponse(f *facts) *ruling {
	if f.q.resp.began || !f.silent() {
		if !f.q.resp.began && f.serverReset() {
			return incomplete(f, "the server's sequence numbers leave room for a response that was not captured")
		}
		return nil
	}
	// Under TLS a close_notify may go before the reset.
	if f.K.kind != ActiveReset && !(f.K.notify && f.rstS.seen()) || f.K.ack <= f.q.start {
		if f.K.seen() || len(f.replies) == 0 || f.serverAck <= f.q.start {
			return nil
		}
		r := f.replies[0]
		x := &ruling{verdict: AbortBeforeResponse, confidence: Weak, retry: RetryAmbiguous, lost: true, by: Server,
			close: &closing{kind: ReplyReset, off: r.off, time: r.time, frame: r.frame, file: r.file}}
		x.note(r.frame, r.file, "the server acknowledged the request (frame %d), and its reset (frame %d) says that it no longer has the connection", f.q.frame, r.frame)
		return x
	}
	if x := f.undelivered(); x != nil {
		return x
	}
	x := &ruling{verdict: AbortBeforeResponse, confidence: Strong, retry: RetryAmbiguous, lost: true, by: Server, close: f.serverClose()}
	x.noteHad(f)
	could, sure := f.couldBeIdle()
	if !could {
		d, exact := f.delay()
		if !f.firstUse() && exact && d <= prompt {
			x.confidence = Weak // a restart closes connections in use, and may find a request unread
		}
		if f.firstUse() && f.server.speaks == 0 {
			x.confidence = Weak
			x.note(0, 0, "this server was not seen to answer anything: nobody may have accepted the connection before its listener was closed")
		}
		x.note(f.K.frame, f.K.file, "it came %s after the request, %s: not the close of an idle connection", short(d), f.notIdle())
		return x
	}
	switch at := f.atTimer(); {
	case at == dueNow && sure:
		x.verdict, x.confidence = IdleRaceUnread, Weak
		x.noteTimer(f, "which fits the server's idle timer")
		x.note(0, 0, "whether the request was read cannot be seen in packets: eBPF on the server would show the unread bytes")
	case at == dueLater:
		x.confidence = Weak
		x.noteTimer(f, "long before the server's idle timer was due")
	default:
		x.timer = at == dueUnknown
		x.leaveOpen("bare reset, idle timer not known", IdleRaceUnread, AbortBeforeResponse)
		if at == dueNow {
			x.why = "bare reset, round trip not known"
			x.noteTimer(f, "which fits the server's idle timer, but how long the server had the request is not known")
		} else {
			x.noteTimer(f, "and this server's idle timer is not known well enough to compare")
		}
		x.note(0, 0, "a close of the server's idle connections in the same capture, or eBPF on the server, would decide")
	}
	return x
}

// undelivered gives up where the end of the request was sent long before the
// server closed, and never came to it: to the server the request was not
// complete, and what kept the rest from it is not seen.
func (f *facts) undelivered() *ruling {
	waited := f.K.time.Sub(f.lastBefore()) - f.conn.HandshakeRTT
	if max(f.K.ack, f.serverAck) >= f.q.end || !f.q.complete || waited < stall {
		return nil
	}
	x := &ruling{verdict: Ambiguous, retry: RetryLikelySafe, lost: true, by: Server, close: f.serverClose(), why: "the end of the request did not reach the server",
		candidates: []Verdict{RequestTimeout, FirewallReject}}
	x.noteHad(f)
	x.note(f.q.frame, f.q.file, "the rest had been sent %s before, and never arrived", short(f.K.time.Sub(f.lastBefore())))
	return x
}

// noteHad tells how much of the request the server's TCP had when it closed.
func (x *ruling) noteHad(f *facts) {
	had := "the server's TCP had it"
	if f.K.ack < f.q.end || !f.q.complete {
		had = fmt.Sprintf("the server's TCP had %d bytes of it", min(f.K.ack, f.q.end)-f.q.start)
	}
	x.note(f.K.frame, f.K.file, "server's %s (frame %d) acknowledges %d, the request (frame %d) is bytes %d to %d: %s",
		f.K.name(), f.K.frame, f.K.ack, f.q.frame, f.q.start, f.q.end-1, had)
}

func (f *facts) notIdle() string {
	d, exact := f.delay()
	switch {
	case f.pipelined(), f.behind:
		return "which was pipelined"
	case exact && d > prompt:
		return "time enough to read it"
	case f.firstUse():
		return "the first on a fresh connection"
	}
	return "right after a response"
}

// cutResponse: the server closed or reset before the end that its own framing
// gives the response.
func cutResponse(f *facts) *ruling {
	r := &f.q.resp
	if !r.began || !f.K.seen() && !f.serverReset() {
		return nil
	}
	if !r.framed {
		return incomplete(f, "where the response ends is not known")
	}
	if f.serverTop() > max(f.serverEnd, r.end) || f.serverUnseen() {
		return incomplete(f, "the end of what the server sent was not captured")
	}
	if f.missing&(missingBytes|missingHead|missingSync) != 0 || !f.conn.StartSeen && f.requests > f.responses+1 {
		return incomplete(f, "which response belongs to which request is not known")
	}
	x := &ruling{retry: RetryUnsafe, lost: true, by: Server, close: f.serverClose(), confidence: Proven}
	got := r.end - r.start
	if f.K.kind == FINClose && !(f.rstS.seen() && f.rstS.off <= f.K.off) {
		x.verdict = TruncatedResponse
		x.noteStalled(f)
		x.note(f.K.frame, f.K.file, "server's FIN (frame %d) comes after %d bytes of the response (frame %d), whose own framing promises more", f.K.frame, got, r.frame)
		return x
	}
	x.verdict = AbortMidResponse
	x.noteStalled(f)
	if !f.rstS.seen() {
		x.confidence = Strong
	}
	x.noteServerReset(f, "comes before the end of the response")
	x.note(r.frame, r.file, "%d bytes of the response (frame %d) had been sent", got, r.frame)
	return x
}

// noteStalled says so where the client had not taken what was sent for some time:
// then the server may have given up on it.
func (x *ruling) noteStalled(f *facts) {
	k := f.serverClose()
	waited := k.time.Sub(max(f.clientAckTime, f.q.resp.time))
	if f.clientAck >= f.serverEnd || waited < stall {
		return
	}
	x.modifiers = append(x.modifiers, "client-stalled")
	x.note(0, 0, "the client had acknowledged no more of the response for %s, with %d bytes of it under way: it did not read, or the path was gone, and the server may have given up on it", short(waited), f.serverEnd-f.clientAck)
}

// unanswered: nobody closed. Silence is held against the server only when it
// has lasted.
func unanswered(f *facts) *ruling {
	if f.K.seen() || f.serverReset() || f.Kc.seen() || len(f.refusals) > 0 {
		return nil
	}
	waited := f.now.Sub(f.q.lastTime)
	if !f.q.complete || !f.silent() || f.serverAck < f.q.end || waited < answerWait {
		if f.atEnd {
			return &ruling{verdict: StillOpen}
		}
		return nil
	}
	x := &ruling{verdict: ServerNeverAnswered, confidence: Weak, retry: RetryAmbiguous, lost: true}
	x.note(f.q.frame, f.q.file, "the server acknowledged the whole request (frame %d) and sent nothing in the %s until the capture ended", f.q.frame, short(waited))
	return x
}
