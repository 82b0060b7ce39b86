package correlate

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"whyreset/capture"
)

// ignore takes findings that a test does not look at.
func ignore(*Finding) {}

// heap returns how many bytes of the heap are in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// checkPending fails t unless pendBytes is the length of all that waits.
func checkPending(t testing.TB, tr *Tracker) {
	t.Helper()
	n := 0
	for _, c := range tr.all {
		for d := range c.half {
			if len(c.half[d].pend) > maxPend {
				t.Fatalf("connection %d: %d pieces wait, more than %d", c.id, len(c.half[d].pend), maxPend)
			}
			for i := range c.half[d].pend {
				n += len(c.half[d].pend[i].payload)
			}
		}
	}
	if n != tr.pendBytes || n > maxPendBytes {
		t.Fatalf("%d bytes wait, counted as %d, at most %d", n, tr.pendBytes, maxPendBytes)
	}
}

func TestMaxConnections(t *testing.T) {
	const most, all = 64, 1000
	tr := New(Config{MaxConnections: most}, ignore)
	w := newWire()
	for n := range all {
		k := newTalk(tr, w, n+1)
		k.handshake()
		k.exchange(get, ok)
		if len(tr.all) > most || tr.table.used > most {
			t.Fatalf("after connection %d: %d are held, %d in the table", n, len(tr.all), tr.table.used)
		}
	}
	tr.Finish()
	if s := tr.Summary(); s.Connections != all || s.Evicted != all-most || s.StillOpen != most || s.Lost != 0 {
		t.Errorf("%d connections, %d evicted, %d still open, %d lost; want %d, %d, %d, 0", s.Connections, s.Evicted, s.StillOpen, s.Lost, all, all-most, most)
	}
}

// Connections that were reported go before those that are open, and ones with an
// outstanding request last of all.
func TestEvictionSparesTheOutstanding(t *testing.T) {
	const most, waiting = 60, 20 // fewer than evict looks at
	tr := New(Config{MaxConnections: most}, ignore)
	w := newWire()
	for n := range waiting {
		k := newTalk(tr, w, n+1)
		k.handshake()
		k.send(cli, psh, get)
	}
	for n := range 500 {
		k := newTalk(tr, w, 1000+n)
		k.handshake()
		k.exchange(get, ok)
	}
	tr.Finish()
	if s := tr.Summary(); s.Waiting != waiting {
		t.Errorf("%d requests wait, want %d", s.Waiting, waiting)
	}

	tr, w = New(Config{MaxConnections: most}, ignore), newWire()
	for n := range 500 {
		k := newTalk(tr, w, 1000+n)
		k.handshake()
		k.exchange(get, ok)
		k.bye()
		w.now = w.now.Add(2 * linger)
	}
	if tr.sum.Evicted != 0 {
		t.Errorf("%d connections evicted, with %d reported ones to give up", tr.sum.Evicted, most-1)
	}
}

// A connection that waits for its next request costs about 1 KB.
func TestOpenConnectionsAreSmall(t *testing.T) {
	const conns, most = 200000, 1<<10 + 128
	base := heap()
	tr := track(t, Config{})
	w := newWire()
	k := newTalk(tr, w, 1)
	for n := range conns {
		k.begin(n + 1)
		k.handshake()
		k.exchange(get, ok)
	}
	each := (heap() - base) / conns
	t.Logf("%d bytes per connection: conn %d, half %d of it twice, request %d and %d of text, slots %d, two pointers 16",
		each, unsafe.Sizeof(conn{}), unsafe.Sizeof(half{}), unsafe.Sizeof(request{}), len("GET/a?b=cexample.com"),
		len(tr.table.slots)*int(unsafe.Sizeof(slot{}))/conns)
	if each > most {
		t.Errorf("%d bytes per connection, want at most %d", each, most)
	}
	framedWhole(t, tr, 1)
	runtime.KeepAlive(tr)
}

// best returns the least time that run takes, of a few.
func best(run func()) time.Duration {
	least := time.Hour
	for range 3 {
		start := time.Now()
		run()
		least = min(least, time.Since(start))
	}
	return least
}

