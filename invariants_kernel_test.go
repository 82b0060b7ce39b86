package main

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"whyreset/capture"
	"whyreset/correlate"
)

// What must hold of facts whatever the traffic is.

// closesAsFacts makes of every FIN and RST what a kernel would have said of it, with
// so many bytes unread, or all if that is negative. shift moves the numbers, so that
// they are of another connection.
func closesAsFacts(segs []capture.Segment, unread int, shift uint32) []capture.SocketFact {
	var facts []capture.SocketFact
	type end struct{ local, remote capture.Endpoint }
	told, last := map[end]bool{}, map[end]int{}
	for i := range segs {
		s := &segs[i]
		e := end{s.Src, s.Dst}
		back := end{s.Dst, s.Src}
		if s.Len > 0 {
			last[e] = s.Len
		}
		x := capture.SocketFact{Time: s.Time, Local: s.Src, Remote: s.Dst, Owner: capture.Process{PID: 1 + int(s.Src.Port)}}
		switch {
		case s.Has(capture.RST | capture.ACK):
			x.Kind, x.Active, x.Reason, x.State = capture.ResetSent, true, "TCP_STATE", "CLOSE"
			x.HasUnread, x.RcvNxt, x.Unread = true, s.Ack+shift, uint32(max(unread, 0))
			if unread < 0 {
				x.Unread = uint32(last[back])
			}
			if x.Unread > 0 {
				x.Reason = "TCP_ABORT_ON_CLOSE"
			}
		case s.Has(capture.RST):
			x.Kind, x.Reason = capture.ResetSent, "TCP_FLAGS"
			for j := i - 1; j >= 0; j-- {
				if p := &segs[j]; p.Src == s.Dst && p.Dst == s.Src && p.Ack == s.Seq {
					x.HasSegment, x.Seq, x.Ack, x.Len = true, p.Seq+shift, p.Ack+shift, p.Len
					break
				}
			}
			if !x.HasSegment {
				continue
			}
		case s.Has(capture.FIN|capture.ACK) && !told[e]:
			told[e] = true
			x.Kind, x.State, x.NewState = capture.Closed, "ESTABLISHED", "FIN_WAIT1"
			x.HasUnread, x.RcvNxt = true, s.Ack+shift
		default:
			continue
		}
		facts = append(facts, x)
	}
	return facts
}

// What a kernel says of other connections on the same ports, at the very same
// times, changes nothing: their sequence numbers are others.
func TestFactsOfOthersChangeNothing(t *testing.T) {
	each(t, func(t *testing.T, s subject, want []judgement) {
		for _, unread := range []int{0, -1} {
			same(t, fmt.Sprintf("with facts of another connection, unread %d", unread), want, judgeWith(s.segs, closesAsFacts(s.segs, unread, 1<<30)))
		}
	})
}

// Facts that agree with the packets, whatever they say of bytes unread, accuse nobody
// else: they decide what was ambiguous, tell an idle race, an abort and a listener's
// end from each other, clear who was suspected of forging, and take back no answer. They never allow a retry of
// what was read.
func TestFactsThatAgreeAccuseNobodyElse(t *testing.T) {
	each(t, func(t *testing.T, s subject, want []judgement) {
		for _, unread := range []int{0, -1} {
			got := judgeWith(s.segs, closesAsFacts(s.segs, unread, 0))
			if len(got) != len(want) {
				t.Errorf("unread %d: %d findings, %d without facts", unread, len(got), len(want))
				continue
			}
			for _, g := range got {
				if !g.accuses() {
					continue
				}
				ok := slices.ContainsFunc(want, func(w judgement) bool {
					// What a client left unread shows what it did not get.
					missed := unread < 0 && w.verdict == correlate.Ambiguous && g.verdict == correlate.ClientAbortMidResponse
					return w.client == g.client && w.target == g.target && w.number == g.number && (w.lost == g.lost || missed) &&
						(unread < 0 || w.lost == g.lost && !bolder(g.retry, w.retry) || refuses(g)) && turns(w.verdict, g.verdict)
				})
				if !ok {
					t.Errorf("unread %d: %v\n  without facts: %v", unread, g, want)
				}
			}
		}
	})
}

// refuses reports whether a verdict rests on a segment that the kernel refused, so
// that what was read of others does not matter.
func refuses(j judgement) bool {
	return slices.Contains([]string{"idle-race", "stale-reuse", "connect"}, j.verdict.Family()) && j.verdict != correlate.IdleRaceUnread
}

