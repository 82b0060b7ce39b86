package correlate

import "fmt"

// Rules for what a kernel said of its socket, where packets leave it open. A fact is
// believed only where it fits the packets (contradicts); what it then says of bytes
// that were read, or refused, is certain.

// The kernel's names of its reasons (enum sk_rst_reason in include/net/rstreason.h)
// that decide something.
const (
	abortOnData   = "TCP_ABORT_ON_DATA"
	abortOnMemory = "TCP_ABORT_ON_MEMORY"
	timeWait      = "TCP_TIMEWAIT_SOCKET"
	noConnection  = "TCP_FLAGS" // sent by the listener
	noSocket      = "NO_SOCKET"
	tcpState      = "TCP_STATE"
	invalidSYN    = "INVALID_SYN"
	keepaliveDead = "TCP_KEEPALIVE_TIMEOUT"
)

// kernelOf returns what the kernel of p's end said; nil if it said nothing, or
// nothing that can be believed.
func (f *facts) kernelOf(p Party) *kernelEnd {
	var k *kernelEnd
	switch p {
	case Client:
		k = f.kernel[0]
	case Server:
		k = f.kernel[1]
	}
	if k == nil || k.doubt != "" {
		return nil
	}
	return k
}

// refused returns the reset with which the server's kernel turned away the first
// byte of q; nil if it did not, or may have taken another copy.
func (f *facts) refused() *kernelEvent {
	k := f.kernelOf(Server)
	if k == nil || f.serverAck > f.q.start || k.read > f.q.start {
		return nil
	}
	for i := range k.resets {
		e := &k.resets[i]
		if !e.active && e.hasSegment && e.from <= f.q.start && e.to > f.q.start {
			return e
		}
	}
	return nil
}

// vouched reports whether the kernel of p's end says that it sent r: of its own
// accord with the same acknowledgement, or in answer to a segment with the number
// that r bears (RFC 9293, section 3.5.2).
func (f *facts) vouched(p Party, r *resetTrace) bool {
	k := f.kernelOf(p)
	if k == nil || r == nil {
		return false
	}
	for i := range k.resets {
		e := &k.resets[i]
		switch {
		case e.time.Sub(r.time).Abs() > f.slack:
		case r.refusal && !e.active,
			!r.refusal && r.hasAck && e.active && (!e.hasUnread || e.had == r.ack),
			!r.hasAck && !e.active && e.hasSegment && e.ack == r.off:
			return true
		}
	}
	return false
}

// neverRead reports whether the server's kernel says that its socket was closed for
// good without a byte of q having been read.
func (f *facts) neverRead() bool {
	k := f.kernelOf(Server)
	if k == nil || !f.hasRequest || f.q.resp.began || k.read > f.q.start {
		return false
	}
	e := k.aborted()
	return e != nil && e.hasUnread && e.final()
}

// notSent: a RST ended the connection in the name of an end whose kernel tells of
// every reset that it sends, and did not tell of this one. What a packet filter
// rejects on the host itself looks like that, too (nf_send_reset does not pass
// through tcp_send_reset).
func notSent(f *facts) *ruling {
	for i, p := range []Party{Client, Server} {
		r := f.ender(p)
		if r == nil || f.unsent[i] == maybeSent {
			continue
		}
		x := &ruling{verdict: InjectedReset, confidence: Strong, retry: RetryAmbiguous, lost: true, by: Middlebox, close: r.closing()}
		if f.q.resp.began {
			x.retry = RetryUnsafe
		}
		x.note(r.frame, r.file, "the kernel of the %s end tells of every reset that its TCP sends, and sent none like this one (frame %d)", p.possessive(), r.frame)
		if p == Server && f.answers(r) {
			x.verdict, x.retry = FirewallReject, RetryLikelySafe
			x.note(r.frame, r.file, "it answers the request's ack %d (frame %d), as a rule that rejects does, on that host or before it", r.off, f.q.frame)
		}
		if f.unsent[i] == sentOthers {
			its := AbortBeforeResponse
			if p == Client {
				its = ClientAbortBeforeResponse
			}
			x.leaveOpen("a reset that the kernel of its end did not tell of", x.verdict, its)
			x.note(0, 0, "it sent others on this connection, at other times")
		}
		return x
	}
	return nil
}

