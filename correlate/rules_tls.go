package correlate

// Rules for what TLS leaves to be seen, and gatherTLS, which gives the other rules
// the close_notify alerts in place of the FINs that follow them.

// gatherTLS completes f with what the records of c show. A close_notify says that
// its sender is done as a FIN does (RFC 8446, section 6.1), and it comes before:
// clients act on it, and their FIN is often the first.
func (t *Tracker) gatherTLS(c *conn, f *facts) {
	f.tls = c.tls
	server := 1 - f.client
	if k := c.closeNotify(server); k.seen() {
		f.K, f.serverEnd = k, min(f.serverEnd, k.off)
		f.server.notifies = true
	}
	if k := c.closeNotify(1 - server); k.seen() {
		f.Kc = k
	}
	f.first = whoFirst(&f.K, &f.Kc)
	x := c.tls
	f.conn.TLS = &TLS{Version: versionName(x.choice.version), ServerName: x.hello.serverName, ALPN: x.choice.protocol}
	if x.http2 {
		f.conn.TLS.ALPN = "h2"
	}
}

// hiddenEnd gives up where the capture does not tell whether the last response
// under TLS came to its end, or began at all: a server that is killed may end
// between two records, and a session ticket looks like a short response.
func hiddenEnd(f *facts) *ruling {
	if !f.hidesEnd() {
		return nil
	}
	r := &f.q.resp
	k := f.closeOf(f.first)
	x := &ruling{verdict: Ambiguous, by: f.first, close: k, why: "TLS hides whether the response was complete"}
	switch {
	case f.leftUnread():
		x = &ruling{verdict: ClientAbortMidResponse, confidence: Strong, by: Client, close: k, lost: true, retry: RetryUnsafe}
		x.note(k.frame, k.file, "the client closed the connection (frame %d) and left more of the response unread than comes behind the end of one", k.frame)
		return x
	case f.gaveUpUnseen() && !f.rstC.seen():
		x.candidates = []Verdict{ClientAbortMidResponse, CleanClose}
	case f.gaveUpUnseen():
		x.candidates = []Verdict{ClientAbortMidResponse, ResetAfterComplete}
	case f.first == Client:
		x.candidates = []Verdict{CleanClose}
	case f.K.notify:
		x.candidates = []Verdict{CleanClose}
	case f.K.kind == FINClose:
		x.candidates = []Verdict{TruncatedResponse, CleanClose}
	default:
		x.candidates = []Verdict{AbortMidResponse, ResetAfterComplete}
	}
	if f.ticketOnly() {
		x.why = "a short response looks like a session ticket"
		x.note(r.frame, r.file, "all that the server sent (frame %d) after the handshake may be a response, or a session ticket", r.frame)
		switch {
		case f.first == Client:
			x.candidates = append(x.candidates, ClientAbortBeforeResponse)
		case f.K.kind == FINClose:
			x.candidates = append(x.candidates, CloseBeforeResponse)
		default:
			x.candidates = append(x.candidates, AbortBeforeResponse)
		}
	}
	if f.first != Client && !f.K.notify {
		x.note(k.frame, k.file, "the server's %s (frame %d) came %s after its last record, without the close_notify that ends a stream under TLS; whether the response was complete is encrypted",
			k.name(), k.frame, short(k.time.Sub(r.lastTime)))
	} else {
		x.note(k.frame, k.file, "then came %s %s (frame %d)", f.first.possessive(), k.name(), k.frame)
	}
	return x
}

// ticketOnly reports whether the server may have sent nothing but a session ticket
// since the handshake.
func (f *facts) ticketOnly() bool {
	x := f.tls
	// Clients that are done close at once, and those that have nothing yet wait.
	waited := f.first != Client || !x.choice.resumed && f.Kc.time.Sub(f.q.resp.lastTime) >= minTimer
	return f.q.number == 1 && (x.maybeTicket || x.perhapsTicket && waited) || f.q.number == 2 && x.twins && x.replies == 2
}

