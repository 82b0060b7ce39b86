package correlate

import (
	"fmt"
	"time"
)

// Rules for resets that the end in whose name they came did not send, and for
// ends that fell silent.

// ttlJitter is by how much the TTLs of one sender differ without meaning
// anything: routes change.
const ttlJitter = 1

// ttls returns "57" or "57 to 60".
func (h *ipHeader) ttls() string {
	if h.ttlLow == h.ttlHigh {
		return fmt.Sprint(h.ttlLow)
	}
	return fmt.Sprintf("%d to %d", h.ttlLow, h.ttlHigh)
}

// foreign says why r was not sent by the end in whose name it came. Each sign can
// have an innocent cause, and no two of them the same one; all hold whatever the
// TCP of that end is. A RST's payload, flags, window and options do not: they
// differ from one kernel to another.
func (f *facts) foreign(r *resetTrace, p Party) []Evidence {
	var x ruling
	whose := p.possessive()
	if r.far() && r.before.ttlHigh-r.before.ttlLow <= 4 {
		x.note(r.frame, r.file, "its TTL is %d, that of the %s %d other segments before it %s", r.ttl, whose, r.packets, r.before.ttls())
	}
	// Soon after the last segment, so that other connections that may share the
	// counter cannot have moved it that far.
	if d := int16(r.ipid - r.before.id); r.ipid != 0 && r.before.steady >= 4 && r.quiet >= 0 && r.quiet < time.Second && (d > 4096 || d < -4096) {
		x.note(r.frame, r.file, "its IP ID is %d, where the %s own counter had come to %d", r.ipid, whose, r.before.id)
	}
	switch {
	case r.guesses > 0 && f.missing&missingBytes == 0:
		x.note(r.frame, r.file, "%s more followed with sequence numbers ahead of everything that the %s had sent: guesses", times(int(r.guesses)), p)
	case r.hasAck && r.off < r.next && r.off != r.heard && r.next-r.off < 1<<20 && f.missing&missingBytes == 0:
		x.note(r.frame, r.file, "its sequence number is %d, where the %s had come to %d", r.off, p, r.next)
	case !r.hasAck && f.hasRTT && r.unasked > 2*time.Second+2*f.conn.HandshakeRTT:
		x.note(r.frame, r.file, "it acknowledges nothing, as a reset that answers a segment, and nothing had been sent for %s that it could answer", short(r.unasked))
	}
	if r.after > 0 {
		x.note(r.afterFrame, r.file, "the %s TCP went on all the same: frame %d is its, %s later", whose, r.afterFrame, short(r.afterTime.Sub(r.time)))
	}
	if p == Server && r.hasAck && f.hasRequest && r.ack > f.q.start && f.serverAck <= f.q.start && f.q.retrans == 0 && f.nearest > 10*time.Millisecond {
		if after := r.time.Sub(f.q.time); after < f.nearest*2/5 {
			x.note(r.frame, r.file, "it acknowledges the request (frame %d) only %s after it was sent, and the server never took less than %s to acknowledge anything", f.q.frame, short(after), short(f.nearest))
		}
	}
	return x.evidence
}

// ignored reports whether the connection went on in spite of r: its sender sent
// more, and the other end took it.
func (f *facts) ignored(r *resetTrace, p Party) bool {
	acked := f.clientAck
	if p == Client {
		acked = f.serverAck
	}
	return r.challenged || r.after > 0 && acked > r.next
}

// ender returns the RST in the name of p that may have ended the connection
// before p had closed it; nil if there was none.
func (f *facts) ender(p Party) *resetTrace {
	r := f.resets[0]
	if p == Server {
		r = f.resets[1]
	}
	if r == nil || r.refusal || r.finFirst || f.ignored(r, p) {
		return nil
	}
	return r
}

