package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"whyreset/capture"
	"whyreset/correlate"
)

// What must hold whatever the traffic is, tried on every scenario and on every
// recorded capture: the same conversation, cut into other packets, gives the same
// verdicts; and packets that are missing never accuse anybody of something else.

// maxTries bounds how many packets of one capture a test tries in turn.
const maxTries = 400

// A judgement is what a finding says of a request or a connection, without frame
// numbers and times.
type judgement struct {
	client     capture.Endpoint
	target     string
	number     int
	verdict    correlate.Verdict
	lost       bool
	retry      correlate.Retry
	confidence correlate.Confidence
}

func (j judgement) String() string {
	what := "answered"
	if j.lost {
		what = "lost"
	}
	return fmt.Sprintf("%s %q (%d) %s: %s %s, retry %s", j.client, j.target, j.number, what, j.confidence, j.verdict, j.retry)
}

// accuses reports whether the judgement points at somebody.
func (j judgement) accuses() bool {
	f := j.verdict.Family()
	return f != "clean" && f != "unknown"
}

// judge runs the segments through a tracker, which must not keep their payload.
func judge(segs []capture.Segment) []judgement { return judgeWith(segs, nil) }

// judgeWith gives the tracker facts of the kernel as well, a little before the
// segments of their times.
func judgeWith(segs []capture.Segment, facts []capture.SocketFact) []judgement {
	var js []judgement
	tracker := correlate.New(correlate.Config{}, func(f *correlate.Finding) {
		j := judgement{client: f.Connection.Client, verdict: f.Verdict, lost: f.Lost, retry: f.Retry, confidence: f.Confidence}
		if f.Request != nil {
			j.target, j.number = f.Request.Target, f.Request.Number
		}
		js = append(js, j)
	})
	var borrowed []byte
	for i := range segs {
		s := segs[i]
		borrowed = append(borrowed[:0], s.Payload...)
		s.Payload, s.Frame = borrowed, uint64(i+1)
		for len(facts) > 0 && facts[0].Time <= s.Time.Add(time.Millisecond) {
			tracker.Fact(&facts[0])
			facts = facts[1:]
		}
		tracker.Add(&s)
		for k := range borrowed {
			borrowed[k] = '#'
		}
	}
	tracker.Finish()
	return js
}

// A subject is a capture to try.
type subject struct {
	name string
	segs []capture.Segment
}

func subjects(t *testing.T) []subject {
	var all []subject
	for _, s := range scenarios(t) {
		segs, err := parseFlow(s.section("flow"))
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		all = append(all, subject{s.name, segs})
	}
	for _, file := range recordings(t) {
		all = append(all, subject{filepath.Base(file), readSegments(t, file)})
	}
	return all
}