// probesUnanswered: an end gave up because the other answered none of its keep-alive
// probes (tcp_keepalive_timer in net/ipv4/tcp_timer.c).
func probesUnanswered(f *facts) *ruling {
	for _, p := range []Party{Server, Client} {
		k, rst, other := f.kernelOf(p), &f.rstS, Client
		if p == Client {
			rst, other = &f.rstC, Server
		}
		if k == nil || !rst.seen() {
			continue
		}
		e := k.aborted()
		if e == nil || e.reason != keepaliveDead || f.K.seen() && f.K.kind == FINClose || f.Kc.seen() && f.Kc.kind == FINClose {
			continue
		}
		x := &ruling{verdict: PeerDead, confidence: Proven, retry: RetryAmbiguous, lost: true, by: p, close: rst}
		if f.q.resp.began {
			x.retry = RetryUnsafe
		}
		x.note(rst.frame, rst.file, "the %s reset (frame %d) says that the %s, or the path to it, was gone: it had answered none of the %s keep-alive probes", p.possessive(), rst.frame, other, p.possessive())
		return x
	}
	return nil
}

// backlogDroppedUnread: the reset came from disconnecting a socket with unread
// bytes. close() checks for those first, and gives another reason, so that this is
// how the kernel ends connections that wait to be accepted when their listener is
// closed (inet_csk_listen_stop), whose state is CLOSE by then. ss -K, which gives
// the same reason, sends while the state is still the old one (tcp_abort).
func backlogDroppedUnread(f *facts) *ruling {
	if !f.endedUnread() || !f.firstUse() {
		return nil
	}
	e := f.kernelOf(Server).aborted()
	if e.reason != tcpState || e.state != "CLOSE" || e.unread == 0 {
		return nil
	}
	x := &ruling{verdict: BacklogDropped, confidence: Proven, retry: RetrySafe, lost: true, by: Server, close: f.serverClose()}
	x.noteHad(f)
	x.note(0, 0, "its kernel ended the connection without close(), as it does to those that nobody has accepted when their listener is closed")
	return x
}

// endedUnread reports whether the server's reset acknowledges q, nothing was
// answered, and its kernel says that none of q was read, ever.
func (f *facts) endedUnread() bool {
	return (f.K.kind == ActiveReset || f.K.notify && f.rstS.seen()) && f.K.ack > f.q.start && f.silent() && f.neverRead()
}

// unreadRequest: the server's kernel had the request, and its owner closed the
// socket without having read a byte of it. So it was not processed, whatever the
// reason to close was; to its owner the connection was idle.
func unreadRequest(f *facts) *ruling {
	if !f.endedUnread() {
		return nil
	}
	e := f.kernelOf(Server).aborted()
	if e.reason == "" { // before Linux 6.12: as backlogDroppedUnread, or close()
		if x := backlogDropped(f); x != nil {
			return x
		}
	}
	x := &ruling{verdict: AbortBeforeResponse, confidence: Strong, retry: RetrySafe, lost: true, by: Server, close: f.serverClose()}
	x.noteHad(f)
	could, _ := f.couldBeIdle()
	switch at := f.atTimer(); {
	case e.reason == abortOnMemory:
	case could && at == dueNow:
		x.verdict, x.confidence = IdleRaceUnread, Proven
		x.noteTimer(f, "which fits the server's idle timer")
	case could && at == dueUnknown:
		x.verdict, x.confidence = IdleRaceUnread, Proven
		x.noteTimer(f, "and to the server's program, which had read nothing of the request, the connection was idle")
	case could:
		x.noteTimer(f, "before the server's idle timer was due: it closed for another reason")
	default:
		d, _ := f.delay()
		x.note(f.K.frame, f.K.file, "it came %s after the request, %s: not the close of an idle connection", short(d), f.unreadWhy())
	}
	return x
}

func (f *facts) unreadWhy() string {
	d, exact := f.delay()
	if exact && d > prompt && !f.pipelined() && !f.behind {
		return "which had waited to be read"
	}
	return f.notIdle()
}

// lingeringUnread: the server shut down its side with the request unread. A socket
// that is closed like that sends a reset, so the server only stopped sending
// (shutdown), as those do that linger.
func lingeringUnread(f *facts) *ruling {
	k := f.kernelOf(Server)
	if k == nil || f.K.kind != FINClose || !f.K.hasAck || f.K.ack <= f.q.start || f.q.resp.began || f.K.notify && f.rstS.seen() || !f.silent() || !f.shown() {
		return nil
	}
	if e := &k.closed; !e.seen || !e.hasUnread || e.newState == "CLOSE" || e.read > f.q.start {
		return nil
	}
	if could, _ := f.couldBeIdle(); !could || f.atTimer() == dueLater {
		return nil
	}
	x := &ruling{verdict: IdleRaceLingering, confidence: Strong, retry: RetryLikelySafe, lost: true, by: Server, close: f.serverClose()}
	x.noteHad(f)
	if k.closed.had <= f.q.start {
		x.note(0, 0, "but when the server closed, its kernel had none of it")
	} else {
		x.note(0, 0, "but when the server closed its side, its program had read none of it, and it could not answer any more")
	}
	return x
}