// linear fails t unless work four times as large takes about four times as long.
// What is quadratic takes sixteen times; the slack is for a busy machine.
func linear(t *testing.T, n int, work func(n int)) {
	t.Helper()
	var once, more time.Duration
	for range 3 {
		once, more = best(func() { work(n) }), best(func() { work(4 * n) })
		if more < 9*once+5*time.Millisecond {
			t.Logf("%d take %v, %d take %v", n, once, 4*n, more)
			return
		}
	}
	t.Errorf("%d take %v, %d take %v", n, once, 4*n, more)
}

func TestPipelinesTakeLinearTime(t *testing.T) {
	many := bytes.Repeat(get, 100)
	answers := bytes.Repeat(ok, 100)
	tests := []struct {
		name string
		run  func(k *talk, n int)
	}{
		{"a segment each, then the answers", func(k *talk, n int) {
			for range n {
				k.send(cli, psh, get)
			}
			for range n {
				k.send(srv, psh, ok)
				k.send(cli, ack, nil)
			}
		}},
		{"many in a segment", func(k *talk, n int) {
			for range n / 100 {
				k.send(cli, psh, many)
			}
			for range n / 100 {
				k.send(srv, psh, answers)
				k.send(cli, ack, nil)
			}
		}},
		{"never answered", func(k *talk, n int) {
			for range n {
				k.send(cli, psh, get)
			}
			k.send(srv, fin, nil)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			linear(t, 2500, func(n int) {
				tr := New(Config{}, ignore)
				k := newTalk(tr, newWire(), 1)
				k.handshake()
				tt.run(k, n)
				tr.Finish()
				if got := tr.Summary().Requests; got != uint64(n) {
					t.Fatalf("%d requests, want %d", got, n)
				}
			})
		})
	}
}

// However many requests wait, no more than maxPipeline are kept.
func TestPipelineIsBounded(t *testing.T) {
	tr := New(Config{}, ignore)
	k := newTalk(tr, newWire(), 1)
	k.handshake()
	many := bytes.Repeat([]byte("GET / HTTP/1.1\r\n\r\n"), 1000)
	for range 3 * maxPipeline / 1000 {
		k.send(cli, psh, many)
	}
	if n := len(tr.all[0].queue); n > maxPipeline {
		t.Errorf("%d requests are kept, want at most %d", n, maxPipeline)
	}
	tr.Finish()
}

// What comes out of order, before holes that are never filled, waits within
// bounds of pieces per direction and of bytes in all.
func TestOutOfOrderFlood(t *testing.T) {
	base := heap()
	tr := New(Config{}, ignore)
	w := newWire()
	payload := make([]byte, 8<<10)
	const conns = 40
	for n := range conns {
		k := newTalk(tr, w, n+1)
		k.handshake()
		for i := range 3 * maxPend {
			k.make(cli, psh, payload)
			k.seg.Seq = 1001 + uint32(i+1)*uint32(len(payload)+1)
			k.seg.Ack = 5001
			k.add()
			if i%512 == 0 {
				checkPending(t, tr)
			}
		}
	}
	checkPending(t, tr)
	if used := heap() - base; used > maxPendBytes+conns*maxPend*2*int64(unsafe.Sizeof(piece{}))+(2<<20) {
		t.Errorf("%d MB in use", used>>20)
	}
	tr.Finish()
	if tr.pendBytes != 0 {
		t.Errorf("%d bytes wait after Finish", tr.pendBytes)
	}
	runtime.KeepAlive(tr)
}

// Payloads are borrowed: what waits must be a copy.
func TestWaitingBytesAreCopied(t *testing.T) {
	tr := track(t, Config{})
	k := newTalk(tr, newWire(), 1)
	k.handshake()
	borrowed := make([]byte, 0, len(get))
	for _, part := range [][2]int{{20, len(get)}, {0, 20}} { // the second half first
		borrowed = append(borrowed[:0], get[part[0]:part[1]]...)
		k.make(cli, psh, borrowed)
		k.seg.Seq = 1001 + uint32(part[0])
		k.add()
		clear(borrowed)
	}
	k.send(srv, psh, ok)
	framedWhole(t, tr, 1)
	if r := tr.all[0].queue[0]; r.target() != "/a?b=c" || r.host() != "example.com" {
		t.Errorf("the request is for %q of %q", r.target(), r.host())
	}
}