// recordings returns the names of the recorded captures.
func recordings(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/pcap/*.pcap*")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func readSegments(t testing.TB, file string) []capture.Segment {
	t.Helper()
	src, err := capture.OpenFiles([]string{file}, nil, capture.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var segs []capture.Segment
	for {
		var s capture.Segment
		if err := src.Next(&s); errors.Is(err, io.EOF) {
			return segs
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		s.Payload = bytes.Clone(s.Payload)
		segs = append(segs, s)
	}
}

// each runs a test of every subject.
func each(t *testing.T, test func(t *testing.T, s subject, want []judgement)) {
	for _, s := range subjects(t) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			test(t, s, judge(s.segs))
		})
	}
}

// sample returns at most maxTries of the numbers below n, the last ones always:
// ends are where verdicts are made.
func sample(n int) []int {
	var list []int
	for i := range n {
		if n <= maxTries || i >= n-maxTries/4 || i%(n/(maxTries*3/4)+1) == 0 {
			list = append(list, i)
		}
	}
	return list
}

// same fails unless both lists judge the same things equally, in whatever order.
func same(t *testing.T, what string, want, got []judgement) {
	t.Helper()
	sorted := func(js []judgement) []string {
		var lines []string
		for _, j := range js {
			lines = append(lines, j.String())
		}
		slices.Sort(lines)
		return lines
	}
	w, g := sorted(want), sorted(got)
	if slices.Equal(w, g) {
		return
	}
	only := func(a, b []string) string {
		var lines []string
		for _, line := range a {
			if i := slices.Index(b, line); i >= 0 {
				b = slices.Delete(slices.Clone(b), i, i+1)
			} else {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "\n  ")
	}
	t.Errorf("%s: instead of\n  %s\nit says\n  %s", what, only(w, g), only(g, w))
}

// How payload is cut into segments is chance.
func TestSplittingPayloadChangesNothing(t *testing.T) {
	each(t, func(t *testing.T, s subject, want []judgement) {
		for _, size := range []int{1, 7} {
			var split []capture.Segment
			for _, seg := range s.segs {
				split = append(split, splitSegment(seg, size)...)
			}
			same(t, fmt.Sprintf("segments of %d bytes", size), want, judge(split))
		}
	})
}

// splitSegment cuts a segment into segments of size bytes.
func splitSegment(s capture.Segment, size int) []capture.Segment {
	if s.Len <= size || s.Has(capture.SYN) || s.Has(capture.RST) {
		return []capture.Segment{s}
	}
	var parts []capture.Segment
	for at := 0; at < s.Len; at += size {
		p := s
		p.Seq += uint32(at)
		p.Len = min(size, s.Len-at)
		p.Payload = s.Payload[min(at, len(s.Payload)):min(at+p.Len, len(s.Payload))]
		if at+p.Len < s.Len {
			p.Flags &^= capture.FIN | capture.PSH
		}
		parts = append(parts, p)
	}
	return parts
}

// A packet may be seen twice: on two interfaces, or because it was sent twice.
func TestDuplicatesChangeNothing(t *testing.T) {
	each(t, func(t *testing.T, s subject, want []judgement) {
		for _, i := range sample(len(s.segs)) {
			twice := slices.Insert(slices.Clone(s.segs), i+1, s.segs[i])
			same(t, fmt.Sprintf("packet %d twice", i+1), want, judge(twice))
		}
		var all []capture.Segment
		for _, seg := range s.segs {
			all = append(all, seg, seg)
		}
		same(t, "every packet twice", want, judge(all))
	})
}

// Packets that a capture saw at almost the same time may be stored in either
// order: each direction has its own queue. Time stamps stay sorted.
func TestSwappingNeighboursChangesNothing(t *testing.T) {
	const near = time.Millisecond
	each(t, func(t *testing.T, s subject, want []judgement) {
		for _, i := range sample(len(s.segs) - 1) {
			a, b := s.segs[i], s.segs[i+1]
			if b.Time.Sub(a.Time) > near {
				continue
			}
			a.Time, b.Time = b.Time, a.Time
			swapped := slices.Clone(s.segs)
			swapped[i], swapped[i+1] = b, a
			same(t, fmt.Sprintf("packets %d and %d swapped", i+1, i+2), unsure(want), unsure(judge(swapped)))
		}
	})
}

// unsure returns the judgements without their confidence.
func unsure(js []judgement) []judgement {
	js = slices.Clone(js)
	for i := range js {
		js[i].confidence = correlate.NoConfidence
	}
	return js
}

// Initial sequence numbers are random: 2^32 may be passed anywhere.
func TestRenumberingChangesNothing(t *testing.T) {
	const tries = 40
	each(t, func(t *testing.T, s subject, want []judgement) {
		for try := range tries {
			for _, last := range []uint32{0, 1} {
				same(t, fmt.Sprintf("2^32 at %d/%d and %d", try, tries, last), want, judge(renumber(s.segs, try, tries, last)))
			}
		}
	})
}

// renumber shifts the sequence numbers of every direction so that one that occurs
// try/tries of its way through becomes 0, or the one before 0 if last is 1.
func renumber(segs []capture.Segment, try, tries int, last uint32) []capture.Segment {
	type direction struct{ src, dst capture.Endpoint }
	seqs := map[direction][]uint32{}
	for _, s := range segs {
		d := direction{s.Src, s.Dst}
		if !slices.Contains(seqs[d], s.Seq) {
			seqs[d] = append(seqs[d], s.Seq)
		}
	}
	shift := func(src, dst capture.Endpoint) uint32 {
		list := seqs[direction{src, dst}]
		if len(list) == 0 {
			return 0
		}
		return -list[len(list)*try/tries] - last
	}
	var out []capture.Segment
	for _, s := range segs {
		if refusal := s.Has(capture.RST|capture.ACK) && s.Seq == 0; !refusal {
			s.Seq += shift(s.Src, s.Dst)
		}
		if s.Has(capture.ACK) {
			s.Ack += shift(s.Dst, s.Src)
		}
		out = append(out, s)
	}
	return out
}

// Other connections, to other servers, are nobody's business.
func TestOtherTrafficChangesNothing(t *testing.T) {
	var other []capture.Segment
	for i, s := range subjects(t) {
		if !strings.HasSuffix(s.name, "-client") && !strings.HasPrefix(s.name, "opaque-") {
			continue
		}
		for _, seg := range s.segs {
			// Of each scenario, both ends move to networks of their own.
			for _, e := range []*capture.Endpoint{&seg.Src, &seg.Dst} {
				e.Addr[12], e.Addr[13] = 172, byte(16+i%16)
				e.Addr[14] = byte(i)
			}
			other = append(other, seg)
		}
	}
	slices.SortStableFunc(other, func(a, b capture.Segment) int { return cmp.Compare(a.Time, b.Time) })
	foreign := map[capture.Endpoint]bool{}
	for _, seg := range other {
		foreign[seg.Src], foreign[seg.Dst] = true, true
	}
	each(t, func(t *testing.T, s subject, want []judgement) {
		if len(s.segs) == 0 {
			return
		}
		mixed := slices.Clone(s.segs)
		for _, seg := range other {
			// Into the middle of it, whenever it was.
			seg.Time += s.segs[0].Time - flowEpoch
			if seg.Time <= s.segs[len(s.segs)-1].Time {
				mixed = append(mixed, seg)
			}
		}
		slices.SortStableFunc(mixed, func(a, b capture.Segment) int { return cmp.Compare(a.Time, b.Time) })
		got := slices.DeleteFunc(judge(mixed), func(j judgement) bool { return foreign[j.client] })
		same(t, "among other traffic", want, got)
	})
}

// A capture that ends early, or lacks a packet, may show less. It must not show
// something else: no other accusation, no answered request called lost with one,
// no more confidence and no bolder advice on retrying.
func TestMissingPacketsAccuseNobody(t *testing.T) {
	each(t, func(t *testing.T, s subject, want []judgement) {
		for _, i := range sample(len(s.segs)) {
			weaker(t, s.name, fmt.Sprintf("cut before packet %d", i+1), nil, want, judge(s.segs[:i]))
			rest := slices.Delete(slices.Clone(s.segs), i, i+1)
			weaker(t, s.name, fmt.Sprintf("without packet %d", i+1), &s.segs[i], want, judge(rest))
		}
	})
}

// A capture with a hole in time, as when the disk or the ring was too slow: a run
// of packets of all connections is missing.
func TestMissingBurstsAccuseNobody(t *testing.T) {
	each(t, func(t *testing.T, s subject, want []judgement) {
		for n, i := range sample(len(s.segs)) {
			j := min(i+2+n%12, len(s.segs))
			rest := slices.Delete(slices.Clone(s.segs), i, j)
			weaker(t, s.name, fmt.Sprintf("without packets %d to %d", i+1, j), nil, want, judge(rest))
		}
	})
}

// weaker fails if got accuses anybody of what want does not.
func weaker(t *testing.T, name, what string, missing *capture.Segment, want, got []judgement) {
	t.Helper()
	for _, g := range got {
		if !g.accuses() {
			continue
		}
		var of []judgement // what was said of the same request, at best
		for _, w := range want {
			if w.client == g.client && (w.target == g.target || g.target == "") {
				of = append(of, w)
			}
		}
		if !slices.ContainsFunc(of, func(w judgement) bool {
			return w.shows(g) || slices.ContainsFunc(excuses, func(e excuse) bool { return e.covers(name, missing, w, g) })
		}) {
			t.Errorf("%s: %v\n  all of it says: %v", what, g, of)
		}
	}
}

// shows reports whether less is w, or less of it.
func (w judgement) shows(less judgement) bool {
	return w.verdict == less.verdict && (w.lost == less.lost || less.target == "" && !less.lost) && less.confidence <= w.confidence && !bolder(less.retry, w.retry)
}

// An excuse is a change of verdict that a missing packet may cause, because what
// is left is, to the byte, what another event leaves.
type excuse struct {
	full, less correlate.Verdict
	only       string // in this scenario only; anywhere if it is ""
	elsewhere  bool   // only if the missing packet is another connection's
	bolder     bool   // the advice on retrying may be bolder
	why        string
}

func (e excuse) covers(name string, missing *capture.Segment, w, less judgement) bool {
	return e.full == w.verdict && e.less == less.verdict && w.lost == less.lost && (e.bolder || !bolder(less.retry, w.retry)) &&
		(e.only == "" || e.only == name) &&
		(!e.elsewhere || missing != nil && missing.Src != less.client && missing.Dst != less.client)
}

var excuses = []excuse{
	{full: correlate.IdleRaceLingering, less: correlate.IdleRace,
		why: "until the server acknowledges the request, its FIN says that it had closed, and no more"},
	{full: correlate.Idle408Race, less: correlate.IdleRace,
		why: "without the 408, or a way to know where it begins, the close behind it is left"},
	{full: correlate.LateReuse, less: correlate.IdleRace, only: "late-reuse-announced",
		why: "the announcement is what is missing; that the close and the request crossed is true"},
	{full: correlate.IdleRace, less: correlate.IdleRaceLingering, only: "idle-race-port-reuse",
		why: "without the second handshake, what acknowledged the first connection's bytes seems to be of the second's"},
	{full: correlate.BacklogDropped, less: correlate.AbortBeforeResponse,
		why: "without the refused SYN, or the other connections, a reset by the server of a request that its TCP had is left"},
	{full: correlate.FirewallReject, less: correlate.ConnectRefused,
		why: "without a segment of the server's own there is no TTL to compare"},
	{full: correlate.AcceptQueueOverflow, less: correlate.ConnectTimeout, only: "accept-queue-overflow-syn-dropped",
		why: "with fewer SYNs, or without the other connections, SYNs without an answer are left"},
	{full: correlate.PeerDead, less: correlate.ClientAbortBeforeResponse, only: "peer-dead-keepalive",
		why: "the client did give up; too few probes are left to say that nothing would have come back"},
	{full: correlate.InjectedReset, less: correlate.AbortBeforeResponse, only: "injected-reset-in-clients-name",
		why: "without the forged reset, the server's answer to what came after it is left"},
	{full: correlate.Ambiguous, less: correlate.AbortMidResponse, only: "ambiguous-reject-mid-response",
		why: "until the server's later data are seen, the reset is as its own would be"},
	{full: correlate.Ambiguous, less: correlate.ClientAbortMidResponse, only: "ambiguous-reject-mid-response",
		why: "without the reset that ended the client, the client's own are left"},
	{full: correlate.Ambiguous, less: correlate.PeerDead, only: "ambiguous-forgotten-soon",
		why: "the packet that says that the path was there is what is missing"},
	{full: correlate.Ambiguous, less: correlate.LateReuse, only: "idle-race-first-copy-unseen",
		why: "the packet that tells of a first copy is missing, too"},
	{full: correlate.ProtocolMismatch, less: correlate.AbortBeforeResponse, only: "protocol-mismatch-silent",
		why: "what the server speaks on its other connection is missing"},
	{full: correlate.Ambiguous, less: correlate.AcceptQueueOverflow, only: "kernel-abort-unseen-before", bolder: true,
		why: "without the handshake's acknowledgement, or the request, the reset may be for the handshake"},
	{full: correlate.StaleConnection, less: correlate.StaleConnection, only: "kernel-abort-unseen-reused", bolder: true,
		why: "without one of its two copies, nothing shows that an earlier one may have been taken"},
}

// bolder reports whether a encourages a retry more than b does.
func bolder(a, b correlate.Retry) bool {
	return a != correlate.NothingToRetry && (b == correlate.NothingToRetry || a < b)
}

// Text and JSON are the same bytes from run to run.
func TestOutputIsRepeatable(t *testing.T) {
	try := func(name, file string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, format := range []string{"text", "json"} {
				first := runProgram(t, 0, "-o", format, "--all", file)
				if again := runProgram(t, 0, "-o", format, "--all", file); !bytes.Equal(first, again) {
					t.Errorf("%s differs from run to run:\n%s\n%s", format, first, again)
				}
			}
		})
	}
	dir := t.TempDir()
	for _, s := range scenarios(t) {
		file := filepath.Join(dir, s.name+".pcap")
		writeFile(t, file, renderFlow(t, s.section("flow")))
		try(s.name, file)
	}
	for _, file := range recordings(t) {
		try(filepath.Base(file), file)
	}
}
