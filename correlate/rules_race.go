package correlate

import "time"

// Rules for requests that met a close of the connection itself: the server was
// done with it, or what lies between had forgotten it.

// nearMiss marks a late reuse that missed the close by so little that no program
// could have seen it.
const nearMiss = "near-miss"

// lateReuse: the request acknowledges the server's FIN, or the end of a response
// that announced the close. The client's own TCP knew.
func lateReuse(f *facts) *ruling {
	if f.q.resp.began || f.pipelined() {
		return nil
	}
	x := &ruling{verdict: LateReuse, confidence: Proven, lost: true, by: Server, close: f.serverClose()}
	switch {
	case f.K.kind == FINClose && f.q.ack > f.K.off:
		if f.K.hasAck && f.K.ack > f.q.start {
			return nil // it closed after it had bytes of this request: not what it seems
		}
		x.note(f.q.frame, f.q.file, "the request (frame %d) acknowledges %d: the client's TCP had the server's %s %d (frame %d), which came %s earlier",
			f.q.frame, f.q.ack, f.K.name(), f.K.off, f.K.frame, short(f.q.time.Sub(f.K.time)))
		if f.q.time.Sub(f.K.time) < 10*time.Millisecond {
			x.modifiers = append(x.modifiers, nearMiss)
			x.note(0, 0, "so little time that the program may not have seen it: the idle timeouts at both ends meet here, as in an idle race")
		}
		if f.q.resent {
			x.leaveOpen("the request's first copy was not captured", IdleRace, LateReuse, IdleBlackhole)
			x.note(f.q.frame, f.q.file, "but this is not the first copy of the request, and the first may have crossed the FIN")
		}
	case f.unasked.began && f.q.ack > f.unasked.start && (f.unasked.close || f.unasked.status == 408) &&
		f.first != Client && (f.hadNothing() || f.serverReset()):
		x.modifiers = append(x.modifiers, "announced")
		x.note(f.unasked.frame, f.unasked.file, "the client's TCP had the server's unasked response %d (frame %d) when it sent the request (frame %d), which acknowledges %d",
			f.unasked.status, f.unasked.frame, f.q.frame, f.q.ack)
	case f.hasPrev && f.prev.close && f.q.ack >= f.prev.end && f.silent() && (f.K.seen() || f.serverReset()):
		x.modifiers = append(x.modifiers, "announced")
		x.note(f.prev.frame, f.prev.file, "the response before it (frame %d) announced the end of the connection, and the request (frame %d) acknowledges all of that response", f.prev.frame, f.q.frame)
	default:
		return nil
	}
	f.retryAfterClose(x)
	return x
}

// retryAfterClose says whether a request that came to a closed socket may be sent
// again, and adds the proof.
func (f *facts) retryAfterClose(x *ruling) {
	x.retry = RetryLikelySafe
	if f.serverAck > f.q.start {
		return
	}
	if rst, ok := f.rejected(); ok {
		x.retry = RetrySafe
		x.note(rst.frame, rst.file, "reset (frame %d) with seq %d answers the request's ack %d: the request was refused, not processed", rst.frame, rst.off, rst.off)
	} else if f.refused() != nil {
		x.retry = RetrySafe
		x.note(0, 0, "the server's kernel refused the request with a reset: it was not processed")
	}
}

// idle408Race: a response whose first byte acknowledges nothing of the request
// cannot be the answer to it.
func idle408Race(f *facts) *ruling {
	u := &f.unasked
	if f.q.resp.began || !u.began || !u.hasAck || u.ack > f.q.start || f.q.ack > u.start {
		return nil
	}
	if u.status < 400 { // no server says that unasked: somebody else may have
		return incomplete(f, "a response that nobody had asked for crossed the request")
	}
	x := &ruling{verdict: Idle408Race, confidence: Proven, lost: true, by: Server, close: f.serverClose()}
	x.note(u.frame, u.file, "the response %d (frame %d) acknowledges %d and the request's first byte (frame %d) is %d: it was sent without any of the request, which crossed it",
		u.status, u.frame, u.ack, f.q.frame, f.q.start)
	f.retryAfterClose(x)
	return x
}