// Segments in reverse order are the worst for what waits in order of offsets.
func TestReversedSegmentsTakeBoundedTime(t *testing.T) {
	stream := bytes.Repeat(get, 20000/len(get))
	tr := New(Config{}, ignore)
	k := newTalk(tr, newWire(), 1)
	k.handshake()
	start := time.Now()
	for i := len(stream) - 1; i >= 0; i-- {
		k.make(cli, psh, stream[i:i+1])
		k.seg.Seq, k.seg.Ack = 1001+uint32(i), 5001
		k.add()
	}
	checkPending(t, tr)
	tr.Finish()
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("%d segments took %v", len(stream), took)
	}
}

// A header section that does not end is not kept beyond maxHead, and looking for
// its end does not begin anew with each segment.
func TestHeaderBomb(t *testing.T) {
	fields := append([]byte("GET / HTTP/1.1\r\nHost: h\r\n"), bytes.Repeat([]byte("X-Filler: 0123456789abcdef\r\n"), 1<<20/28)...)
	field := append([]byte("GET / HTTP/1.1\r\nHost: h\r\nX-Filler: "), bytes.Repeat([]byte("x"), 1<<20)...)
	feed := func(t *testing.T, stream []byte, size int) {
		tr := New(Config{}, ignore)
		k := newTalk(tr, newWire(), 1)
		k.handshake()
		most := 0
		for from := 0; from < len(stream); from += size {
			k.send(cli, psh, stream[from:min(from+size, len(stream))])
			most = max(most, cap(tr.all[0].half[0].buf))
		}
		if most > 2*maxHead+64<<10 {
			t.Errorf("segments of %d: %d bytes kept", size, most)
		}
		k.send(srv, fin, nil)
		tr.Finish()
	}
	for _, stream := range []struct {
		name  string
		bytes []byte
	}{{"many fields", fields}, {"one field", field}} {
		t.Run(stream.name, func(t *testing.T) {
			for _, size := range []int{len(stream.bytes), 60000, 1448, 1} {
				feed(t, stream.bytes, size)
			}
			linear(t, maxHead/8, func(n int) { feed(t, stream.bytes[:n], 1) })
		})
	}
}

// A chunk-size line that does not end is given up, and trailers may go on for
// ever: nothing of them is kept.
func TestEndlessChunkLines(t *testing.T) {
	const start = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, tt := range []struct {
		name  string
		start string
		more  []byte
	}{
		{"size", start, bytes.Repeat([]byte("0"), 1448)},
		{"extension", start + "5;", bytes.Repeat([]byte("x"), 1448)},
		{"trailer", start + "0\r\n", bytes.Repeat([]byte("x"), 1448)},
		{"trailers", start + "0\r\n", bytes.Repeat([]byte("X-T: y\r\n"), 181)},
		{"empty extensions", start, bytes.Repeat([]byte(";"), 1448)},
		{"tiny chunks", start, bytes.Repeat([]byte("1\r\nx\r\n"), 240)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := New(Config{}, ignore)
			k := newTalk(tr, newWire(), 1)
			k.handshake()
			k.send(cli, psh, get)
			k.send(srv, psh, []byte(tt.start))
			for range 2000 {
				k.send(srv, psh, tt.more)
				if n := cap(tr.all[0].half[1].buf); n > 4*maxChunkLine {
					t.Fatalf("%d bytes kept", n)
				}
			}
			tr.Finish()
		})
	}
}

func TestHugeLengths(t *testing.T) {
	for _, head := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000000000000000000005\r\n",
	} {
		var got []*Finding
		tr := New(Config{}, func(f *Finding) { got = append(got, f) })
		k := newTalk(tr, newWire(), 1)
		k.handshake()
		k.send(cli, psh, get)
		k.send(srv, psh, []byte(head))
		k.sendCut(srv, make([]byte, 10000), 1000)
		k.make(srv, psh, make([]byte, 1000)) // and out of order
		k.seg.Seq += 100
		k.add()
		k.send(cli, ack, nil)
		if h := &tr.all[0].half[1]; h.left < 0 {
			t.Errorf("%q: %d bytes left", head, h.left)
		}
		k.bye()
		tr.Finish()
		for _, f := range got {
			if f.Response != nil && f.Response.Complete {
				t.Errorf("%q: the response is complete", head)
			}
		}
	}
}