// readRequest: the server's program had read the request, or part of it, and the
// server ended the connection without a byte of a response.
func readRequest(f *facts) *ruling {
	k := f.kernelOf(Server)
	if k == nil || k.read <= f.q.start || !f.K.seen() || !f.K.hasAck || f.K.ack <= f.q.start || f.q.resp.began || !f.silent() || !f.shown() || f.first == Client {
		return nil
	}
	// What a program has read it need not have begun to process: those that read ahead
	// of their handlers (asyncio) drop it if the idle timer runs out just then. A FIN
	// says no less, see closeBeforeResponse.
	fin := f.K.kind == FINClose && !(f.K.notify && f.rstS.seen())
	switch could, _ := f.couldBeIdle(); {
	case could && fin && f.atTimer() != dueLater:
		return nil
	case could && f.atTimer() == dueNow:
		x := &ruling{verdict: Ambiguous, retry: RetryAmbiguous, lost: true, by: Server, close: f.serverClose(), why: "read as the idle timer ran out"}
		x.candidates = []Verdict{IdleRaceUnread, AbortBeforeResponse}
		x.noteHad(f)
		x.noteTimer(f, "which fits the server's idle timer")
		x.note(0, 0, "its program had read of the request, which it may have done without beginning to process it; its log would decide")
		return x
	}
	if x := f.undelivered(); x != nil {
		return x
	}
	x := &ruling{verdict: AbortBeforeResponse, confidence: Proven, retry: RetryAmbiguous, lost: true, by: Server, close: f.serverClose()}
	if fin {
		x.verdict = CloseBeforeResponse
	}
	x.noteHad(f)
	if k.read < f.q.end {
		x.note(0, 0, "its program had read %d of the request's %d bytes", k.read-f.q.start, f.q.end-f.q.start)
	} else {
		x.note(0, 0, "its program had read the whole request")
	}
	return x
}

// abortedFromOutside: the server's socket was aborted by somebody else than the
// program that has it, as with ss -K: tcp_abort sends the reset while the state is
// still the old one. It was no close of an idle connection; and what the socket had
// received, the program may still have read.
func abortedFromOutside(f *facts) *ruling {
	k := f.kernelOf(Server)
	if k == nil || f.K.kind != ActiveReset || f.K.ack <= f.q.start || f.q.resp.began || !f.silent() || f.first == Client {
		return nil
	}
	if e := k.aborted(); e == nil || e.reason != tcpState || e.state == "" || e.state == "CLOSE" || e.state == "FIN_WAIT2" {
		return nil
	}
	x := &ruling{verdict: AbortBeforeResponse, confidence: Strong, retry: RetryAmbiguous, lost: true, by: Server, close: f.serverClose()}
	x.noteHad(f)
	return x
}

