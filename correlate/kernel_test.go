package correlate

import (
	"testing"
	"time"

	"whyreset/capture"
)

// said makes a fact of the end d of k, now, with the numbers of its connection.
func (k *talk) said(d int, kind capture.FactKind, reason string, unread uint32) *capture.SocketFact {
	return &capture.SocketFact{
		Time: k.wire.now, Kind: kind, Local: k.ends[d], Remote: k.ends[1-d], Reason: reason, Active: kind == capture.ResetSent, State: "CLOSE",
		Unread: unread, HasUnread: true, RcvNxt: k.nxt[1-d], Owner: capture.Process{PID: 7, Command: "app"},
	}
}

// loseUnread is a connection whose second request is reset unread.
func (k *talk) loseUnread(fact func()) {
	k.handshake()
	k.exchange(get, ok)
	k.wire.now = k.wire.now.Add(5 * time.Second)
	k.send(cli, psh, post)
	fact()
	k.send(srv, rst|capture.ACK, nil)
}

func collect(t *testing.T, cfg Config) (*Tracker, *[]*Finding) {
	var all []*Finding
	return New(cfg, func(f *Finding) { all = append(all, f) }), &all
}

// Facts come before their packets or after, and are let go of with their connection.
func TestFactsJoin(t *testing.T) {
	for _, when := range []string{"before", "after", "much later"} {
		t.Run(when, func(t *testing.T) {
			tr, all := collect(t, Config{})
			k := newTalk(tr, newWire(), 1)
			var x *capture.SocketFact
			k.loseUnread(func() {
				x = k.said(srv, capture.ResetSent, "TCP_ABORT_ON_CLOSE", uint32(len(post)))
				if when == "before" {
					tr.Fact(x)
				}
			})
			switch when {
			case "after":
				tr.Tick(k.wire.now.Add(time.Second))
				tr.Fact(x)
			case "much later":
				tr.Tick(k.wire.now.Add(time.Minute))
				tr.Fact(x)
			}
			tr.Finish()
			if len(*all) != 1 {
				t.Fatalf("%d findings", len(*all))
			}
			f := (*all)[0]
			if when == "much later" {
				if f.Kernel != nil || f.Retry == RetrySafe {
					t.Errorf("a fact that came after the verdict is in it: %+v", f)
				}
				return
			}
			if f.Verdict != IdleRaceUnread || f.Confidence != Proven || f.Retry != RetrySafe || f.Server.Process.PID != 7 || f.Client.Process.Known() ||
				f.Kernel == nil || *f.Kernel != (KernelFacts{Server, "TCP_ABORT_ON_CLOSE", "CLOSE", uint32(len(post)), true}) {
				t.Errorf("got %+v, kernel %+v", f, f.Kernel)
			}
			s := tr.Summary()
			if tr.facts.held != 0 || s.Facts != 1 || s.FactsUnjoined != 0 || len(s.Owners) != 1 ||
				s.Owners[0] != (OwnerCount{Command: "app", Reason: "TCP_ABORT_ON_CLOSE", Resets: 1}) {
				t.Errorf("%d facts held; summary %+v", tr.facts.held, s)
			}
		})
	}
}

// Connections that follow each other at once on the same ports each have their own
// facts, whichever come first.
func TestFactsOfReusedPorts(t *testing.T) {
	for _, gap := range []time.Duration{0, time.Millisecond, time.Second, time.Minute} {
		for _, born := range []bool{false, true} {
			tr, all := collect(t, Config{})
			k := newTalk(tr, newWire(), 1)
			var facts []*capture.SocketFact
			for i := range 4 {
				k.nxt = [2]uint32{uint32(i) * 1e9, uint32(i)*1e9 + 5e8}
				if born {
					facts = append(facts, &capture.SocketFact{Time: k.wire.now, Kind: capture.Opened, Local: k.ends[srv], Remote: k.ends[cli]})
					tr.Fact(facts[len(facts)-1])
				}
				k.loseUnread(func() {
					unread := uint32(len(post))
					if i%2 == 1 {
						unread = 0
					}
					x := k.said(srv, capture.ResetSent, "TCP_STATE", unread)
					x.Owner.PID = 100 + i
					tr.Fact(x)
				})
				k.wire.now = k.wire.now.Add(gap)
			}
			tr.Finish()
			if len(*all) != 4 {
				t.Fatalf("%d findings", len(*all))
			}
			for i, f := range *all {
				want, retry := IdleRaceUnread, RetrySafe
				if i%2 == 1 {
					want, retry = AbortBeforeResponse, RetryAmbiguous
				}
				if f.Verdict != want || f.Retry != retry || f.Server.Process.PID != 100+i {
					t.Errorf("gap %v, births told: %v, connection %d: %v, retry %v, of process %d", gap, born, i, f.Verdict, f.Retry, f.Server.Process.PID)
				}
			}
		}
	}
}

