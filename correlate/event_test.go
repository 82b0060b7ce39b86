package correlate

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"whyreset/capture"
)

func endpoint(s string) capture.Endpoint { return capture.EndpointFrom(netip.MustParseAddrPort(s)) }

// TestEvents holds which facts tell of the same event, and what one event alone
// shows of a request.
func TestEvents(t *testing.T) {
	const at = capture.Time(1e18)
	server, client := endpoint("10.0.0.2:80"), endpoint("10.0.0.1:40000")
	get, body := []byte("GET /a HTTP/1.1\r\nHost: h\r\n\r\n"), []byte("lorem ipsum, and so on")
	fact := func(after time.Duration, kind capture.FactKind, f capture.SocketFact) capture.SocketFact {
		f.Time, f.Kind, f.Local, f.Remote = at.Add(after), kind, server, client
		return f
	}
	closed := func(after time.Duration, state, next string, unread uint32) capture.SocketFact {
		return fact(after, capture.Closed, capture.SocketFact{State: state, NewState: next, Unread: unread, HasUnread: true, Owner: capture.Process{PID: 7}})
	}
	abort := fact(5000, capture.ResetSent, capture.SocketFact{Reason: "TCP_ABORT_ON_CLOSE", Active: true, State: "CLOSE", Unread: 30, HasUnread: true, Head: get})
	with := func(f capture.SocketFact, change func(*capture.SocketFact)) capture.SocketFact {
		change(&f)
		return f
	}
	late := fact(5000, capture.ResetSent, capture.SocketFact{
		Reason: "TCP_ABORT_ON_DATA", State: "CLOSE", Head: get, Seq: 100, Len: len(get), HasSegment: true, HasUnread: true, RcvNxt: 100,
	})
	elsewhere := with(abort, func(f *capture.SocketFact) { f.Where = 9 })
	for name, test := range map[string]struct {
		facts []capture.SocketFact
		want  []string
	}{
		"close with a request unread": {[]capture.SocketFact{closed(0, "ESTABLISHED", "CLOSE", 30), abort}, []string{"reset-sent TCP_ABORT_ON_CLOSE ESTABLISHED 30 GET likely-safe server pid 7"}},
		"close inside a body":         {[]capture.SocketFact{with(abort, func(f *capture.SocketFact) { f.Head = body })}, []string{"reset-sent TCP_ABORT_ON_CLOSE CLOSE 30"}},
		"close with a response unread": {[]capture.SocketFact{with(abort, func(f *capture.SocketFact) { f.Head = []byte("HTTP/1.1 200 OK\r\n") })},
			[]string{"reset-sent TCP_ABORT_ON_CLOSE CLOSE 30 client"}},
		"closed and all read":   {[]capture.SocketFact{closed(0, "ESTABLISHED", "FIN_WAIT1", 0)}, nil},
		"opened":                {[]capture.SocketFact{fact(0, capture.Opened, capture.SocketFact{})}, nil},
		"shut down with unread": {[]capture.SocketFact{closed(0, "ESTABLISHED", "FIN_WAIT1", 30)}, []string{"closed ESTABLISHED 30 pid 7"}},
		"shut down, then aborted": {[]capture.SocketFact{closed(0, "ESTABLISHED", "FIN_WAIT1", 30), abort},
			[]string{"closed ESTABLISHED 30 pid 7", "reset-sent TCP_ABORT_ON_CLOSE CLOSE 30 GET likely-safe server"}},
		"another namespace": {[]capture.SocketFact{closed(0, "ESTABLISHED", "CLOSE", 30), elsewhere},
			[]string{"closed ESTABLISHED 30 pid 7", "reset-sent TCP_ABORT_ON_CLOSE CLOSE 30 GET likely-safe server"}},
		"much later": {[]capture.SocketFact{closed(-settle, "ESTABLISHED", "CLOSE", 30), abort},
			[]string{"closed ESTABLISHED 30 pid 7", "reset-sent TCP_ABORT_ON_CLOSE CLOSE 30 GET likely-safe server"}},
		// The owner of a socket that was reset reads what is there before the error.
		"reset by the other end": {[]capture.SocketFact{fact(0, capture.ResetReceived, capture.SocketFact{State: "ESTABLISHED", Head: get}), closed(3000, "ESTABLISHED", "CLOSE", 30)},
			[]string{"reset-received ESTABLISHED 30 GET server pid 7"}},
		"data after close":  {[]capture.SocketFact{fact(0, capture.ResetReceived, capture.SocketFact{State: "FIN_WAIT2"}), late}, []string{"reset-sent TCP_ABORT_ON_DATA FIN_WAIT2 0 GET likely-safe server"}},
		"reset in FIN-WAIT": {[]capture.SocketFact{fact(0, capture.ResetReceived, capture.SocketFact{State: "FIN_WAIT2"})}, []string{"reset-received FIN_WAIT2"}},
		// The server closed early on an upload, whose body begins like a request here.
		"the body of a request that was processed": {[]capture.SocketFact{with(late, func(f *capture.SocketFact) {
			f.Head = []byte("POST /inner HTTP/1.1\r\nHost: h\r\n\r\n")
			f.State = "FIN_WAIT2"
		})},
			[]string{"reset-sent TCP_ABORT_ON_DATA FIN_WAIT2 0 POST likely-safe server"}},
		"data after close, begun before it":  {[]capture.SocketFact{with(late, func(f *capture.SocketFact) { f.Seq = 90 })}, []string{"reset-sent TCP_ABORT_ON_DATA CLOSE 0 GET server"}},
		"data after close, nothing known":    {[]capture.SocketFact{with(late, func(f *capture.SocketFact) { f.HasUnread = false })}, []string{"reset-sent TCP_ABORT_ON_DATA CLOSE GET server"}},
		"a connection that is not there":     {[]capture.SocketFact{with(late, func(f *capture.SocketFact) { f.Reason, f.State, f.HasUnread = "TCP_FLAGS", "LISTEN", false })}, []string{"reset-sent TCP_FLAGS LISTEN GET server"}},
		"the listening socket was closed":    {[]capture.SocketFact{with(abort, func(f *capture.SocketFact) { f.Reason = "TCP_STATE" })}, []string{"reset-sent TCP_STATE CLOSE 30 GET likely-safe server"}},
		"linger 0 after the request is read": {[]capture.SocketFact{with(abort, func(f *capture.SocketFact) { f.Reason, f.Unread, f.Head = "TCP_STATE", 0, nil })}, []string{"reset-sent TCP_STATE CLOSE 0"}},
	} {
		var events Events
		for _, f := range slices.Backward(test.facts) { // they come in no strict order
			f.Head = append([]byte(nil), f.Head...)
			events.Add(&f)
			clear(f.Head) // it is borrowed
		}
		if early := events.Take(at.Add(-settle)); len(early) > 0 {
			t.Errorf("%s: %d came early", name, len(early))
		}
		var got []string
		for _, e := range events.Take(at.Add(time.Second)) {
			if e.Retry == RetrySafe {
				t.Errorf("%s: safe, though facts alone do not show where a request begins", name)
			}
			got = append(got, describe(e))
		}
		if fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", name, got, test.want)
		}
		if again := events.Take(at.Add(time.Hour)); len(again) > 0 {
			t.Errorf("%s: %d came twice", name, len(again))
		}
	}
}