// pipelinedLost: RFC 9112, section 9.6. A server that closes after a response
// must not process what was pipelined behind it.
func pipelinedLost(f *facts) *ruling {
	if f.q.resp.began || !f.pipelined() || !f.K.seen() || !f.K.hasAck || f.first == Client || !f.silent() {
		return nil
	}
	if f.missing&(missingBytes|missingHead|missingSync) != 0 {
		if f.K.ack <= f.q.start {
			return nil // whatever it was behind, the server had none of it
		}
		return incomplete(f, "which response belongs to which request is not known")
	}
	x := &ruling{verdict: PipelinedLost, confidence: Strong, retry: RetryLikelySafe, lost: true, by: Server, close: f.serverClose()}
	if f.frontClose {
		x.note(f.q.frame, f.q.file, "the request (frame %d) was sent behind another one, which asked for the connection's close", f.q.frame)
	} else if f.behind {
		x.note(f.q.frame, f.q.file, "the request (frame %d) was sent behind another one, which the server had when it closed", f.q.frame)
	} else {
		x.note(f.q.frame, f.q.file, "the request (frame %d) was sent before the response ahead of it had been received, and that response was the server's last", f.q.frame)
	}
	if f.K.ack <= f.q.start {
		x.confidence = Proven
		x.note(f.K.frame, f.K.file, "the server's %s (frame %d) acknowledges %d, the request's first byte is %d: it had none of the request", f.K.name(), f.K.frame, f.K.ack, f.q.start)
		f.retryAfterClose(x)
	} else {
		x.note(f.K.frame, f.K.file, "the server's %s (frame %d) acknowledges %d of the request's bytes %d to %d", f.K.name(), f.K.frame, f.K.ack, f.q.start, f.q.end)
	}
	if f.prev.close {
		x.modifiers = append(x.modifiers, "announced")
	}
	return x
}

// hadNothing reports whether the server's close acknowledges nothing of q, and
// nothing was sent that would be an answer.
func (f *facts) hadNothing() bool {
	return f.K.seen() && f.K.hasAck && f.K.ack <= f.q.start && !f.q.resp.began
}

// freshLimit is how young a connection is whose close before its first request
// has to do with the connection, and not with an idle timer.
const freshLimit = time.Second

// closedOnAccept: the server closed a fresh connection before it had anything.
func closedOnAccept(f *facts) *ruling {
	if !f.hadNothing() || !f.firstUse() || f.unasked.began {
		return nil
	}
	idle, ok := f.idleBefore(&f.K)
	if !ok || idle >= freshLimit {
		return nil
	}
	if f.atTimer() == dueNow {
		return nil
	}
	x := &ruling{verdict: ClosedOnAccept, confidence: Strong, lost: true, by: Server, close: f.serverClose()}
	x.note(f.K.frame, f.K.file, "the server's %s (frame %d) came %s after the handshake and acknowledges %d, the request's first byte (frame %d) is %d",
		f.K.name(), f.K.frame, short(idle), f.K.ack, f.q.frame, f.q.start)
	f.retryAfterClose(x)
	return x
}

// couldCross reports whether the request and the server's close may have crossed
// on their way. A request that was sent
// again and again before the close came was lost on its way, and the close is
// another matter.
func (f *facts) couldCross() bool {
	after := f.K.time.Sub(f.q.time)
	if f.q.resent || f.K.resent {
		// The times are not those of the first copies, and what is missing may be others.
		return f.q.retrans == 0 && f.missing&missingBytes == 0 && f.serverRTT != 0
	}
	if f.serverRTT == 0 {
		return after < 2*resendWait && f.q.retrans == 0
	}
	// From here to the server and back is all that lies between them, wherever this is.
	return after <= f.serverRTT*3/2+prompt
}

// lostOnTheWay: the server's close has none of the request, and came when the
// request had been under way for longer than any path takes.
func lostOnTheWay(f *facts) *ruling {
	if !f.hadNothing() || f.couldCross() {
		return nil
	}
	x := &ruling{verdict: Ambiguous, lost: true, by: NoParty, close: f.serverClose(), why: "something kept the request from the server",
		candidates: []Verdict{PeerDead, IdleBlackhole, IdleRace}}
	x.note(f.q.frame, f.q.file, "the request (frame %d) had been under way for %s, and was sent %s, when the server closed (frame %d) with none of it: packets were lost on the way, and that the server closed may only be the consequence",
		f.q.frame, short(f.K.time.Sub(f.q.time)), times(int(f.q.retrans)+1), f.K.frame)
	f.retryAfterClose(x)
	return x
}

