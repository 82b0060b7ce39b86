package correlate

import (
	"testing"
	"time"

	"whyreset/capture"
)

// silent has a connection be reset in the server's name, and its kernel told of up to
// three seconds later, ten times a second. It returns the verdict.
func silent(t *testing.T, tell func(tr *Tracker, k *talk), later func(tr *Tracker, k *talk), local func(*Silence) bool) Verdict {
	t.Helper()
	tr, all := collect(t, Config{Local: local})
	k := newTalk(tr, newWire(), 1)
	tr.FactsUntil(k.wire.now.Add(-time.Second), 0)
	tell(tr, k)
	k.send(srv, rst|capture.ACK, nil)
	later(tr, k)
	for range 30 {
		k.wire.now = k.wire.now.Add(100 * time.Millisecond)
		tr.FactsUntil(k.wire.now.Add(-400*time.Millisecond), tr.sum.FactsLost)
		tr.Tick(k.wire.now)
	}
	tr.Finish()
	return (*all)[len(*all)-1].Verdict
}

// A reset that no kernel told of is somebody else's only where all is known that it
// takes to say so.
func TestSilence(t *testing.T) {
	none := func(*Tracker, *talk) {}
	lose := func(_ *Tracker, k *talk) { k.loseRequest() }
	yes := func(*Silence) bool { return true }
	told := func(after time.Duration) func(tr *Tracker, k *talk) {
		return func(tr *Tracker, k *talk) {
			x := k.said(srv, capture.ResetSent, "TCP_STATE", 0)
			x.Time = x.Time.Add(after)
			tr.Fact(x)
		}
	}
	for _, test := range []struct {
		name        string
		tell, later func(tr *Tracker, k *talk)
		local       func(*Silence) bool
		want        Verdict
	}{
		{"sent by nobody", lose, none, yes, InjectedReset},
		{"not this host's", lose, none, func(*Silence) bool { return false }, AbortBeforeResponse},
		{"nobody looks", lose, none, nil, AbortBeforeResponse},
		{"told of", lose, told(0), yes, AbortBeforeResponse},
		{"told of much earlier: it was in a queue", lose, told(-1500 * time.Millisecond), yes, AbortBeforeResponse},
		{"another was sent later", lose, told(time.Second), yes, Ambiguous},
		// Lost when facts are handed over late, so until a time before that.
		{"lost", lose, func(tr *Tracker, k *talk) {
			tr.FactsUntil(k.wire.now.Add(-500*time.Millisecond), 0)
			tr.FactsLost(k.wire.now, 1)
		}, yes, AbortBeforeResponse},
		{"lost seconds before", func(tr *Tracker, k *talk) {
			k.loseRequest()
			tr.FactsUntil(k.wire.now, 0)
			tr.FactsLost(k.wire.now, 1)
			k.wire.now = k.wire.now.Add(4 * time.Second)
		}, none, yes, AbortBeforeResponse},
		// The one before it on the same ports has it for itself: all is handed over
		// before the packets are.
		{"joined to another connection", func(tr *Tracker, k *talk) {
			k.handshake()
			k.exchange(get, ok)
			k.send(cli, rst|capture.ACK, nil)
			x := k.said(srv, capture.ResetSent, "TCP_STATE", 0)
			x.Time = x.Time.Add(8 * time.Millisecond)
			tr.Fact(x)
			k.nxt = [2]uint32{1 << 30, 2 << 30}
			k.handshake()
			k.send(cli, psh, post)
			k.send(srv, ack, nil)
		}, none, yes, AbortBeforeResponse},
	} {
		if got := silent(t, test.tell, test.later, test.local); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// loseRequest is a connection whose second request is acknowledged.
func (k *talk) loseRequest() {
	k.handshake()
	k.exchange(get, ok)
	k.wire.now = k.wire.now.Add(time.Second)
	k.send(cli, psh, post)
	k.send(srv, ack, nil)
	k.wire.now = k.wire.now.Add(time.Second)
}

// What is asked says what is known of the socket, and no more.
func TestSilenceAsks(t *testing.T) {
	var asked []Silence
	note := func(q *Silence) bool { asked = append(asked, *q); return false }
	for _, closed := range []bool{false, true} {
		asked = nil
		silent(t, func(tr *Tracker, k *talk) {
			k.loseRequest()
			if closed {
				x := k.said(srv, capture.Closed, "", 0)
				x.State, x.NewState = "ESTABLISHED", "FIN_WAIT1"
				tr.Fact(x)
			}
		}, func(*Tracker, *talk) {}, note)
		if len(asked) != 1 {
			t.Fatalf("asked %d times", len(asked))
		}
		if q := asked[0]; q.Socket != closed || q.Refused || q.Local != theServer || q.Remote != client(1) || q.Since >= q.Time || q.From > q.Since || q.Accepted != 0 {
			t.Errorf("closed %v: %+v", closed, q)
		}
	}
	// Another connection begins on the same ports before it is judged.
	asked = nil
	silent(t, func(tr *Tracker, k *talk) { k.loseRequest() }, func(tr *Tracker, k *talk) {
		k.wire.now = k.wire.now.Add(time.Second)
		tr.FactsUntil(k.wire.now.Add(-400*time.Millisecond), 0)
		k.nxt = [2]uint32{1 << 30, 2 << 30}
		k.handshake()
	}, note)
	if len(asked) != 0 {
		t.Errorf("asked what is on its ports now: %+v", asked)
	}
}

// Resets are remembered for long enough and not for ever.
func TestSentLog(t *testing.T) {
	var l sentLog
	for i := range 10 * maxSent {
		at := epoch.Add(time.Duration(i) * time.Millisecond)
		l.add(uint64(i), at, at)
		if first, last := l.of(uint64(i)); first != at || last != at {
			t.Fatalf("%d was forgotten at once", i)
		}
		if old := i - int(queueLife/time.Millisecond); old >= 0 {
			if _, last := l.of(uint64(old)); last == 0 {
				t.Fatalf("%d was forgotten after %v", old, queueLife)
			}
		}
		if len(l.now)+len(l.before) > 2*maxSent {
			t.Fatalf("%d are remembered", len(l.now)+len(l.before))
		}
	}
	for i := range 2 * maxSent {
		if ok := l.add(uint64(i)<<32, epoch.Add(time.Hour), epoch.Add(time.Hour)); ok != (i < maxSent) {
			t.Fatalf("%d: %v", i, ok)
		}
	}
}