// answers reports whether r has the form in which a segment of the request is
// refused for which there is no connection (RFC 9293, section 3.5.2), and the
// request did not get any further.
func (f *facts) answers(r *resetTrace) bool {
	if r.hasAck || r.guesses > 0 || f.q.resp.began || f.serverAck > f.q.start || r.time < f.q.time {
		return false
	}
	rst, ok := f.rejected()
	return ok && rst.frame == r.frame
}

func (r *resetTrace) closing() *closing {
	kind := ReplyReset
	if r.hasAck {
		kind = ActiveReset
	}
	return &closing{kind: kind, hasAck: r.hasAck, off: r.off, ack: r.ack, time: r.time, frame: r.frame, file: r.file}
}

// injectedReset: the request ended with a RST that at least two independent signs
// say was not sent by the end in whose name it came.
func injectedReset(f *facts) *ruling {
	for _, p := range []Party{Server, Client} {
		r := f.ender(p)
		if r == nil {
			continue
		}
		signs := f.foreign(r, p)
		if f.vouched(p, r) || len(signs) == 0 || len(signs) == 1 && r.after == 0 || p == Server && f.answers(r) {
			continue
		}
		x := &ruling{verdict: InjectedReset, confidence: Strong, retry: RetryAmbiguous, lost: true, by: Middlebox, close: r.closing()}
		if f.q.resp.began {
			x.retry = RetryUnsafe
		}
		x.note(r.frame, r.file, "a reset (frame %d) came in the %s name that the %s did not send", r.frame, p.possessive(), p)
		x.evidence = append(x.evidence, signs...)
		switch {
		case len(signs) > 1:
		case r.answers > 1: // an answer to each segment, as a rule that rejects gives it
			x.verdict = FirewallReject
			x.note(0, 0, "there were %d of the form that answers a segment, and nobody who forges resets waits for segments", r.answers)
		default: // certain that it was not that end's socket, and no more
			x.leaveOpen("a reset that the end in whose name it came did not send", InjectedReset, FirewallReject)
		}
		return x
	}
	return nil
}

// firewallReject: the request was refused, in the form in which a host without
// the connection refuses it, by something else than the server: it is at another
// distance, or the server's TCP goes on. What had been in use before was forgotten
// rather, which is staleConnection's, unless new connections are refused as well.
func firewallReject(f *facts) *ruling {
	r := f.ender(Server)
	if r == nil || f.vouched(Server, r) || f.K.seen() || !f.answers(r) || f.missing&(missingBytes|missingStart) != 0 {
		return nil
	}
	refused := f.server.refused != 0 && f.server.refused.Sub(r.time).Abs() < freshLimit
	if !f.q.hasIdle || f.q.idle >= 10*time.Second || !f.firstUse() && !refused {
		return nil
	}
	off := r.before.off(r.ttl)
	far := off > 0 && r.before.ttlLow == r.before.ttlHigh && (off > ttlJitter || r.packets > 1)
	if r.after == 0 && !far && (!refused || f.firstUse()) {
		return nil
	}
	x := &ruling{verdict: FirewallReject, confidence: Strong, retry: RetryLikelySafe, lost: true, by: Middlebox, close: r.closing()}
	x.note(r.frame, r.file, "reset (frame %d) with seq %d answers the request's ack %d (frame %d), and the server acknowledged none of it", r.frame, r.off, r.off, f.q.frame)
	if off > 0 {
		x.note(r.frame, r.file, "its TTL is %d and the server's segments have %s: something else on the path sent it", r.ttl, r.before.ttls())
	}
	if r.after > 0 {
		x.note(r.afterFrame, r.file, "the server's own TCP still had the connection: frame %d is its, %s later", r.afterFrame, short(r.afterTime.Sub(r.time)))
	} else if off <= ttlJitter {
		x.confidence = Weak
	}
	if refused && !f.firstUse() {
		x.note(0, 0, "SYNs were refused within a second of it, and the server had closed nothing: what rejects came in between")
	}
	return x
}

// deadAfter is how often data must have been sent again in vain, or a keep-alive
// probe, before its receiver counts as gone: more than any loss explains.
const (
	deadAfter       = 5
	deadAfterProbes = 3
)