// hidesEnd reports whether the connection was ended right behind bytes of the
// response in a way that leaves open whether they were all.
func (f *facts) hidesEnd() bool {
	if f.tls == nil || !f.hasRequest || !f.q.resp.complete || f.closeOf(f.first) == nil {
		return false
	}
	if f.ticketOnly() || f.gaveUpUnseen() || f.leftUnread() {
		return true
	}
	if f.K.notify || f.first == Client || f.K.time.Sub(f.q.resp.lastTime) >= minTimer {
		return false
	}
	return f.K.kind != FINClose || f.server.notifies || f.rstS.seen() || f.tls.half[1-f.client].blind
}

// gaveUpUnseen reports whether the client closed the connection behind bytes of the
// response of which it is not known whether they were the last: one that is done does
// not reset it, unless it leaves something unread, and few responses end with a record
// that is full.
func (f *facts) gaveUpUnseen() bool {
	r := &f.q.resp
	if f.first != Client || f.Kc.ack < r.end {
		return false
	}
	soon, reset := f.Kc.time.Sub(r.lastTime) < minTimer, f.Kc.kind == ActiveReset
	if f.tls.half[1-f.client].blind {
		return reset || f.rstC.seen() && soon
	}
	// A record may end just where the client stopped.
	return soon && (reset && !f.K.seen() && r.end-r.start > maxRecord || f.tls.full)
}

// leftUnread reports whether the client's kernel says that its owner closed it with
// more of the response unread than session tickets and a close_notify make.
func (f *facts) leftUnread() bool {
	k := f.kernelOf(Client)
	if k == nil || f.first != Client {
		return false
	}
	e := k.aborted()
	return e != nil && e.hasUnread && e.final() && f.q.resp.end-max(e.read, f.q.resp.start) > 2*maxTicket
}

// hide lowers the confidence of what rests on the framing of messages to what
// records support. What rests on acknowledgements stands.
func (f *facts) hide(x *ruling) {
	if f.tls == nil || x.verdict == StillOpen {
		return
	}
	f.hideTicket(x)
	f.hideNotify(x)
	switch x.verdict {
	case CloseBeforeResponse, AbortBeforeResponse, ClientAbortBeforeResponse, ClientAbortMidResponse, RequestTimeout, ServerNeverAnswered:
		x.confidence = min(x.confidence, Strong)
		if !f.q.resp.began {
			x.note(0, 0, "under TLS a run of the client's records counts as a request, and whether it was complete is encrypted")
		}
	}
	if x.verdict.Family() != "clean" {
		return
	}
	x.confidence = min(x.confidence, Strong)
	if !f.tls.whole && f.requests <= 1 {
		x.confidence = Weak
		x.note(0, 0, "the beginning of the connection was not captured: what looks like an answered request may be something else")
	}
	if f.K.seen() && f.first == Server && f.respTime != 0 && f.K.time.Sub(f.respTime) < minTimer {
		x.confidence = Weak
		x.note(0, 0, "right behind the last response; whether that was complete is encrypted")
	}
}

// hideTicket leaves open what would be otherwise if a short response were a session
// ticket.
func (f *facts) hideTicket(x *ruling) {
	const why = "a short response looks like a session ticket"
	q := &f.q
	if x.verdict == ClientAbortMidResponse && (q.number == 1 && f.tls.doubtful || q.number == 2 && f.tls.twins) && f.Kc.ack <= q.resp.start+int64(recordHeader+f.tls.firstLen) {
		x.retry = RetryAmbiguous
		x.leaveOpen(why, ClientAbortBeforeResponse, ClientAbortMidResponse)
		x.note(q.resp.frame, q.resp.file, "all that the server sent (frame %d) after the handshake may be a session ticket", q.resp.frame)
	}
	if f.tls.merged && q.number == 1 && x.lost && x.confidence != NoConfidence {
		x.retry, x.lost = NothingToRetry, false
		x.leaveOpen(why, x.verdict, CleanClose)
		x.note(q.frame, q.file, "what the server sent inside the request (frame %d) may be a session ticket, or the response to the first part, which would be a request of its own", q.frame)
	}
}