// refusedByKernel: the request was refused, no close was captured, and the server's
// kernel says whether there had been one. See staleConnection, which has only the
// packets.
func refusedByKernel(f *facts) *ruling {
	e := f.refused()
	rst, ok := f.rejected()
	if e == nil || !ok || f.K.seen() || f.q.resp.began || f.missing&missingBytes != 0 || f.serverTop() > f.serverEnd+1 || f.clientUnseen() {
		return nil
	}
	x := &ruling{verdict: Ambiguous, retry: RetrySafe, lost: true, by: Server, close: f.serverClose()}
	if f.q.retrans > 0 {
		x.retry = RetryAmbiguous // an earlier copy may have been taken, and the answer lost
	}
	x.note(rst.frame, rst.file, "reset (frame %d) with seq %d answers the request's ack %d (frame %d): the request was refused", rst.frame, rst.off, rst.off, f.q.frame)
	k := f.kernelOf(Server)
	closed := e.reason == abortOnData || e.reason == timeWait || k.closed.seen
	switch {
	case closed && f.q.ack == f.serverEnd+1:
		x.verdict, x.confidence = LateReuse, Proven
		x.note(f.q.frame, f.q.file, "the server had closed, and the request acknowledges %d, one more than its data: the client's TCP had the FIN, which was not captured", f.q.ack)
	case closed && f.firstUse() && f.q.hasIdle && f.q.idle < freshLimit:
		x.verdict, x.confidence = ClosedOnAccept, Strong
		x.note(0, 0, "the server had closed the fresh connection without any of the request, says its kernel; no packet of that was captured")
	case closed && k.closed.seen && k.aborted() != nil:
		x.candidates, x.why = []Verdict{IdleRaceRST, StaleConnection}, "the server had reset the connection, and that was not captured"
		x.note(0, 0, "the server had reset the connection without any of the request, says its kernel; whether the client's TCP got that was not captured")
	case closed && k.closed.seen && f.q.time.Sub(k.closed.time) <= f.slack+prompt && f.serverTop() == f.serverEnd:
		x.verdict, x.confidence = IdleRace, Proven
		x.note(f.q.frame, f.q.file, "the server closed as the request was on its way, says its kernel; the request acknowledges %d, all of its data and no FIN, which was not captured", f.q.ack)
	case closed:
		x.candidates, x.why = []Verdict{IdleRace, LateReuse}, "the server had closed, and its close was not captured"
		x.note(0, 0, "the server had closed, and whether the client could know of it was not captured")
	case f.firstUse() && f.q.hasIdle && f.q.idle < freshLimit:
		x.candidates, x.why = []Verdict{ClosedOnAccept, AbortBeforeResponse}, "refused on a fresh connection, and no close was captured"
	case (e.reason == noConnection || e.reason == noSocket) && f.missing == 0 && f.q.hasIdle && !f.firstUse():
		x.verdict, x.confidence = StaleConnection, Strong
		x.note(0, 0, "no close was captured in the %s that the connection was idle, and the server's kernel knows nothing of it", short(f.q.idle))
	default:
		return nil
	}
	return x
}

// overflowSaid turns resetAfterAccept's ruling into what the server's kernel said of
// that reset. It reports false if it said nothing that decides.
func (f *facts) overflowSaid(x *ruling) bool {
	k := f.kernelOf(Server)
	if k == nil {
		return false
	}
	for i := range k.resets {
		e := &k.resets[i]
		if e.active || e.hasSegment && (e.from != 1 || e.ack != 1) || e.time.Sub(f.replies[0].time).Abs() > f.slack {
			continue
		}
		switch e.reason {
		case invalidSYN: // what it answers is no SYN: tcp_check_req, listen_overflow
			x.confidence = Proven
		case noSocket:
			x.verdict, x.confidence, x.modifiers = BacklogDropped, Proven, nil
			x.note(0, 0, "and its kernel says that nothing listened on the port any more")
		case noConnection:
			x.modifiers = nil
			x.leaveOpen("refused after the handshake", BacklogDropped, AcceptQueueOverflow)
			x.note(0, 0, "but its kernel says that a listener knew nothing of the connection: another one may have taken the place of the first")
		default:
			return false
		}
		return true
	}
	return false
}

// clientClosed returns when the client's owner closed its socket, as its kernel
// says; nil if it did not say, or if something else ended it.
func (f *facts) clientClosed() *kernelEvent {
	k := f.kernelOf(Client)
	switch {
	case k == nil:
	case k.closed.seen && (k.closed.newState == "FIN_WAIT1" || k.closed.newState == "LAST_ACK"):
		return &k.closed
	case k.aborted() != nil && k.aborted().final():
		return k.aborted()
	}
	return nil
}

// attest adds to a ruling what the kernels said, and what follows from it for
// sending the request again.
func (f *facts) attest(x *ruling) {
	if f.kernel == [2]*kernelEnd{} && f.unsent == [2]unsent{} || x.verdict == StillOpen || x.brief {
		return
	}
	for i, p := range []Party{Client, Server} {
		k := f.kernel[i]
		switch {
		case k == nil:
		case k.doubt != "":
			x.note(0, 0, "what the %s kernel said does not fit the packets, and was left aside: %s", p.possessive(), k.doubt)
		default:
			read := x.confidence != Proven || x.verdict != AbortBeforeResponse && x.verdict != CloseBeforeResponse // else readRequest has said so
			if text := f.kernelText(k, p, x.lost && x.by == p, read); text != "" {
				x.note(0, 0, "the %s kernel: %s", p.possessive(), text)
			}
		}
		if r := f.resets[i]; f.unsent[i] != maybeSent && x.by != Middlebox && x.verdict != Ambiguous {
			x.note(r.frame, r.file, "the %s kernel did not send the reset in its name (frame %d)", p.possessive(), r.frame)
		}
	}
	if x.lost && x.retry != RetrySafe && f.neverRead() {
		x.retry = RetrySafe
		x.note(0, 0, "so the request was never read: it was not processed")
	}
}