// Sequence numbers that fit nothing do no harm, and accuse nobody.
func TestSequenceNumberNonsense(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		tr := New(Config{}, func(f *Finding) { checkFinding(t, f) })
		w := newWire()
		talks := []*talk{newTalk(tr, w, 1), newTalk(tr, w, 2)}
		for i := range 200 {
			k := talks[r.IntN(2)]
			d := r.IntN(2)
			k.make(d, []capture.Flags{ack, psh, psh, psh, fin, rst, rst | ack, syn, syn | ack, 0}[r.IntN(10)], [][]byte{nil, get, ok, post[:30]}[r.IntN(4)])
			k.seg.Seq, k.seg.Ack = r.Uint32(), r.Uint32()
			if i%3 == 0 {
				k.seg.Seq = []uint32{0, 1, 1<<31 - 1, 1 << 31, 1<<31 + 1, 1<<32 - 1}[r.IntN(6)]
			}
			tr.Add(&k.seg)
			checkPending(t, tr)
		}
		tr.Finish()
		if tr.pendBytes != 0 {
			t.Fatalf("%d bytes wait after Finish", tr.pendBytes)
		}
	}
}

// Many servers cannot make the maps of them grow without end.
func TestServersAreBounded(t *testing.T) {
	tr := New(Config{Brief: true}, ignore)
	k := newTalk(tr, newWire(), 1)
	for n := range maxServers + 1000 {
		k.ends = [2]capture.Endpoint{theServer, client(n)}
		k.nxt = [2]uint32{1000, 5000}
		k.handshake()
		k.send(cli, rst|ack, nil)
	}
	tr.Finish()
	if len(tr.servers) > maxServers || len(tr.counts) > maxServers+int(numVerdicts) {
		t.Errorf("%d servers and %d counts are kept", len(tr.servers), len(tr.counts))
	}
	var total uint64
	for _, v := range tr.Summary().Verdicts {
		total += v.Connections
	}
	if total != maxServers+1000 {
		t.Errorf("%d connections are counted, want %d", total, maxServers+1000)
	}
}

// Verdicts that wait for one server's timer are bounded, and so is what they add
// to each close of another server.
func TestHeldVerdictsAreBounded(t *testing.T) {
	hold := func(n int) (*Tracker, *wire) {
		tr := New(Config{Brief: true}, ignore)
		w := newWire()
		talks := make([]*talk, n)
		for i := range talks {
			talks[i] = newTalk(tr, w, i+1)
			talks[i].handshake()
			talks[i].exchange(get, ok)
		}
		w.now = w.now.Add(200 * time.Millisecond)
		for _, k := range talks {
			k.send(cli, psh, get)
			k.send(srv, rst|ack, nil)
		}
		newTalk(tr, w, n+1).send(cli, syn, nil)
		w.now = w.now.Add(lingerOdd)
		newTalk(tr, w, n+1).send(cli, syn, nil)
		return tr, w
	}
	tr, _ := hold(maxHeld + 500)
	if n := len(tr.held); n != maxHeld {
		t.Errorf("%d verdicts are held, want %d", n, maxHeld)
	}
	linear(t, 1000, func(n int) {
		tr, w := hold(1000)
		for i := range n {
			k := newTalk(tr, w, 2000+i)
			k.ends[srv] = client(1 << 20)
			k.handshake()
			k.exchange(get, ok)
			w.now = w.now.Add(60 * time.Millisecond)
			k.send(srv, fin, nil)
			k.send(cli, fin, nil)
			k.send(srv, ack, nil)
			w.now -= capture.Time(45 * time.Millisecond) // of the next one, meanwhile
		}
		if len(tr.held) != 1000 {
			t.Fatalf("%d verdicts are held, want 1000", len(tr.held))
		}
		tr.Finish()
	})
}