func describe(e *Event) string {
	s := e.Kind.String()
	if e.Reason != "" {
		s += " " + e.Reason
	}
	if e.State != "" {
		s += " " + e.State
	}
	if e.HasUnread {
		s += fmt.Sprint(" ", e.Unread)
	}
	if e.Method != "" {
		s += " " + e.Method
	}
	if r := e.Retry.String(); r != "" {
		s += " " + r
	}
	switch {
	case e.Server:
		s += " server"
	case e.Client:
		s += " client"
	}
	if e.Owner.PID != 0 {
		s += fmt.Sprint(" pid ", e.Owner.PID)
	}
	return s
}

// TestTally is bounded, and its rows come in an order.
func TestTally(t *testing.T) {
	var tally Tally
	for i := range maxTally + 10 {
		for range 1 + i%2 {
			tally.Add(&Event{SocketFact: capture.SocketFact{Time: capture.Time(100 - i), Kind: capture.Closed, Owner: capture.Process{Command: fmt.Sprint(i), PID: i}, Unread: 2}})
		}
	}
	counts := tally.Counts()
	last := counts[len(counts)-1]
	if len(counts) != maxTally+1 || last.Kind != 0 || last.Events != 15 || last.Unread != 30 || counts[0].Events != 2 || counts[0].Owner.PID != 0 || tally.Last != 100 || tally.First != 100-maxTally-9 {
		t.Errorf("%d rows, %+v ... %+v, %+v", len(counts), counts[0], last, tally.First)
	}
}