// idleRace: the server's FIN acknowledges nothing of the request, and the
// request does not acknowledge the FIN. Each was sent without knowledge of the
// other, so they crossed; no clock is needed, and no vantage point deceives.
func idleRace(f *facts) *ruling {
	if !f.hadNothing() || f.K.kind != FINClose {
		return nil
	}
	x := &ruling{verdict: IdleRace, confidence: Strong, lost: true, by: Server, close: f.serverClose()}
	x.note(f.K.frame, f.K.file, "server's %s (frame %d) acknowledges %d, the request's first byte (frame %d) is %d: it had none of the request",
		f.K.name(), f.K.frame, f.K.ack, f.q.frame, f.q.start)
	x.note(f.q.frame, f.q.file, "the request acknowledges %d and not the %s, which is %d: the client had not seen it", f.q.ack, f.K.name(), f.K.off)
	f.retryAfterClose(x)
	switch {
	case f.serverAck > f.q.start:
		x.verdict = IdleRaceLingering
		x.note(0, 0, "the server went on to acknowledge %d, the request with it, but it had closed and could not answer", f.serverAck)
	case x.retry == RetrySafe:
		x.confidence = Proven
	}
	f.limitInstead(x)
	return x
}

// idleRaceRST: as idleRace, with an abort in place of the FIN.
func idleRaceRST(f *facts) *ruling {
	if !f.hadNothing() || f.K.kind != ActiveReset {
		return nil
	}
	x := &ruling{verdict: IdleRaceRST, confidence: Strong, lost: true, by: Server, close: f.serverClose()}
	x.note(f.K.frame, f.K.file, "server's reset (frame %d) acknowledges %d, the request's first byte (frame %d) is %d: it left without any of the request",
		f.K.frame, f.K.ack, f.q.frame, f.q.start)
	f.retryAfterClose(x)
	if x.retry == RetrySafe {
		x.confidence = Proven
	}
	f.limitInstead(x)
	return x
}

// limitInstead turns a race with an idle timer into one with a limit where the
// server had closed right after a response and not after an idle time.
func (f *facts) limitInstead(x *ruling) {
	idle, ok := f.idleBefore(&f.K)
	if !ok && f.missing&missingBytes != 0 || f.K.off > f.serverEnd {
		x.leaveOpen("the response before the close was not captured", IdleRace, KeepaliveLimitRace, LateReuse)
		return
	}
	if f.startBare && f.serverEnd <= 1 && f.q.number == 1 && f.K.time.Sub(f.conn.Start) < freshLimit {
		// All that was seen before may be the end of a handshake.
		x.leaveOpen("whether the connection had been in use is not known", IdleRace, ClosedOnAccept)
		return
	}
	if !ok || f.respTime == 0 || f.announced {
		return
	}
	if idle >= minTimer {
		x.limited(f)
		return
	}
	x.note(f.K.frame, f.K.file, "the server closed %s after response %d on a connection %s old, without having announced it", short(idle), f.responses, short(f.K.time.Sub(f.conn.Start)))
	switch {
	case x.limited(f):
		x.verdict = KeepaliveLimitRace
	case f.missing&(missingStart|missingBytes) != 0:
		x.leaveOpen("closed right after a response, and how many there were is not known", KeepaliveLimitRace, IdleRace)
	}
}

// neverAcknowledged: the request was sent again and again, and the server's TCP
// did not show that it had any of it.
func neverAcknowledged(f *facts) *ruling {
	if f.q.resp.began || f.serverAck > f.q.start || f.K.seen() || f.serverReset() || f.q.retrans < 3 {
		return nil
	}
	x := &ruling{verdict: Ambiguous, lost: true, retry: RetryLikelySafe, by: NoParty, candidates: []Verdict{IdleBlackhole, PeerDead}, why: "the request was never acknowledged"}
	x.note(f.q.frame, f.q.file, "the request (frame %d) was sent %d times and never acknowledged: the path, or the server, was gone", f.q.frame, f.q.retrans+1)
	if f.q.hasIdle && f.q.idle >= time.Minute && f.missing&missingBytes == 0 {
		// Who forgot cannot be seen: by stays NoParty.
		x.verdict, x.confidence, x.candidates, x.why = IdleBlackhole, Strong, nil, ""
		x.note(0, 0, "the connection had been idle for %s: what keeps state on the path had forgotten it, or the server's host had gone", short(f.q.idle))
	}
	if f.q.hasIdle && f.q.idle < 10*time.Second && f.missing&missingBytes == 0 {
		switch {
		case f.firstUse(): // SYN cookies leave a full accept queue without a trace
			x.candidates = []Verdict{AcceptQueueOverflow, PeerDead}
		case f.others > f.q.time:
			x.note(0, 0, "meanwhile the server accepted another connection of this client: neither its host nor the path was gone")
		case f.q.retrans >= deadAfter:
			x.verdict, x.confidence, x.candidates, x.why = PeerDead, Strong, nil, ""
			x.note(0, 0, "the connection had been in use %s before: too short a time for anything on the path to forget it", short(f.q.idle))
		}
	}
	return x
}