// hideNotify leaves open what would be otherwise if the server's last record were a
// close_notify: it may announce its close and leave its socket open.
func (f *facts) hideNotify(x *ruling) {
	k := &f.tls.half[1-f.client].notify
	if !k.seen() || f.K.notify || f.q.resp.began || !x.lost || x.confidence == NoConfidence || f.Kc.seen() && k.hasAck && k.ack > f.Kc.off {
		return // it comes in answer to the client's close, in the last case
	}
	switch x.verdict {
	case CloseBeforeResponse, AbortBeforeResponse, ClientAbortBeforeResponse, RequestTimeout, ServerNeverAnswered:
		closed := IdleRace
		if f.q.ack > k.off {
			closed = LateReuse
		}
		x.retry = RetryAmbiguous
		x.leaveOpen("the server's last record may be a close_notify", x.verdict, closed)
		x.note(k.frame, k.file, "the last that the server had sent (frame %d) is as long as a close_notify: it may have been that, or two bytes of a response", k.frame)
	}
}

// handshakeFailed: the connection ended before TLS was established, or with the
// alert by which a server turns down the client's certificate, which under TLS 1.3
// comes after the client is done (RFC 8446, section 4.4.2.4).
func handshakeFailed(f *facts) *ruling {
	x := f.tls
	if x == nil || !x.whole {
		return nil
	}
	if x.established {
		return nil
	}
	r := &ruling{verdict: TLSHandshakeFailed, confidence: Proven, by: x.by, close: f.closeOf(f.first)}
	switch k := &x.refused; {
	case k.seen() && x.refusal != 0:
		r.note(k.frame, k.file, "the %s ended the handshake with the alert %s (frame %d)", x.by, alertName(x.refusal), k.frame)
		if f.missing&missingBytes != 0 {
			r.confidence = Strong
		}
		if r.close == nil {
			r.close = k
		}
		return r
	case k.seen():
		r.confidence = Strong
		r.note(k.frame, k.file, "the %s sent an alert (frame %d) in place of the rest of its handshake; under TLS 1.3 its name is encrypted", x.by, k.frame)
		if r.close == nil {
			r.close = k
		}
		return r
	}
	if f.first == NoParty && !f.serverReset() && len(f.refusals) == 0 {
		return nil // still open
	}
	if f.missing&(missingBytes|missingHead|missingSync) != 0 || f.clientUnseen() || f.clientAck > f.serverSent || f.serverTop() > f.serverEnd {
		return incomplete(f, "how far the TLS handshake came is not known")
	}
	r.by, r.confidence = f.first, Strong
	k := f.closeOf(f.first)
	if k == nil {
		k = f.serverClose()
		if k == nil {
			q := f.refusals[0]
			k = &closing{kind: ReplyReset, off: q.off, time: q.time, frame: q.frame, file: q.file}
			r.by = Client
		} else {
			r.by = Server
		}
		r.close = k
	}
	switch {
	case f.clientEnd <= 1:
		return nil
	case f.serverEnd <= 1 && r.by != Client && f.server.speaks&speaksTLS == 0:
		r.leaveOpen("closed at the ClientHello", ProtocolMismatch, TLSHandshakeFailed)
		r.note(k.frame, k.file, "the server's %s (frame %d) was all that answered the ClientHello: it may not speak TLS on this port, or it turned this client down", k.name(), k.frame)
	case f.serverEnd <= 1 && r.by == Client:
		r.note(k.frame, k.file, "the client's %s (frame %d) came %s after the handshake of TCP, and the server had not answered its ClientHello", k.name(), k.frame, short(k.time.Sub(max(f.openTime, f.conn.Start))))
	default:
		r.note(k.frame, k.file, "the %s's %s (frame %d) came before the handshake of TLS was finished, without an alert", r.by, k.name(), k.frame)
	}
	return r
}

// certificateRefused: under TLS 1.3 a server looks at the client's certificate
// when the client is done and may have sent a request.
func certificateRefused(f *facts) *ruling {
	x := f.tls
	if x == nil || !x.whole || !x.certificate || x.choice.version != version13 || !f.K.notify || f.first == Client ||
		f.requests > 1 || f.responses > 0 || x.half[1-f.client].records > 0 {
		return nil
	}
	r := &ruling{verdict: TLSHandshakeFailed, confidence: Strong, by: Server, close: &f.K, lost: f.hasRequest && f.requests > 0, retry: NothingToRetry}
	r.note(f.K.frame, f.K.file, "the first that the server sent after the client's certificate is an alert (frame %d), as when it turns the certificate down; its name is encrypted", f.K.frame)
	return r
}

