package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"whyreset/capture"
	"whyreset/correlate"
	"whyreset/report"
)

// What a kernel says is a line of a flow, too:
//
//	facts complete                                 # nothing that a kernel does is missed
//	5.02s  KERNEL server TCP_ABORT_ON_CLOSE unread=53 pid=42 comm=nginx
//	+0s    KERNEL b.client CLOSED ESTABLISHED>FIN_WAIT1 unread=0
//	+0s    KERNEL server OPENED
//	+0s    KERNEL server RECEIVED                  # tcp_receive_reset
//	+0s    KERNEL LOST 3                           # so many facts since the one before
//
// A reason stands for a reset. Those that a kernel gives to active resets make one of
// these; the others answer the latest segment that had arrived. What the socket had
// received is what had arrived. The line's time is that of the capture. Words:
//
//	unread=N rcv=N   bytes not read; relative sequence number of rcv_nxt
//	seq= ack= len=   of the segment that is answered
//	state= pid= comm= container= name= cgroup= where= head="…"
//	skew=D           the kernel's clock differs by that, or the end is that far away
//	late=D           it comes to the tracker that much later
//	isn=N            numbers are those of another connection, with this sequence number
type flowFact struct {
	at   capture.Time // when the tracker gets it
	lost uint64
	fact capture.SocketFact
}

var activeReasons = []string{"TCP_ABORT_ON_CLOSE", "TCP_ABORT_ON_LINGER", "TCP_ABORT_ON_MEMORY", "TCP_STATE", "TCP_KEEPALIVE_TIMEOUT", "TCP_DISCONNECT_WITH_DATA", "ACTIVE"}
var replyReasons = []string{"TCP_ABORT_ON_DATA", "TCP_TIMEWAIT_SOCKET", "TCP_FLAGS", "NO_SOCKET", "INVALID_SYN", "REPLY"}

// parseFlowFacts renders the text of a flow with what the kernels said, in the order
// in which the tracker gets it.
func parseFlowFacts(text string) (segs []capture.Segment, facts []flowFact, complete bool, err error) {
	f, err := parseWholeFlow(text)
	if err != nil {
		return nil, nil, false, err
	}
	slices.SortStableFunc(f.facts, func(a, b flowFact) int { return cmp.Compare(a.at, b.at) })
	return f.segs, f.facts, f.complete, nil
}

func (f *flow) addFact(words []string) error {
	if len(words) < 2 {
		return fmt.Errorf("want: KERNEL [NAME.]client|server WHAT…")
	}
	now := flowEpoch.Add(f.now)
	if words[0] == "LOST" {
		n, err := strconv.ParseUint(words[1], 10, 32)
		f.facts = append(f.facts, flowFact{at: now, lost: n})
		return err
	}
	name, side, ok := strings.Cut(words[0], ".")
	if !ok {
		name, side = "", words[0]
	}
	c, d := f.conns[name], slices.Index([]string{"client", "server"}, side)
	if c == nil || d < 0 {
		return fmt.Errorf("no such end %q", words[0])
	}
	x := flowFact{at: now, fact: capture.SocketFact{Time: now, Local: c.ends[d].addr, Remote: c.ends[1-d].addr}}
	k, isn := &x.fact, c.ends[1-d].isn
	rcv := f.arrived(c, d, false)
	var seq, ack, length uint32
	switch what := words[1]; {
	case slices.Contains(activeReasons, what):
		k.Kind, k.Active, k.Reason, k.State = capture.ResetSent, true, what, "CLOSE"
		if what == "ACTIVE" {
			k.Reason = ""
		}
	case slices.Contains(replyReasons, what):
		k.Kind, k.Reason, k.State = capture.ResetSent, what, "LISTEN"
		if what == "REPLY" {
			k.Reason = ""
		}
		if s := f.latest(c, d); s != nil {
			k.HasSegment, seq, ack, length = true, s.seq, s.ack, s.end-s.seq
			if s.flags.Has(capture.SYN) || s.flags.Has(capture.FIN) {
				length--
			}
		}
	case what == "CLOSED":
		k.Kind, k.State, k.NewState = capture.Closed, "ESTABLISHED", "FIN_WAIT1"
	case what == "OPENED":
		k.Kind, k.NewState = capture.Opened, "ESTABLISHED"
	case what == "RECEIVED":
		k.Kind, k.State = capture.ResetReceived, "ESTABLISHED"
	default:
		return fmt.Errorf("unknown word %q", what)
	}
	for _, w := range words[2:] {
		key, value, ok := strings.Cut(w, "=")
		if from, to, is := strings.Cut(w, ">"); is && !ok {
			k.State, k.NewState = from, to
			continue
		}
		n, err := strconv.ParseUint(value, 10, 32)
		switch key {
		case "unread":
			k.Unread, k.HasUnread = uint32(n), true
		case "rcv":
			rcv = uint32(n)
		case "seq":
			seq = uint32(n)
		case "ack":
			ack = uint32(n)
		case "len":
			length = uint32(n)
		case "isn":
			isn = uint32(n)
		case "pid":
			k.Owner.PID = int(n)
		case "where":
			k.Where = n
		case "state":
			k.State, err = value, nil
		case "comm":
			k.Owner.Command, err = value, nil
		case "container":
			k.Owner.Container, err = value, nil
		case "name":
			k.Owner.Name, err = value, nil
		case "cgroup":
			k.Owner.Cgroup, err = value, nil
		case "head":
			k.Head, err = []byte(value), nil
		case "skew", "late":
			var by time.Duration
			by, err = time.ParseDuration(value)
			if key == "skew" {
				k.Time = k.Time.Add(by)
			} else {
				x.at = x.at.Add(by)
			}
		default:
			return fmt.Errorf("unknown word %q", w)
		}
		if err != nil {
			return err
		}
	}
	if k.HasUnread {
		k.RcvNxt = isn + rcv
	}
	if k.HasSegment {
		k.Seq, k.Ack, k.Len = isn+seq, c.ends[d].isn+ack, int(length)
	}
	f.facts = append(f.facts, x)
	return nil
}

