package correlate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"whyreset/capture"
)

// checkFinding fails t if f contradicts itself.
func checkFinding(t testing.TB, f *Finding) {
	t.Helper()
	family := f.Verdict.Family()
	accuses := family != "clean" && family != "unknown"
	bad := func(format string, args ...any) {
		t.Helper()
		out, _ := json.MarshalIndent(f, "", " ")
		t.Fatalf("%s: %s\n%s", f.Verdict, fmt.Sprintf(format, args...), out)
	}
	switch {
	case f.Verdict >= numVerdicts || f.Verdict == StillOpen:
		bad("is no verdict of a finding")
	case f.Lost && f.Request == nil:
		bad("lost, and no request")
	case f.Lost && family == "clean":
		bad("clean, and lost")
	case family == "unknown" && f.Confidence != NoConfidence:
		bad("has a confidence")
	case family != "unknown" && f.Confidence == NoConfidence:
		bad("has no confidence")
	case f.Lost && accuses && f.Retry == NothingToRetry:
		bad("lost, and not a word on retrying")
	case !f.Lost && family == "clean" && f.Retry != NothingToRetry:
		bad("nothing lost, and a word on retrying")
	case (f.Verdict == Ambiguous) != (len(f.Candidates) > 0):
		bad("%d candidates", len(f.Candidates))
	case slices.Contains(f.Candidates, Ambiguous) || slices.Contains(f.Candidates, Unknown):
		bad("is a candidate of itself")
	case accuses && len(f.Evidence) == 0:
		bad("accuses without evidence")
	case f.HasIdle && f.Idle < 0:
		bad("idle for %v", f.Idle)
	case f.Request == nil && f.Response != nil:
		bad("a response to no request")
	case f.Request != nil && (f.Request.Bytes < 0 || f.Request.Number < 1 || f.Request.Number > f.Connection.Requests || f.Request.Frame == 0):
		bad("impossible request")
	case f.Response != nil && (f.Response.Bytes < 0 || f.Response.Frame == 0 && (f.Response.Status != 0 || f.Response.Complete) || f.Response.Status > 999):
		bad("impossible response")
	case f.Connection.Responses > f.Connection.Requests:
		bad("more responses than requests")
	case (f.Close.Kind == NoClose) != (f.Close.Frame == 0):
		bad("close %s in frame %d", f.Close.Kind, f.Close.Frame)
	case f.Close.Ack < 0:
		bad("close acknowledges %d", f.Close.Ack)
	}
	proof := func(words ...string) bool {
		return slices.ContainsFunc(f.Evidence, func(e Evidence) bool {
			return e.Frame != 0 && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(e.Text, w) })
		})
	}
	if f.Lost && f.Retry == RetrySafe && !proof("reset (frame", "answers the request's ack") {
		bad("safe to retry without proof")
	}
	if f.Confidence == Proven && f.Lost && !proof("frame") {
		bad("proven by no packet")
	}
	for _, e := range f.Evidence {
		if e.Text == "" || strings.Contains(e.Text, "%!") {
			bad("evidence %q", e.Text)
		}
	}
}

// A reader takes bytes from fuzz input; behind its end there are zeros.
type reader struct{ data []byte }

func (r *reader) byte() byte {
	if len(r.data) == 0 {
		return 0
	}
	b := r.data[0]
	r.data = r.data[1:]
	return b
}

func (r *reader) take(n int) []byte {
	b := r.data[:min(n, len(r.data))]
	r.data = r.data[len(b):]
	return b
}