// kernelText says what k said of the end of p's socket: the reset that it sent of
// its own accord, else the first with which it answered, else its close, which is
// worth a word where bytes were left unread or where it bears on the verdict.
func (f *facts) kernelText(k *kernelEnd, p Party, closer, read bool) string {
	e := k.aborted()
	if e == nil && len(k.resets) > 0 {
		e = &k.resets[0]
		if r := f.refused(); p == Server && r != nil {
			e = r
		}
	}
	text := ""
	switch {
	case e != nil:
		text = e.reason
		if text == "" {
			text = "a reset, for a reason that it does not say"
		}
		if why := e.meaning(); why != "" {
			text += " (" + why + ")"
		}
		if !e.active {
			return text
		}
	case k.closed.seen && k.closed.hasUnread && (closer || k.closed.unread > 0):
		e = &k.closed
		text = "closed in " + e.state
		if e.state == "" {
			text = "closed"
		}
	default:
		return ""
	}
	if !e.hasUnread {
		return text
	}
	if e.unread == 0 {
		text += ", nothing unread"
	} else {
		text += fmt.Sprintf(", %d bytes unread", e.unread)
		if e.unread == 1 {
			text = text[:len(text)-len("s unread")] + " unread"
		}
	}
	if p != Server || !f.hasRequest || f.q.resp.began || e.had <= f.q.start {
		return text
	}
	switch {
	case e.read <= f.q.start && e.had >= f.q.end && f.q.complete:
		text += " (the whole request)"
	case e.read <= f.q.start:
		text += " (all that it had of the request)"
	case !read:
	case e.read < f.q.end:
		text += fmt.Sprintf(" (its program had read %d of the request's %d)", e.read-f.q.start, f.q.end-f.q.start)
	case e.unread == 0:
		text += " (its program had read the request)"
	}
	if f.q.nmethod == 0 && len(k.head) > 0 && e.read <= f.q.start {
		text += fmt.Sprintf(", beginning %.60q", k.head)
	}
	return text
}

// meaning says what the kernel does when it sends a reset for that reason
// (net/ipv4/tcp.c, tcp_input.c, tcp_timer.c, tcp_minisocks.c).
func (e *kernelEvent) meaning() string {
	switch e.reason {
	case "TCP_ABORT_ON_CLOSE":
		return "closed with bytes unread"
	case tcpState:
		switch {
		case !e.active:
			return ""
		case e.state == "" || e.state == "FIN_WAIT2":
			return "aborted"
		case e.state != "CLOSE":
			return "aborted from outside its program, as ss -K does"
		case e.unread > 0:
			return "disconnected, as its listener was closed"
		}
		return "closed with SO_LINGER 0, or as its listener was closed"
	case abortOnData:
		return "data for a socket that had been closed"
	case timeWait:
		return "data for a socket that had been closed and whose FIN had been acknowledged"
	case noConnection:
		return "a segment of a connection that it did not have, to a port that listens"
	case noSocket:
		return "nothing had that connection, nor listened on the port"
	case abortOnMemory:
		return "out of memory for TCP, or too many orphaned sockets: tcp_mem, tcp_max_orphans"
	case keepaliveDead:
		return "keep-alive probes were not answered"
	case invalidSYN:
		return "the handshake's end, refused: tcp_abort_on_overflow with a full accept queue"
	case "TCP_ABORT_ON_LINGER":
		return "TCP_LINGER2 ran out"
	case "TCP_DISCONNECT_WITH_DATA":
		return "disconnected with data unsent"
	}
	return ""
}

// tellKernel adds to a finding whose sockets its ends were, and what the kernel said
// of the one that ended the connection.
func (f *facts) tellKernel(x *Finding) {
	ends := [2]*kernelEnd{f.kernelOf(Client), f.kernelOf(Server)}
	for i, e := range []*End{&x.Client, &x.Server} {
		if ends[i] != nil {
			e.Process = ends[i].owner
		}
	}
	order := []Party{Server, Client}
	if x.ClosedBy == Client {
		order = []Party{Client, Server}
	}
	for _, p := range order {
		k := f.kernelOf(p)
		if k == nil {
			continue
		}
		e := k.aborted()
		switch {
		case e != nil:
		case len(k.resets) > 0:
			e = &k.resets[0]
		case k.closed.seen:
			e = &k.closed
		default:
			continue
		}
		x.Kernel = &KernelFacts{End: p, ResetReason: e.reason, State: e.state, UnreadBytes: e.unread, HasUnread: e.hasUnread}
		return
	}
}