// peerDead: one end went on sending, and nothing came back any more.
func peerDead(f *facts) *ruling {
	if f.K.seen() || f.serverReset() || len(f.refusals) > 0 || f.missing&missingBytes != 0 || !f.serverSeen ||
		f.clientAck > f.serverEnd || f.clientUnseen() {
		return nil
	}
	x := &ruling{verdict: PeerDead, confidence: Strong, retry: RetryAmbiguous, lost: true, close: f.closeOf(Client)}
	if f.q.resp.began {
		x.retry = RetryUnsafe
	}
	switch {
	case f.resends[1] >= deadAfter && f.q.resp.began && !f.Kc.seen():
		x.note(f.q.resp.frame, f.q.resp.file, "the server sent what the client had not acknowledged %d times again, and nothing came back: the client, or the path to it, was gone", f.resends[1])
	case f.resends[0] >= deadAfter && f.serverAck > f.q.start && !f.Kc.seen():
		x.note(f.q.frame, f.q.file, "the client sent what the server had not acknowledged %d times again, and nothing came back: the server, or the path to it, was gone", f.resends[0])
	case f.probes[0] >= deadAfterProbes && f.serverAck > f.q.start:
		x.note(f.q.frame, f.q.file, "the server had acknowledged the request (frame %d), and then answered none of the client's %d keep-alive probes: its host, or the path to it, was gone", f.q.frame, f.probes[0])
	default:
		return nil
	}
	if f.Kc.seen() {
		x.by = Client
		x.note(f.Kc.frame, f.Kc.file, "then the client gave up (frame %d)", f.Kc.frame)
	}
	return x
}

// ignoredReset: nothing was lost, and a RST in the name of one end had no effect:
// the other end took more of that end's data afterwards. TCP answers a RST that
// is not exactly where the next byte is due with a challenge ACK (RFC 5961,
// section 3.2), which its real sender, if there is one, answers with a better RST.
func ignoredReset(f *facts) *ruling {
	for i, p := range []Party{Client, Server} {
		r := f.resets[i]
		if r == nil || !f.ignored(r, p) {
			continue
		}
		x := &ruling{verdict: IgnoredReset, confidence: Proven, by: f.first, close: f.closeOf(f.first)}
		how := "the other end answered with an acknowledgement"
		if r.after > 0 {
			how = fmt.Sprintf("the %s TCP sent more (frame %d, %s later), and the other end took it", p.possessive(), r.afterFrame, short(r.afterTime.Sub(r.time)))
		}
		x.note(r.frame, r.file, "a reset (frame %d, seq %d) came in the %s name, and the connection went on: %s", r.frame, r.off, p.possessive(), how)
		return x
	}
	return nil
}

// doubt takes back a ruling that accuses the end in whose name a RST came, where
// one sign, too little for injectedReset, says that it was not that end's.
func (f *facts) doubt(x *ruling) {
	p := x.by
	if !x.lost || x.close == nil || x.close.kind != ActiveReset && x.close.kind != ReplyReset || p != Server && p != Client {
		return
	}
	r := f.ender(p)
	if r == nil || r.frame != x.close.frame || f.vouched(p, r) {
		return
	}
	signs := f.foreign(r, p)
	switch {
	case len(signs) > 0:
		x.evidence = append(x.evidence, signs...)
	case r.packets == 1 && r.before.off(r.ttl) > ttlJitter:
		x.note(r.frame, r.file, "its TTL is %d, that of the only other segment that was seen of the %s %s", r.ttl, p, r.before.ttls())
	default:
		return
	}
	x.note(0, 0, "that alone does not tell, but something on the path may have sent the reset")
	fits := x.candidates
	if x.verdict != Ambiguous {
		fits = []Verdict{x.verdict}
	}
	x.leaveOpen("one sign of a reset that its end did not send", append(fits, InjectedReset)...)
}