// fragments are what payloads are made of.
var fragments = [][]byte{
	nil, get, ok, post, nothing, chunked, chunky, get[:20], get[20:], ok[:30], ok[30:], post[:len(post)-5], post[len(post)-5:],
	bytes.Repeat(get, 2), bytes.Repeat(ok, 2),
	[]byte("HEAD /h HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
	[]byte("CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n"),
	[]byte("POST /e HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"),
	[]byte("GET /c HTTP/1.1\r\nConnection: close\r\n\r\n"),
	[]byte("GET /w HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
	[]byte("POST /i HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"),
	[]byte("HTTP/1.1 100 Continue\r\n\r\n"),
	[]byte("HTTP/1.1 101 Switching Protocols\r\n\r\n"),
	[]byte("HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
	[]byte("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
	[]byte("HTTP/1.0 200 OK\r\nServer: Apache/2.4\r\n\r\nuntil close"),
	[]byte("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=100\r\nContent-Length: 0\r\n\r\n"),
	[]byte("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"),
	[]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n"),
	[]byte("\x16\x03\x01\x02\x00"), []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
}

var fuzzFlags = []capture.Flags{
	psh, psh, psh, psh, ack, ack, fin, fin, rst | ack, rst, syn, syn | ack,
	ack | capture.FIN | capture.PSH, 0, capture.FIN, psh | capture.SYN,
}

// fuzzSteps are what may pass between two segments.
var fuzzSteps = []time.Duration{
	0, 10 * time.Microsecond, time.Millisecond, 30 * time.Millisecond, 200 * time.Millisecond, 3 * time.Second, 70 * time.Second,
	3 * time.Minute,
}

// fuzzSegments turns data into segments on up to three connections. Each takes
// three bytes: what is sent and by whom, when, and how its numbers differ from
// those of a segment in order; and more where these ask for it.
func fuzzSegments(data []byte) []capture.Segment {
	r := &reader{data}
	type side struct{ nxt, acked uint32 }
	var conns [3][2]side
	for i := range conns {
		conns[i] = [2]side{{nxt: uint32(i) * 0x7ffffff0}, {nxt: 0xfffffff0 + uint32(i)}}
	}
	now := epoch
	var segs []capture.Segment
	for len(r.data) > 0 && len(segs) < 400 {
		what, how, odd := r.byte(), r.byte(), r.byte()
		d := int(what >> 7)
		flags := fuzzFlags[what&15]
		c := int(odd & 3)
		if c == 3 {
			c = 0
		}
		now = now.Add(fuzzSteps[how&7])
		me, peer := &conns[c][d], &conns[c][1-d]
		ends := [2]capture.Endpoint{client(c + 1), theServer}
		var payload []byte
		if n := int(how >> 3); what&0x40 != 0 && n < len(fragments) {
			payload = fragments[n]
		} else if what&0x40 != 0 {
			payload = r.take(int(r.byte()))
		}
		s := capture.Segment{
			Time: now, Src: ends[d], Dst: ends[1-d], Seq: me.nxt, Ack: peer.nxt, Flags: flags, TTL: 64, WScale: -1,
			Len: len(payload), Payload: payload, Frame: uint64(len(segs) + 1),
		}
		switch odd >> 2 & 7 { // what the numbers are
		case 1: // an earlier segment again
			s.Seq -= uint32(r.byte())
		case 2: // behind a hole
			s.Seq += uint32(r.byte())
		case 3: // crosses what the peer sent last
			s.Ack = me.acked
		case 4:
			s.Ack += uint32(int8(r.byte()))
		case 5: // anything
			s.Seq += uint32(r.byte()) << 24
		case 6:
			s.Ack += uint32(r.byte()) << 24
		case 7: // as if there was no socket
			s.Seq, s.TTL = peer.acked, 63
		}
		if odd&0x20 != 0 {
			s.Payload = s.Payload[:min(len(s.Payload), int(r.byte()))]
		}
		if odd&0x40 != 0 {
			s.IPID = uint16(what)
		}
		if odd&0x80 == 0 { // else its sender forgets that it sent it
			past := s.Seq + uint32(s.Len)
			if s.Flags&(capture.SYN|capture.FIN) != 0 {
				past++
			}
			if int32(past-me.nxt) > 0 && past-me.nxt < 1<<20 {
				me.nxt = past
			}
		}
		me.acked = s.Ack
		segs = append(segs, s)
	}
	return segs
}

// runFuzz feeds segs to a tracker, checks what must hold of it, and returns what
// it found.
func runFuzz(t *testing.T, segs []capture.Segment, cfg Config) ([]*Finding, Summary) {
	t.Helper()
	var found []*Finding
	tr := New(cfg, func(f *Finding) { found = append(found, f) })
	var borrowed []byte
	for i := range segs {
		s := segs[i]
		borrowed = append(borrowed[:0], s.Payload...)
		s.Payload = borrowed
		tr.Add(&s)
		for k := range borrowed {
			borrowed[k] = '#'
		}
		checkTracker(t, tr)
	}
	tr.Finish()
	checkTracker(t, tr)
	if tr.pendBytes != 0 {
		t.Fatalf("%d bytes wait after Finish", tr.pendBytes)
	}
	for _, f := range found {
		checkFinding(t, f)
		for _, e := range f.Evidence {
			if e.Frame > uint64(len(segs)) {
				t.Fatalf("%s: no frame %d: %s", f.Verdict, e.Frame, e.Text)
			}
		}
	}
	return found, tr.Summary()
}

// checkTracker fails t if the tracker's books do not agree.
func checkTracker(t *testing.T, tr *Tracker) {
	t.Helper()
	checkPending(t, tr)
	used := 0
	for _, c := range tr.all {
		if c.state == free {
			continue
		}
		used++
		if got, _ := tr.table.find(&c.ep[0], &c.ep[1], c.hash); got != c {
			t.Fatalf("connection %d is not in the table", c.id)
		}
		if int(c.current) >= len(c.queue) || len(c.queue) > 0 && c.client < 0 {
			t.Fatalf("connection %d: reads response %d of %d, client %d", c.id, c.current, len(c.queue), c.client)
		}
		for i, r := range c.queue {
			if r.end < r.start || i > 0 && r.number != c.queue[i-1].number+1 {
				t.Fatalf("connection %d: request %d is [%d,%d)", c.id, r.number, r.start, r.end)
			}
		}
		for d := range c.half {
			if h := &c.half[d]; h.left < 0 || !slices.IsSortedFunc(h.pend, func(a, b piece) int { return int(a.off - b.off) }) {
				t.Fatalf("connection %d: %d bytes left, pieces in disorder", c.id, h.left)
			}
		}
	}
	if used != tr.table.used || used+len(tr.spare) != len(tr.all) {
		t.Fatalf("%d connections are used, %d in the table, %d spare of %d", used, tr.table.used, len(tr.spare), len(tr.all))
	}
}

// checkSummary fails t unless s counts what was found.
func checkSummary(t *testing.T, found []*Finding, s Summary) {
	t.Helper()
	type tally struct {
		lost, proven uint64
		on           map[uint64]bool
	}
	type key struct {
		v      Verdict
		server capture.Endpoint
	}
	want := map[key]*tally{}
	lostOn := map[uint64]bool{}
	var lost uint64
	for _, f := range found {
		k := key{f.Verdict, f.Connection.Server}
		n := want[k]
		if n == nil {
			n = &tally{on: map[uint64]bool{}}
			want[k] = n
		}
		n.on[f.Connection.ID] = true
		if f.Lost {
			lost++
			n.lost++
			lostOn[f.Connection.ID] = true
		}
		if f.Confidence == Proven {
			n.proven++
		}
	}
	if s.Lost != lost || s.LostOn != uint64(len(lostOn)) {
		t.Errorf("summary: %d lost on %d connections; found %d on %d", s.Lost, s.LostOn, lost, len(lostOn))
	}
	if s.Lost+s.Waiting+s.Unjudged > s.Requests || s.Opaque > s.Connections || s.StillOpen > s.Connections {
		t.Errorf("summary: %+v", s)
	}
	for _, v := range s.Verdicts {
		n := want[key{v.Verdict, v.Server}]
		if n == nil || v.Lost != n.lost || v.Proven != n.proven || v.Connections != uint64(len(n.on)) {
			t.Errorf("summary: %+v; found %+v", v, n)
		}
		delete(want, key{v.Verdict, v.Server})
	}
	for k, n := range want {
		t.Errorf("found %s %+v, which the summary does not have", k.v, n)
	}
}

// fuzzTalk is a conversation in the encoding of fuzzSegments.
func fuzzTalk(lines ...[3]byte) []byte {
	var data []byte
	for _, l := range lines {
		data = append(data, l[:]...)
	}
	return data
}

func FuzzTracker(f *testing.F) {
	const server, with = 0x80, 0x40
	const PSH, ACK, FIN, RSTACK, RST, SYN, SYNACK = 0, 4, 6, 8, 9, 10, 11
	frag := func(n int) byte { return byte(n<<3 | 2) } // a millisecond later
	wait := func(n, step int) byte { return byte(n<<3 | step) }
	hello := fuzzTalk([3]byte{SYN, 2}, [3]byte{server | SYNACK, 2}, [3]byte{ACK, 2},
		[3]byte{with | PSH, frag(1)}, [3]byte{with | server | PSH, frag(2)}, [3]byte{ACK, 2})
	for _, lines := range [][][3]byte{
		nil,
		{{FIN, 4}, {server | FIN, 2}, {ACK, 2}}, // clean
		{{server | FIN, 5}, {with | PSH, frag(1), 3 << 2}, {server | RST, 2, 7 << 2}},                                  // race
		{{server | FIN, 5}, {with | PSH, wait(1, 5)}, {server | RST, 2, 7 << 2}},                                       // late reuse
		{{with | PSH, frag(3)}, {server | RSTACK, 2}},                                                                  // abort
		{{with | PSH, wait(1, 6)}, {server | RST, 3, 7 << 2}},                                                          // stale
		{{with | PSH, frag(1)}, {with | PSH, frag(1)}, {with | server | PSH, frag(2)}, {server | FIN, 2}},              // pipelined
		{{with | PSH, frag(1)}, {with | PSH, frag(3)}, {with | PSH, frag(1)}, {server | RSTACK, 2}},                    // several lost
		{{with | PSH, frag(6)}, {with | server | PSH, frag(28)}, {FIN, 2}, {server | RST, 2}},                          // client abort
		{{with | PSH, frag(1)}, {with | server | PSH, frag(10), 2 << 2}, {ACK, 2, 4 << 2}, {with | server, frag(9)}},   // hole
		{{with | PSH, frag(1), 0x20}, {with | server | PSH, frag(2), 0x20}, {FIN, 2}, {server | FIN, 2}},               // snap
		{{with | PSH, frag(16)}, {with | server | PSH, frag(2)}, {with | PSH, frag(29)}, {FIN, 2}, {server | FIN, 2}},  // tunnel
		{{FIN, 2}, {server | FIN, 2}, {ACK, 2}, {SYN, 5}, {server | SYNACK, 2}, {ACK, 2}, {with | PSH, frag(1), 0x80}}, // again
		{{SYN, 2, 5 << 2}, {server | SYNACK, 2}, {with | PSH, frag(1)}, {server | RSTACK, 2}},                          // another
	} {
		f.Add(append(slices.Clone(hello), fuzzTalk(lines...)...))
		f.Add(fuzzTalk(lines...))
	}
	f.Add([]byte("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n0123456789"))
	f.Fuzz(func(t *testing.T, data []byte) {
		segs := fuzzSegments(data)
		found, sum := runFuzz(t, segs, Config{})
		checkSummary(t, found, sum)
		again, _ := runFuzz(t, segs, Config{}) // with another hash, and other map orders
		if a, b := describeAll(found), describeAll(again); a != b {
			t.Fatalf("two runs differ:\n%s\n%s", a, b)
		}
		brief, bsum := runFuzz(t, segs, Config{Brief: true})
		if a, b := fmt.Sprint(bsum), fmt.Sprint(sum); a != b {
			t.Fatalf("brief, the summary is\n%s\nand else\n%s", a, b)
		}
		// A clean finding may wait for what comes after it, and those behind it with
		// it, but for the verdicts that waited for a timer: so only the order differs.
		dirty := slices.DeleteFunc(found, func(f *Finding) bool { return f.Verdict.Family() == "clean" })
		byConnection := func(a, b *Finding) int { return cmp.Compare(a.Connection.ID, b.Connection.ID) }
		slices.SortStableFunc(dirty, byConnection)
		slices.SortStableFunc(brief, byConnection)
		if !slices.EqualFunc(dirty, brief, func(a, b *Finding) bool {
			return a.Connection.ID == b.Connection.ID && a.Verdict == b.Verdict && a.Lost == b.Lost && a.Retry == b.Retry && a.Confidence == b.Confidence
		}) {
			t.Fatalf("all but the clean ones:\n%s\nbrief:\n%s", describeAll(dirty), describeAll(brief))
		}
		runFuzz(t, segs, Config{MaxConnections: 2})
	})
}

func describeAll(found []*Finding) string {
	var lines strings.Builder
	for _, f := range found {
		out, err := json.Marshal(f)
		if err != nil {
			panic(err)
		}
		lines.Write(append(out, '\n'))
	}
	return lines.String()
}

// What is a message must not depend on how it is cut into segments.
func FuzzHead(f *testing.F) {
	for _, frag := range fragments {
		f.Add(frag, true)
		f.Add(frag, false)
	}
	for _, s := range []string{
		"GET / HTTP/1.1\nHost: h\n\nGET /2 HTTP/1.1\r\n\n",
		"\r\n\r\nGET / HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1\r\nA: b\r\n c\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\n\r\n",
		"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET",
		"GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\nxGET / HTTP/1.0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\nHTTP/1.1 204\r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.0 200 OK\r\n\r\nrest",
		"GET / HTTP/1.1\r\nH\n\r\r\n\r\n\r\n",
	} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, request bool) {
		b = b[:min(len(b), 4096)]
		var h head
		k := parseHead(b, request, &h)
		if end := endOfHead(b); k != end {
			t.Fatalf("parseHead returns %d, endOfHead %d", k, end)
		}
		if h.length < -1 || h.length >= 0 && (h.chunked || h.coded) && k > 0 {
			t.Fatalf("length %d, chunked %v, coded %v", h.length, h.chunked, h.coded)
		}
		if h.timeout < 0 || h.status < 0 || h.status > 999 || h.minor > 9 {
			t.Fatalf("%+v", h)
		}
		if h.http1 {
			if like := likeResponse(b); !request && like != yes {
				t.Fatalf("status %d, and likeResponse says %d", h.status, like)
			}
			if like := likeRequest(b, false); request && k > 0 && like != yes {
				t.Fatalf("method %q, and likeRequest says %d", h.method, like)
			}
		}
		for n := range b { // more bytes decide more, and never otherwise
			if like := likeResponse(b[:n]); like != maybe && like != likeResponse(b) {
				t.Fatalf("of the first %d bytes likeResponse says %d", n, like)
			}
			if like := likeRequest(b[:n], false); like != maybe && like != likeRequest(b, false) && !controls(b) {
				t.Fatalf("of the first %d bytes likeRequest says %d", n, like)
			}
		}
		if request && controls(b) {
			return
		}
		whole := framed(t, b, len(b)+1, request)
		for _, size := range []int{1, 7} {
			if cut := framed(t, b, size, request); cut != whole {
				t.Fatalf("in one segment\n%s\nin segments of %d\n%s", whole, size, cut)
			}
		}
	})
}

// controls reports whether b has control characters that no message has outside
// its content: what a request line with them is depends on where it is cut.
func controls(b []byte) bool {
	return bytes.ContainsFunc(b, func(r rune) bool { return r < ' ' && r != '\r' && r != '\n' })
}

// framed says which messages stream is to a tracker that gets it in segments of
// size bytes, up to where their framing is lost.
func framed(t *testing.T, stream []byte, size int, requests bool) string {
	tr := New(Config{}, ignore)
	k := newTalk(tr, newWire(), 1)
	k.handshake()
	d := cli
	if !requests {
		d = srv
		k.send(cli, psh, bytes.Repeat(get, 20))
	}
	for part := range slices.Chunk(stream, size) {
		k.send(d, psh, part)
		checkTracker(t, tr)
		if tr.all[0].missing != 0 {
			break
		}
	}
	c := tr.all[0]
	var out strings.Builder
	for i, r := range c.queue {
		if c.missing != 0 && i == len(c.queue)-1 {
			break // what follows it may count as part of it
		}
		if requests {
			fmt.Fprintf(&out, "request %d: [%d,%d) %q %q %q framed %v complete %v close %v\n", r.number, r.start, r.end, r.method(), r.target(), r.host(), r.framed, r.complete, r.close)
		} else if p := &r.resp; p.complete {
			fmt.Fprintf(&out, "response %d: [%d,%d) %d until close %v, close %v\n", i+1, p.start, p.end, p.status, p.untilClose, p.close)
		}
	}
	fmt.Fprintf(&out, "missing %b, upgraded %v, announced %v", c.missing, c.upgraded, c.announced)
	tr.Finish()
	return out.String()
}