// What is known of a connection stays as long as that is followed, and what belongs
// to none goes.
func TestFactsExpire(t *testing.T) {
	tr, all := collect(t, Config{})
	w := newWire()
	k, stranger := newTalk(tr, w, 1), newTalk(tr, w, 2)
	k.handshake()
	tr.Fact(&capture.SocketFact{Time: w.now, Kind: capture.Opened, Local: k.ends[srv], Remote: k.ends[cli], Owner: capture.Process{PID: 9}})
	tr.Fact(stranger.said(srv, capture.Closed, "", 0))
	for range 100 {
		w.now = w.now.Add(3 * time.Second)
		k.exchange(get, ok)
		tr.FactsUntil(w.now, 0)
	}
	if s := tr.Summary(); s.FactsUnjoined != 1 || tr.facts.held != 1 || len(tr.facts.pairs) != 1 {
		t.Errorf("%d held of %d pairs, %d unjoined", tr.facts.held, len(tr.facts.pairs), s.FactsUnjoined)
	}
	k.bye()
	tr.Finish()
	if len(*all) != 1 || (*all)[0].Server.Process.PID != 9 {
		t.Errorf("the owner is not known any more")
	}
	tr.facts.clock = tr.facts.clock.Add(time.Hour)
	tr.FactsUntil(w.now, 0)
	if len(tr.facts.pairs) != 0 || tr.facts.held != 0 {
		t.Errorf("%d pairs and %d facts are left", len(tr.facts.pairs), tr.facts.held)
	}
}

// However many facts come, memory is bounded, and what is given up is counted and
// makes no end guilty.
func TestFactsAreBounded(t *testing.T) {
	tr, _ := collect(t, Config{Local: func(*Silence) bool { return true }})
	w := newWire()
	k := newTalk(tr, w, 1)
	const extra = 5000
	tr.FactsUntil(w.now, 0)
	for i := range maxFacts + extra {
		k.begin(i + 2)
		tr.Fact(k.said(srv, capture.Closed, "", 0))
	}
	if s := tr.Summary(); tr.facts.held > maxFacts || s.FactsDropped != extra || len(tr.facts.pairs) > maxFacts || tr.facts.whole(w.now, w.now) {
		t.Errorf("%d held, %d dropped, %d pairs", tr.facts.held, s.FactsDropped, len(tr.facts.pairs))
	}
	for range 1000 {
		tr.Fact(k.said(srv, capture.ResetSent, "NO_SOCKET", 0))
	}
	if p := tr.facts.pairs[tr.table.longHash(&k.ends[srv], &k.ends[cli])]; len(p.facts) != maxFactsOfPair {
		t.Errorf("%d facts of one pair", len(p.facts))
	}
	var lost uint64
	for range 10 * maxHoles {
		w.now, lost = w.now.Add(10*time.Second), lost+1
		tr.FactsUntil(w.now, lost)
		w.now = w.now.Add(10 * time.Second)
		tr.FactsUntil(w.now, lost)
	}
	if len(tr.facts.holes) > maxHoles || tr.Summary().FactsLost != lost {
		t.Errorf("%d holes, %d lost", len(tr.facts.holes), tr.Summary().FactsLost)
	}
	if h := tr.facts.holes[len(tr.facts.holes)-1]; tr.facts.whole(h.from, h.from) || !tr.facts.whole(h.to.Add(time.Second), h.to.Add(9*time.Second)) {
		t.Errorf("the last hole is %v", h)
	}
}

// A steady connection allocates nothing for facts that are there.
func TestFactsCostNoPackets(t *testing.T) {
	tr := track(t, Config{})
	k := newTalk(tr, newWire(), 1)
	k.handshake()
	tr.Fact(k.said(srv, capture.Opened, "", 0))
	for range 300 {
		k.exchange(get, ok)
	}
	if n := testing.AllocsPerRun(50, func() { k.exchange(get, ok) }); n != 0 {
		t.Errorf("%v allocations per exchange", n)
	}
}

// What was joined leaves nothing behind, however many connections there are at once
// with one that lasts.
func TestJoinedFactsLeaveNothing(t *testing.T) {
	tr := New(Config{Brief: true}, func(*Finding) {})
	w := newWire()
	k := newTalk(tr, w, 1)
	k.handshake()
	tr.Fact(k.said(srv, capture.Opened, "", 0))
	for n := range 3 * maxFacts {
		k.begin(n + 2)
		k.handshake()
		k.exchange(get, ok)
		tr.Fact(k.said(srv, capture.Closed, "", 0))
		k.bye()
		w.now -= capture.Time(5 * time.Millisecond) // many in ten seconds
	}
	w.now = w.now.Add(200 * time.Millisecond)
	tr.Tick(w.now)
	if s := &tr.facts; len(s.pairs) > 1 || s.held > 1 || len(s.queue)-s.next > 2*maxFacts {
		t.Errorf("%d pairs, %d facts, %d in line", len(s.pairs), s.held, len(s.queue)-s.next)
	}
	if n := tr.Summary().FactsDropped; n != 0 {
		t.Errorf("%d were dropped", n)
	}
}

// A fresh connection that the server closed before it had any of the request, of which
// only its kernel tells, is no race with an idle timer.
func TestClosedOnAcceptUnseen(t *testing.T) {
	tr, all := collect(t, Config{})
	k := newTalk(tr, newWire(), 1)
	k.handshake()
	closed := k.said(srv, capture.Closed, "", 0)
	closed.State, closed.NewState = "ESTABLISHED", "CLOSE"
	tr.Fact(closed)
	tr.Fact(k.said(srv, capture.ResetSent, tcpState, 0))
	k.wire.now = k.wire.now.Add(time.Millisecond)
	request := &capture.SocketFact{
		Time: k.wire.now, Kind: capture.ResetSent, Local: k.ends[srv], Remote: k.ends[cli], Reason: noConnection, State: "LISTEN",
		HasSegment: true, Seq: k.nxt[cli], Ack: k.nxt[srv], Len: len(post),
	}
	k.send(cli, psh, post)
	k.send(srv, rst, nil)
	tr.Fact(request)
	tr.Finish()
	if len(*all) != 1 || (*all)[0].Verdict != ClosedOnAccept || (*all)[0].Confidence != Strong || (*all)[0].Retry != RetrySafe {
		t.Errorf("%+v", *all)
	}
}
