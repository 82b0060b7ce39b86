package correlate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"whyreset/capture"
)

const (
	fin = capture.FIN | capture.ACK
	syn = capture.SYN
	rst = capture.RST
	ack = capture.ACK
	psh = capture.PSH | capture.ACK
)

// The halves of a talk.
const (
	cli = 0
	srv = 1
)

// A talk makes the segments of one connection and gives them to a tracker. What
// they acknowledge is all that the other end has sent; whoever wants segments to
// cross changes seg before add. It allocates nothing, so that what a test counts
// is the tracker's.
type talk struct {
	t    *Tracker
	ends [2]capture.Endpoint
	nxt  [2]uint32 // next sequence number
	wire *wire
	seg  capture.Segment
}

// A wire is the clock and the frame counter that several talks share.
type wire struct {
	now    capture.Time
	frame  uint64
	frames int // packets added
}

var epoch = capture.Time(time.Date(2026, 11, 2, 14, 2, 5, 0, time.UTC).UnixNano())

func newWire() *wire { return &wire{now: epoch} }

var (
	theServer = capture.EndpointFrom(netip.MustParseAddrPort("10.0.0.2:80"))
	client0   = capture.EndpointFrom(netip.MustParseAddrPort("10.1.0.0:1024"))
)

// client returns one of 2^30 clients.
func client(n int) capture.Endpoint {
	e := client0
	e.Addr[13] += byte(n >> 24)
	e.Addr[14], e.Addr[15] = byte(n>>16), byte(n>>8)
	e.Port += uint16(n & 0xff)
	return e
}

// newTalk returns a connection of client number n, from 1, with the server.
func newTalk(t *Tracker, w *wire, n int) *talk {
	k := &talk{t: t, wire: w}
	k.begin(n)
	return k
}

// begin makes k another connection, which has sent nothing yet.
func (k *talk) begin(n int) {
	k.ends = [2]capture.Endpoint{client(n), theServer}
	k.nxt = [2]uint32{1000, 5000}
}

// make fills in the next segment of half d, a millisecond after the last.
func (k *talk) make(d int, flags capture.Flags, payload []byte) *capture.Segment {
	k.wire.now = k.wire.now.Add(time.Millisecond)
	k.wire.frame++
	k.seg = capture.Segment{
		Time: k.wire.now, Src: k.ends[d], Dst: k.ends[1-d], Seq: k.nxt[d], Ack: k.nxt[1-d], Flags: flags,
		TTL: 64, Window: 500, WScale: -1, Len: len(payload), Payload: payload, Frame: k.wire.frame,
	}
	return &k.seg
}

// add gives the segment that was made to the tracker.
func (k *talk) add() {
	d := cli
	if k.seg.Src != k.ends[cli] {
		d = srv
	}
	past := k.seg.Seq + uint32(k.seg.Len)
	if k.seg.Flags&(capture.SYN|capture.FIN) != 0 {
		past++
	}
	if k.seg.Flags&capture.RST == 0 && int32(past-k.nxt[d]) > 0 {
		k.nxt[d] = past
	}
	k.wire.frames++
	k.t.Add(&k.seg)
}

func (k *talk) send(d int, flags capture.Flags, payload []byte) {
	k.make(d, flags, payload)
	k.add()
}

func (k *talk) handshake() {
	k.send(cli, syn, nil)
	k.send(srv, syn|ack, nil)
	k.send(cli, ack, nil)
}

// bye closes the connection from the client's side.
func (k *talk) bye() {
	k.send(cli, fin, nil)
	k.send(srv, fin, nil)
	k.send(cli, ack, nil)
}

// sendCut sends payload in segments of at most size bytes.
func (k *talk) sendCut(d int, payload []byte, size int) {
	for part := range slices.Chunk(payload, size) {
		k.send(d, psh, part)
	}
}

// exchange is a request and its response, whole, and the client's ACK.
func (k *talk) exchange(request, response []byte) {
	k.send(cli, psh, request)
	k.send(srv, psh, response)
	k.send(cli, ack, nil)
}

var (
	get     = []byte("GET /a?b=c HTTP/1.1\r\nHost: example.com\r\nUser-Agent: test/1.0\r\nAccept: */*\r\n\r\n")
	post    = []byte("POST /orders HTTP/1.1\r\nHost: example.com\r\nContent-Length: 11\r\n\r\nhello world")
	chunky  = []byte("POST /up HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n")
	ok      = []byte("HTTP/1.1 200 OK\r\nServer: nginx/1.25\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")
	nothing = []byte("HTTP/1.1 204 No Content\r\nServer: nginx\r\n\r\n")
	chunked = []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: t\r\n\r\n")
)

// body returns a response with n bytes of content.
func body(n int) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", n, strings.Repeat("x", n))
}

// track returns a tracker that fails t with every finding it does not expect.
func track(t testing.TB, cfg Config) *Tracker {
	return New(cfg, func(f *Finding) {
		t.Errorf("unexpected finding: %s of connection %d %+v %+v", f.Verdict, f.Connection.ID, f.Request, f.Evidence)
	})
}

// framedWhole fails t unless every request and response of the only connection
// was framed: a test of speed or memory must not measure a tracker that gave up.
func framedWhole(t testing.TB, tr *Tracker, requests int) {
	t.Helper()
	for _, c := range tr.all {
		if c.missing != 0 || c.untracked || int(c.requests) != requests || int(c.responses) != requests {
			t.Fatalf("connection %d: %d requests and %d responses, want %d; missing %b, untracked %v", c.id, c.requests, c.responses, requests, c.missing, c.untracked)
		}
	}
}
