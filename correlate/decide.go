package correlate

// A ruling is what a rule says of a request, or of a connection.
type ruling struct {
	verdict    Verdict
	confidence Confidence
	retry      Retry
	lost       bool
	by         Party
	close      *closing
	modifiers  []string
	evidence   []Evidence
	candidates []Verdict
	timer      bool   // the server's idle timer, once learned, may decide this
	unopened   bool   // the connection failed before there was a request to be lost
	brief      bool   // take no notes: nobody will read them
	refused    bool   // the server's answer says that it did not act on it, though it read it
	why        string // of CaptureIncomplete and Ambiguous: in a few words, for the summary
}

// leaveOpen takes back what x says: each of the candidates fits. why says in a few
// words what is not known.
func (x *ruling) leaveOpen(why string, candidates ...Verdict) {
	x.verdict, x.confidence, x.why, x.candidates = Ambiguous, NoConfidence, why, candidates
}

// A rule looks at the facts and rules, or returns nil because it does not apply.
type rule struct {
	name  string
	apply func(*facts) *ruling
}

// requestRules decide what became of a request that was outstanding when its
// connection was judged. The first that applies rules.
//
// The order is the argument: first what is no loss at all, then what
// acknowledgement numbers prove whatever else is missing, then who closed first,
// and only then what was not seen.
var requestRules = []rule{
	{"no server in the capture", oneSided},
	{"another protocol than the server's", wrongProtocol},
	{"client's certificate turned down", certificateRefused},
	{"an end that TLS hides", hiddenEnd},
	{"an upload that TLS hides", restOfUpload},
	{"408 for a request that stalled", timedOutWithAnswer},
	{"answered early, then reset", earlyResponseReset},
	{"answered", answeredRequest},
	{"a reset that its end's kernel did not send", notSent},
	{"reset by somebody else", injectedReset},
	{"read, and its end not captured, says the kernel", endUnseen},
	{"its handshake was never taken", ackDroppedOverflow},
	{"reset for its handshake", resetAfterAccept},
	{"refused by something on the way", firewallReject},
	{"keep-alive probes unanswered, says the kernel", probesUnanswered},
	{"sent although the close had arrived", lateReuse},
	{"crossed an unasked response", idle408Race},
	{"pipelined behind the last answer", pipelinedLost},
	{"closed before anything arrived", closedOnAccept},
	{"did not reach the server before it closed", lostOnTheWay},
	{"crossed the server's FIN", idleRace},
	{"crossed the server's abort", idleRaceRST},
	{"never acknowledged", neverAcknowledged},
	{"one end fell silent", peerDead},
	{"refused, and the kernel says why", refusedByKernel},
	{"refused without a close", staleConnection},
	{"more was sent than was captured", moreThanCaptured},
	{"client closed first", clientAbort},
	{"both closed with a request between them", bothClosed},
	{"never accepted, says the kernel", backlogDroppedUnread},
	{"reset unread, says the kernel", unreadRequest},
	{"request cut short by the server", requestTimeout},
	{"closed unread, says the kernel", lingeringUnread},
	{"read and not answered, says the kernel", readRequest},
	{"aborted from outside, says the kernel", abortedFromOutside},
	{"closed without a response", closeBeforeResponse},
	{"reset as the listener closed", backlogDropped},
	{"reset without a response", abortBeforeResponse},
	{"response cut short", cutResponse},
	{"nobody closed", unanswered},
}

// connectionRules name the end of a connection on which no request was lost.
var connectionRules = []rule{
	{"another protocol than the server's", wrongProtocol},
	{"client's certificate turned down", certificateRefused},
	{"TLS handshake not finished", handshakeFailed},
	{"not HTTP/1", notHTTP1},
	{"left HTTP", upgradedClose},
	{"never opened", neverOpened},
	{"still open", stillOpen},
	{"refused", refusedConnection},
	{"reset for its handshake", resetAfterAccept},
	{"more was sent than was captured", moreThanCaptured},
	{"nothing framed", nothingFramed},
	{"went on after a reset", ignoredReset},
	{"no request", unusedConnection},
	{"reset", resetAfterComplete},
	{"both at once", simultaneousClose},
	{"closed", cleanClose},
}

// decide applies the rules: requestRules if q is a request that may be lost.
func (f *facts) decide() ruling { return f.firstOf(requestRules) }

// decideConnection applies the rules for a connection without a lost request.
func (f *facts) decideConnection() ruling { return f.firstOf(connectionRules) }

func (f *facts) firstOf(rules []rule) ruling {
	for i := range rules {
		if x := rules[i].apply(f); x != nil {
			f.hide(x)
			f.doubt(x)
			f.attest(x)
			f.holdBack(x)
			f.notePayload(x)
			return *x
		}
	}
	return *incomplete(f, "no close, reset or answer that would explain it was captured")
}

// oneSided gives up where the server's direction, or the client's, is not in the
// capture at all.
func oneSided(f *facts) *ruling {
	if f.serverSeen && f.clientSeen {
		return nil
	}
	return incomplete(f, "only one direction was captured")
}

// moreThanCaptured gives up where the server acknowledged something of the client's
// that was not captured: it may be a request, the rest of one, or the client's
// FIN, which would turn the blame around.
func moreThanCaptured(f *facts) *ruling {
	if !f.clientUnseen() {
		return nil
	}
	return incomplete(f, "the server acknowledged something of the client's that was not captured")
}

// incomplete says that the capture lacks what a verdict needs; Unknown, if it
// seems to lack nothing. It accuses nobody, and never returns nil.
func incomplete(f *facts, why string) *ruling {
	var what string
	v := CaptureIncomplete
	switch {
	case !f.serverSeen || !f.clientSeen:
		what = "only one direction of the connection was captured"
	case f.missing&missingBytes != 0:
		what = "bytes that their receiver acknowledged are not in the capture"
	case f.missing&missingContent != 0:
		what = "content that its receiver acknowledged is not in the capture"
	case f.missing&missingHead != 0 && f.kept:
		what = "the recorder left out what tells the messages apart"
	case f.missing&missingHead != 0:
		what = "the snap length cut off header sections"
	case f.missing&missingStart != 0:
		what = "the connection began before the capture"
	case f.serverTop() > f.serverEnd || f.serverUnseen():
		what = "the server sent bytes that are not in the capture"
	case f.clientUnseen():
		what = "the client sent something that is not in the capture"
	case f.missing&missingSync != 0:
		what, v = "the messages could not be told apart", Unknown
	default:
		what, v = "nothing seems to be missing", Unknown
	}
	r := &ruling{verdict: v, by: f.first, close: f.closeOf(f.first), why: what}
	r.note(f.q.frame, f.q.file, "%s: %s", what, why)
	return r
}

// answeredRequest lets go of a request that got its answer.
func answeredRequest(f *facts) *ruling {
	if !f.answered() {
		return nil
	}
	return &ruling{verdict: StillOpen}
}