// turns reports whether facts may turn a verdict into another.
func turns(from, to correlate.Verdict) bool {
	decides := func(vs ...correlate.Verdict) bool { return slices.Contains(vs, to) }
	switch {
	case from == to, from == correlate.Ambiguous:
		return true
	case from.Family() == "network": // the kernel says that it was its own
		return true
	case from == correlate.IdleRaceUnread, from == correlate.AbortBeforeResponse, from == correlate.BacklogDropped:
		return decides(correlate.IdleRaceUnread, correlate.AbortBeforeResponse, correlate.BacklogDropped)
	case from == correlate.IdleRaceLingering, from == correlate.CloseBeforeResponse:
		return decides(correlate.IdleRaceLingering, correlate.CloseBeforeResponse)
	}
	return false
}

// readAsFacts says of each connection whose SYN is there that its server's kernel had
// all that its client sent, all of which the program had read, when kind happened: at
// the end of what was captured, whatever that shows.
func readAsFacts(segs []capture.Segment, kind capture.FactKind) []capture.SocketFact {
	type end struct{ local, remote capture.Endpoint }
	isn, top := map[end]uint32{}, map[end]uint32{}
	var order []end
	var last capture.Time
	for i := range segs {
		s := &segs[i]
		last = max(last, s.Time)
		e := end{s.Dst, s.Src}
		if s.Has(capture.SYN) && !s.Has(capture.ACK) {
			if _, ok := isn[e]; !ok {
				order = append(order, e)
			}
			isn[e], top[e] = s.Seq+1, s.Seq+1
		} else if _, ok := isn[e]; ok && s.Len > 0 && int32(s.Seq+uint32(s.Len)-top[e]) > 0 {
			top[e] = s.Seq + uint32(s.Len)
		}
	}
	var facts []capture.SocketFact
	for _, e := range order {
		if top[e] == isn[e] {
			continue
		}
		x := capture.SocketFact{Time: last, Kind: kind, Local: e.local, Remote: e.remote, HasUnread: true, RcvNxt: top[e], Owner: capture.Process{PID: 77}}
		switch kind {
		case capture.ResetSent:
			x.Active, x.Reason, x.State = true, "TCP_STATE", "CLOSE"
		case capture.Closed:
			x.State, x.NewState = "ESTABLISHED", "FIN_WAIT1"
		case capture.ResetReceived:
			x.State = "ESTABLISHED"
		}
		facts = append(facts, x)
	}
	return facts
}

// No rule calls it safe or likely safe to send again what the server's program had read,
// as its kernel says, unless the server itself answered that it did not act on it.
func TestNothingIsSafeThatWasRead(t *testing.T) {
	var believed, wouldBe atomic.Int64
	each(t, func(t *testing.T, s subject, want []judgement) {
		for _, w := range want {
			if w.lost && (w.retry == correlate.RetrySafe || w.retry == correlate.RetryLikelySafe) {
				wouldBe.Add(1)
			}
		}
		for _, kind := range []capture.FactKind{capture.ResetSent, capture.Closed, capture.ResetReceived} {
			tracker := correlate.New(correlate.Config{}, func(f *correlate.Finding) {
				if f.Request == nil || f.Server.Process.PID != 77 { // none was told, or it was not believed
					return
				}
				believed.Add(1)
				answered := f.Verdict == correlate.ProtocolMismatch || f.Verdict == correlate.RequestTimeout && f.Response != nil
				if (f.Retry == correlate.RetrySafe || f.Retry == correlate.RetryLikelySafe) && !answered {
					t.Errorf("%s: %s %s, retry %s, though the server's program had read it", kind, f.Verdict, f.Request.Target, f.Retry)
				}
			})
			for _, x := range readAsFacts(s.segs, kind) {
				tracker.Fact(&x)
			}
			for i := range s.segs {
				seg := s.segs[i]
				seg.Frame = uint64(i + 1)
				tracker.Add(&seg)
			}
			tracker.Finish()
		}
	})
	t.Cleanup(func() {
		if b, w := believed.Load(), wouldBe.Load(); b < 50 || w < 50 {
			t.Errorf("%d findings with facts, %d that are safe without: too few to show anything", b, w)
		}
	})
}
