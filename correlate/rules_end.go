package correlate

// Rules for connections on which no request was lost.

// notHTTP1 says what the connection carried, and accuses nobody.
func notHTTP1(f *facts) *ruling {
	if f.conn.Protocol == "" || f.readable() || f.first == NoParty && !f.serverReset() && len(f.refusals) == 0 {
		return nil
	}
	x := &ruling{verdict: Unknown, by: f.first, close: f.closeOf(f.first), why: "not HTTP/1"}
	if f.tls != nil {
		f.noteOpaqueTLS(x)
		return x
	}
	x.note(0, 0, "the connection does not carry HTTP/1 that can be read (%s)", f.conn.Protocol)
	return x
}

func stillOpen(f *facts) *ruling {
	if f.K.seen() || f.Kc.seen() || f.serverReset() || len(f.refusals) > 0 {
		return nil
	}
	return &ruling{verdict: StillOpen}
}

// nothingFramed is for data that was never recognised as messages.
func nothingFramed(f *facts) *ruling {
	if f.requests > 0 || f.responses > 0 || f.clientEnd <= 1 && f.serverEnd <= 1 {
		return nil
	}
	if f.unasked.began && f.clientEnd <= 1 {
		return nil
	}
	return incomplete(f, "no message could be read")
}

func unusedConnection(f *facts) *ruling {
	if f.requests > 0 || f.responses > 0 {
		return nil
	}
	if !f.conn.StartSeen {
		return nil
	}
	x := f.ended(UnusedConnection)
	if f.unasked.began {
		x.modifiers = append(x.modifiers, "unasked-response")
		x.note(f.unasked.frame, f.unasked.file, "the server sent response %d (frame %d) although no request had been sent", f.unasked.status, f.unasked.frame)
	}
	return x
}

func resetAfterComplete(f *facts) *ruling {
	fins := f.K.kind == FINClose || f.Kc.kind == FINClose
	switch {
	case f.rstS.seen() || f.rstC.seen():
	case len(f.replies)+len(f.refusals) == 0:
		return nil
	case fins:
		return f.ended(CloseNoise)
	}
	x := f.ended(ResetAfterComplete)
	if f.rstS.seen() && f.respEnd > 0 && f.clientAck < f.respEnd {
		x.modifiers = append(x.modifiers, "response-unacknowledged")
		x.note(f.rstS.frame, f.rstS.file, "server's reset (frame %d) was sent when the client had acknowledged %d of the last response, which reaches to %d: its end may be lost", f.rstS.frame, f.clientAck, f.respEnd)
	}
	return x
}

func simultaneousClose(f *facts) *ruling {
	if f.first != BothParties {
		return nil
	}
	return f.ended(SimultaneousClose)
}

func cleanClose(f *facts) *ruling {
	if f.first == NoParty {
		return nil
	}
	return f.ended(CleanClose)
}

// ended rules that the connection ended with nothing lost, and says how.
func (f *facts) ended(v Verdict) *ruling {
	by := f.first
	k := f.closeOf(by)
	if k == nil {
		switch {
		case len(f.replies) > 0:
			r := f.replies[0]
			by, k = Server, &closing{kind: ReplyReset, off: r.off, time: r.time, frame: r.frame, file: r.file}
		case len(f.refusals) > 0:
			r := f.refusals[0]
			by, k = Client, &closing{kind: ReplyReset, off: r.off, time: r.time, frame: r.frame, file: r.file}
		}
	}
	sure := Proven
	unknown := !f.conn.StartSeen && f.conn.Requests == 0
	if f.missing&(missingBytes|missingSync|missingHead) != 0 || f.untracked || unknown {
		sure = Weak
	}
	if f.brief {
		// Only the verdict will be counted, and there are many of these.
		*f.counted = ruling{verdict: v, confidence: sure, brief: true}
		return f.counted
	}
	x := &ruling{verdict: v, confidence: sure, by: by, close: k}
	if k == nil {
		return x
	}
	if unknown {
		x.note(k.frame, k.file, "%s %s (frame %d); no request came since the capture began, and whether one was outstanding then is not known", by.possessive(), k.name(), k.frame)
	} else {
		x.note(k.frame, k.file, "%s %s (frame %d), with no request outstanding", by.possessive(), k.name(), k.frame)
	}
	switch idle, ok := f.idleBefore(k); {
	case v != CleanClose && v != SimultaneousClose:
	case by == Server && x.limited(f):
	case f.announced:
		x.modifiers = append(x.modifiers, "announced")
	case ok && idle >= minTimer && by == Server:
		x.modifiers = append(x.modifiers, "server-idle")
	case ok && idle >= minTimer && by == Client:
		x.modifiers = append(x.modifiers, "client-idle")
	}
	return x
}

func (f *facts) closeOf(p Party) *closing {
	switch {
	case p == Client && f.Kc.seen():
		return &f.Kc
	case (p == Server || p == BothParties) && f.K.seen():
		return &f.K
	}
	return nil
}

// serverClose returns how the server closed: K, or its first RST that answers.
func (f *facts) serverClose() *closing {
	if f.K.seen() {
		return &f.K
	}
	if len(f.replies) > 0 {
		r := f.replies[0]
		return &closing{kind: ReplyReset, off: r.off, time: r.time, frame: r.frame, file: r.file}
	}
	return nil
}
