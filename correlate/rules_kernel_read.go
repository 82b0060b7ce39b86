package correlate

// What follows from what the server's kernel says was read.

// hadRead reports whether the server's kernel says that its program had read the
// request, or part of it.
func (f *facts) hadRead() bool {
	k := f.kernelOf(Server)
	return k != nil && f.hasRequest && k.read > f.q.start
}

// holdBack holds a ruling to what the server's kernel says: what its program had read
// a byte of may have been processed, whatever rule ruled.
func (f *facts) holdBack(x *ruling) {
	if x.retry != RetrySafe && x.retry != RetryLikelySafe || x.refused || !f.hadRead() {
		return
	}
	x.retry = RetryAmbiguous
	x.note(0, 0, "the server's program had read of the request, says its kernel: it may have been processed")
}

// endUnseen: the server's program had read the request, or part of it, and then the
// connection came to an end of which no packet was captured, says its kernel. What
// the packets show is what came after: copies of the request, and the resets with
// which a listener answers those, prove nothing of the first copy.
//
// It is not proven that there was no answer: the packet that is missing may not be
// the only one. But a reset is not sent again and a response is, so that an abort
// whose reset is missing was one before the response in all likelihood. A FIN is sent
// again, and where none comes through, nor would a response.
func endUnseen(f *facts) *ruling {
	if !f.hadRead() || f.K.seen() || f.rstS.seen() || f.q.resp.began || f.missing&missingBytes != 0 || !f.silent() || f.clientUnseen() {
		return nil
	}
	k := f.kernelOf(Server)
	e := k.aborted()
	switch {
	case k.closed.seen && k.closed.newState != "CLOSE":
		e = &k.closed
	case e == nil || e.reason == keepaliveDead:
		return nil
	}
	if f.Kc.seen() && f.Kc.time.Sub(e.time) <= f.slack {
		return nil // the client may have closed first
	}
	x := &ruling{verdict: AbortBeforeResponse, confidence: Strong, retry: RetryAmbiguous, lost: true, by: Server, close: f.serverClose()}
	read, how := "the whole request", "aborted the connection, with a reset that was not captured"
	if k.read < f.q.end || !f.q.complete {
		read = "part of the request"
	}
	if e == &k.closed {
		x.leaveOpen("the server read it, and how it closed was not captured", CloseBeforeResponse, PeerDead)
		how = "closed, of which nothing was captured, as where what it sends does not come through; a response may be among that"
	}
	x.note(f.q.frame, f.q.file, "the server's program had read %s (frame %d), says its kernel, and then %s", read, f.q.frame, how)
	if rst, ok := f.rejected(); ok {
		x.note(rst.frame, rst.file, "reset (frame %d) with seq %d answers a copy of it that came after that", rst.frame, rst.off)
	}
	return x
}