// A factFeeder hands facts to a tracker as a live run does: before the segments of a
// later time.
type factFeeder struct {
	tracker  *correlate.Tracker
	facts    []flowFact
	complete bool
	lost     uint64
	spoken   map[[16]byte]bool // the addresses of whose sockets a kernel spoke
}

func (k *factFeeder) until(now capture.Time) {
	for len(k.facts) > 0 && k.facts[0].at <= now {
		if x := &k.facts[0]; x.fact.Kind != 0 {
			k.tracker.Fact(&x.fact)
			if k.spoken == nil {
				k.spoken = map[[16]byte]bool{}
			}
			k.spoken[x.fact.Local.Addr] = true
		} else {
			k.lost += x.lost
			k.tracker.FactsUntil(x.at, k.lost)
		}
		k.facts = k.facts[1:]
	}
	if k.complete {
		k.tracker.FactsUntil(now, k.lost)
	}
}

// config has all addresses of which a kernel spoke be this host's.
func (k *factFeeder) config() correlate.Config {
	if !k.complete {
		return correlate.Config{}
	}
	return correlate.Config{Local: func(q *correlate.Silence) bool { return k.spoken[q.Local.Addr] }}
}

// runWithFacts is runProgram for a flow in which kernels speak.
func runWithFacts(t testing.TB, exit int, file string, facts []flowFact, complete bool, args ...string) []byte {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := &command{stdout: &stdout, stderr: &stderr}
	if err := c.parse(args); err != nil {
		t.Fatal(err)
	}
	src, err := capture.OpenFiles([]string{file}, nil, capture.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	j := newJob(c, report.Options{Files: src.Files(), Zones: src.Zones(), StreamIDs: true, Location: time.UTC}, nil)
	k := &factFeeder{facts: facts, complete: complete}
	cfg := k.config()
	cfg.MaxConnections, cfg.Brief = c.maxConnections, !c.all
	j.tracker = correlate.New(cfg, j.finding)
	k.tracker = j.tracker
	k.until(flowEpoch.Add(-time.Second))
	var seg capture.Segment
	for {
		if err := src.Next(&seg); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		k.until(seg.Time)
		j.tracker.Add(&seg)
	}
	// The capture goes on for a while in silence.
	end := seg.Time
	for range 50 {
		end = end.Add(100 * time.Millisecond)
		k.until(end)
		j.tracker.Tick(end)
	}
	if got := c.conclude(j, src, nil); got != exit {
		t.Errorf("exit status %d, want %d\n%s", got, exit, &stderr)
	}
	return stdout.Bytes()
}