// staleConnection: the server's end answers the request as if it had never heard
// of the connection, and no close preceded. Where the capture lacks something, a
// FIN may be what it lacks.
func staleConnection(f *facts) *ruling {
	rst, ok := f.rejected()
	if !ok || f.K.seen() || f.q.resp.began || f.serverAck > f.q.start {
		return nil
	}
	// What the client acknowledged of the server's, resets repeat. If it is more
	// than was captured, a FIN may be what is missing, or an answer.
	acked := f.clientAck
	for _, r := range f.replies {
		acked = max(acked, r.off)
	}
	if acked > f.serverEnd {
		r := incomplete(f, "the client acknowledged something of the server's that was not captured")
		if acked == f.serverEnd+1 { // too little for a response
			r.lost, r.retry = true, RetryLikelySafe
		}
		return r
	}
	if f.missing&missingBytes != 0 {
		return incomplete(f, "the server's answers and close may be among them")
	}
	if f.serverRTT > 0 && f.q.lastTime.Sub(f.q.time) > f.serverRTT/2+moment {
		return incomplete(f, "the client went on sending, as it does when it gets acknowledgements")
	}
	if f.firstUse() && f.q.hasIdle && f.q.idle < freshLimit {
		x := &ruling{verdict: Ambiguous, retry: RetryLikelySafe, lost: true, by: Server, close: f.serverClose(),
			candidates: []Verdict{ClosedOnAccept, AbortBeforeResponse, FirewallReject}, why: "refused on a fresh connection, and no close was captured"}
		x.note(rst.frame, rst.file, "reset (frame %d) with seq %d answers the request's ack %d (frame %d), the first on a fresh connection: nobody had accepted it, or had already let it go", rst.frame, rst.off, rst.off, f.q.frame)
		return x
	}
	x := &ruling{verdict: Ambiguous, lost: true, retry: RetryLikelySafe, candidates: []Verdict{StaleConnection, IdleRace, LateReuse, FirewallReject}, why: "refused, and no close was captured"}
	if f.q.retrans > 0 {
		x.retry = RetryAmbiguous // an earlier copy may have been taken, and the answer lost
	}
	x.close = &closing{kind: ReplyReset, off: rst.off, time: rst.time, frame: rst.frame, file: rst.file}
	x.note(rst.frame, rst.file, "reset (frame %d) with seq %d answers the request's ack %d (frame %d): there was no socket for it, and the request was refused", rst.frame, rst.off, rst.off, f.q.frame)
	if f.missing != 0 || !f.q.hasIdle || f.firstUse() {
		x.note(0, 0, "no close of the server's was captured")
		return x
	}
	// Only the first two say who sent the reset. A host that was started anew
	// would answer like the others.
	after := rst.time.Sub(f.q.time)
	switch {
	case f.conn.Vantage == AtClient && f.nearest > 5*time.Millisecond && after < f.nearest*2/5:
		x.confidence, x.by = Strong, Middlebox
		x.note(rst.frame, rst.file, "it came %s after the request, and the server is %s away: something nearer sent it", short(after), short(f.nearest))
	case f.headers[1].off(rst.ttl) > 0:
		x.confidence, x.by = Strong, Middlebox
		x.note(rst.frame, rst.file, "its TTL is %d and the server's segments have %s: something else on the path sent it", rst.ttl, f.headers[1].ttls())
	case f.q.idle >= time.Minute:
		x.confidence = Strong
	case f.q.idle >= 10*time.Second:
		x.confidence = Weak
	default:
		x.note(0, 0, "no close of the server's was captured")
		return x
	}
	x.verdict, x.candidates, x.why = StaleConnection, nil, ""
	if x.confidence == Strong && f.q.retrans == 0 {
		x.retry = RetrySafe
	}
	x.note(0, 0, "no close was captured in the %s that the connection was idle, and the client acknowledged none", short(f.q.idle))
	return x
}
