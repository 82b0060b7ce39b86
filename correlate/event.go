package correlate

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"whyreset/capture"
)

// An Event is one reset, or one end of a socket with data unread, as the kernel's
// facts alone tell of it: no packet was seen.
type Event struct {
	capture.SocketFact // of the reset where there was one, completed from what belongs to it

	// Server and Client say which end of HTTP the local one is, where what it had
	// been sent shows that: a request, or a response.
	Server, Client bool
	// Method and Target are of the request line with which begins what the socket had
	// been sent and its owner had not read, or what a reset refused; "" if none does.
	// A body may begin so as well: where messages begin, facts alone do not show.
	Method, Target string
	// Retry says whether that request may be sent again: RetryLikelySafe where not a
	// byte of it was read, if that is where a request begins; else NothingToRetry.
	Retry Retry
}

// Events make events of the facts of all sockets. The kernel tells of one reset in
// up to three facts: that the socket was closed, that a reset was sent, and, where
// it ended the socket itself, that one was received.
type Events struct {
	facts []*Event // one for each fact, in the order in which they came
}

// settle is how far apart the facts of one event may be. The kernel does all of it
// in one call; what comes between is an interrupt at most.
const settle = 50 * time.Millisecond

// Add takes a fact in, which may come in any order. It keeps no reference to f.
func (e *Events) Add(f *capture.SocketFact) {
	switch f.Kind {
	case capture.ResetSent, capture.ResetReceived:
	case capture.Closed:
		if !f.HasUnread || f.Unread == 0 {
			return
		}
	default:
		return
	}
	e.facts = append(e.facts, newEvent(f))
}

// A socketKey tells sockets apart, as far as facts do.
type socketKey struct {
	local, remote capture.Endpoint
	where         uint64
}

// Take returns the events from before until, in the order of their times, each
// once. All facts from before must have been added.
func (e *Events) Take(until capture.Time) []*Event {
	slices.SortStableFunc(e.facts, func(a, b *Event) int { return cmp.Compare(a.Time, b.Time) })
	var ready []*Event
	rest := e.facts[:0]
	last := map[socketKey]*Event{}
	for _, f := range e.facts {
		key := socketKey{f.Local, f.Remote, f.Where}
		was := last[key]
		switch {
		case was != nil && f.Time.Sub(was.Time) < settle && was.join(&f.SocketFact):
		case f.Time < until:
			last[key] = f
			ready = append(ready, f)
		default:
			delete(last, key) // the next fact belongs to a later event
			rest = append(rest, f)
		}
	}
	clear(e.facts[len(rest):])
	e.facts = rest
	for _, w := range ready {
		w.judge()
	}
	// A reset has the time at which it was sent, which is after the close.
	slices.SortStableFunc(ready, func(a, b *Event) int { return cmp.Compare(a.Time, b.Time) })
	return ready
}

func newEvent(f *capture.SocketFact) *Event {
	e := &Event{SocketFact: *f}
	e.Head = bytes.Clone(f.Head)
	return e
}

// join takes f in if it tells of the same event. The rules are the order of what
// the kernel does (net/ipv4/tcp.c and tcp_input.c):
//
//   - __tcp_close sets the state to CLOSE and then sends the reset;
//   - tcp_reset says that a reset was received and then sets the state;
//   - tcp_rcv_state_process, when data comes after close(), calls tcp_reset without
//     any reset having come, and sends one.
func (e *Event) join(f *capture.SocketFact) bool {
	switch {
	case e.Kind == capture.Closed && f.Kind == capture.ResetSent && e.NewState == "CLOSE",
		e.Kind == capture.ResetReceived && f.Kind == capture.ResetSent && !f.Active && afterClose(e.State):
		was := e.SocketFact
		e.SocketFact = *f
		e.Head = bytes.Clone(f.Head)
		e.complete(&was)
	case e.Kind == capture.ResetReceived && f.Kind == capture.Closed,
		e.Kind == capture.ResetSent && f.Kind == capture.Closed:
		e.complete(f)
	default:
		return false
	}
	return true
}

// afterClose reports whether a socket in this state may have been closed by its
// owner before: what RFC 9293, section 3.3.2, calls FIN-WAIT.
func afterClose(state string) bool { return state == "FIN_WAIT1" || state == "FIN_WAIT2" }

// complete fills in what f knows and e does not.
func (e *Event) complete(f *capture.SocketFact) {
	if !e.HasUnread || e.Unread == 0 && f.Unread > 0 {
		e.Unread, e.RcvNxt, e.HasUnread = f.Unread, f.RcvNxt, f.HasUnread
	}
	if e.Head == nil {
		e.Head = bytes.Clone(f.Head)
	}
	if !e.HasIdle {
		e.Idle, e.HasIdle = f.Idle, f.HasIdle
	}
	if !e.Owner.Known() {
		e.Owner = f.Owner
	}
	if e.State == "" || e.State == "CLOSE" {
		e.State = f.State
	}
}

// judge says what the event alone shows of a request.
func (e *Event) judge() {
	e.Client = likeResponse(e.Head) == yes
	e.Server = e.State == "LISTEN"
	if likeRequest(e.Head, false) != yes && !likelyRequest(e.Head) {
		return
	}
	e.Server = true
	line, _, _ := bytes.Cut(e.Head, []byte("\n"))
	method, rest, _ := bytes.Cut(trimCR(line), []byte(" "))
	target, _, _ := bytes.Cut(rest, []byte(" "))
	e.Method, e.Target = string(method), string(target)
	if e.Kind != capture.ResetSent {
		return // the owner may still read what the socket holds
	}
	switch {
	case e.HasSegment:
		// The request came in the segment that was refused. That none of it came
		// before, in a copy that was taken, only the socket's own count shows: the
		// owner had closed, and what is new in the segment begins with the request.
		if e.Reason == "TCP_ABORT_ON_DATA" && e.HasUnread && e.Seq == e.RcvNxt {
			e.Retry = RetryLikelySafe
		}
	case !e.Active || !e.HasUnread || e.Unread == 0:
	default:
		// The head is where the owner had read to. close() throws it away, and so does
		// the close of a listening socket; but ss -K ends one whose owner may read on.
		e.Retry = RetryLikelySafe
	}
}