// restOfUpload gives up where what looks like a request may be the rest of one that
// was answered early: HTTP/1 clients send on at once behind a response with their
// next request if they are in a hurry, and with the rest of an upload if they have
// not read the answer yet; a client that is slow goes on later, in records as long
// as before. A server that closed right behind its response may have announced that.
func restOfUpload(f *facts) *ruling {
	q := &f.q
	switch {
	case f.tls == nil || q.resp.began || !f.K.seen() && !f.serverReset() && !f.Kc.seen() && len(f.refusals) == 0:
		return nil
	case f.tls.broken == q.number, !q.hasIdle && f.missing&missingBytes != 0:
		return incomplete(f, "where the request begins is not known")
	case !f.hasPrev:
		return nil
	}
	idle := q.idle
	if f.hasRTT {
		idle -= f.conn.HandshakeRTT - f.serverRTT // what lies between here and the client
	}
	const large = 4096
	atOnce := q.hasIdle && (idle <= moment && f.tls.hurried < 2 || idle <= uploadPause && max(f.prevBytes, q.end-q.start) > large)
	behind := moment
	if f.missing&missingBytes != 0 {
		behind = minTimer // no idle timer is that short, and what would tell more may be missing
	}
	closed := f.first != Client && f.K.seen() && f.respTime != 0 && f.K.time.Sub(f.respTime) < behind && f.K.off == f.respEnd
	goesOn := f.tls.likeRest == q.number
	if !atOnce && !goesOn && !closed {
		return nil
	}
	x := &ruling{verdict: Ambiguous, by: f.first, close: f.closeOf(f.first), why: "TLS hides whether it is the rest of an upload",
		candidates: []Verdict{EarlyResponseReset, RequestTimeout, AbortBeforeResponse}}
	switch {
	case f.first == Client:
		x.candidates = []Verdict{EarlyResponseReset, ClientAbortBeforeResponse}
	case f.K.kind == FINClose && q.ack > f.K.off:
		x.candidates = []Verdict{LateReuse, EarlyResponseReset, RequestTimeout}
	case f.hadNothing():
		x.candidates = []Verdict{KeepaliveLimitRace, EarlyResponseReset, RequestTimeout}
	case f.K.kind == FINClose && !f.rstS.seen():
		x.candidates = []Verdict{EarlyResponseReset, RequestTimeout, CloseBeforeResponse}
	}
	switch {
	case atOnce:
		x.note(q.frame, q.file, "the client sent on (frame %d) as soon as it had the response: the next request, or the rest of one that was answered early, which TLS hides", q.frame)
	case goesOn:
		x.note(q.frame, q.file, "the client sent on (frame %d) in a record as long, for all that is known, as the last of the request before: the next request, or the rest of one that was answered early, which TLS hides", q.frame)
	default:
		x.note(f.K.frame, f.K.file, "the server's %s (frame %d) came right behind its response; what the client sent then (frame %d) may be the rest of the same request, or sent in spite of an announced close, which TLS hides", f.K.name(), f.K.frame, q.frame)
	}
	return x
}

// readable reports whether requests and responses of HTTP/1 can be told apart on
// the connection, even if their content cannot be read.
func (f *facts) readable() bool {
	if x := f.tls; x != nil {
		// Bytes that are missing may be what tells HTTP/2.
		either := x.hello.offers2 && x.choice.version == version13 && f.missing != 0
		return f.mismatch == nil && x.alternates() && !either && (x.whole || f.responses > 0)
	}
	return f.protocol == http1
}

// noteOpaqueTLS says why nothing is said of the messages.
func (f *facts) noteOpaqueTLS(x *ruling) {
	switch k := f.closeOf(f.first); {
	case f.tls.http2:
		x.why = "HTTP/2 under TLS"
		x.note(0, 0, "the connection carries HTTP/2 under TLS, whose streams cannot be told apart without the keys")
		fallthrough
	default:
		if !f.tls.http2 {
			x.why = "TLS, not in the manner of HTTP/1"
			x.note(0, 0, "what the connection carries under TLS does not alternate as requests and responses of HTTP/1 do")
		}
		if k != nil {
			x.note(k.frame, k.file, "%s %s (frame %d) was the first close", f.first.possessive(), k.name(), k.frame)
		}
	}
}
