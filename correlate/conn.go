package correlate

import (
	"time"

	"whyreset/capture"
)

// A conn is one TCP connection: what each end sent, acknowledged and closed, in
// the order of sequence numbers and not of capture.
//
// Offsets are relative sequence numbers as Wireshark shows them: 0 is the SYN,
// 1 the first byte; they are 64 bits wide and do not wrap.
type conn struct {
	hash     uint32
	state    connState
	client   int8 // which half the client is; -1 while that is not known
	speaking int8 // the half that delivered data last; -1 before any
	protocol protocol

	startBare   bool // its first packet here is an acknowledgement, maybe that of its handshake
	startSeen   bool // a SYN or SYN-ACK of its handshake was captured
	accounted   bool // every client byte up to now was framed as a request, and every request was answered or is queued
	upgraded    bool // 101 or a successful CONNECT: what follows is not HTTP
	ackSeen     bool // the ACK that ends the handshake was captured
	announced   bool // a message said that the connection closes after it
	expecting   bool // the client may wait for 100 (Continue) before it sends content
	gone        bool // an end has closed
	resetSeen   bool // a RST was: only then is there a half.reset
	untracked   bool // requests were answered that could not be framed
	kept        bool // it comes from a recorder, which leaves out what is inside bursts
	missing     missing
	pendingFrom int8   // the half that sent pendingSYN, -1 if there is none
	agent       uint16 // which program the client is, a number of Tracker.agents; 0: not known
	waited      uint16
	opening     opening

	file       int32  // of the last segment
	pendingSYN uint32 // sequence number of a SYN that met this connection while it was open
	preface    int32  // bytes of a PROXY protocol header before the first request
	current    int32  // index in queue of the request whose response is being read; -1: none; -2: unasked
	rtt        rtt    // the least time that the server took to acknowledge data, as seen here
	firstOpen  int32  // how many requests at the head of queue have their whole response

	id    uint64
	ep    [2]capture.Endpoint
	half  [2]half
	start capture.Time
	last  capture.Time
	ended capture.Time // when it ended; 0 while it has not
	place int64        // its place in the tracker's order of findings; 0: none

	synTime, synAckTime, openTime capture.Time // first SYN, SYN-ACK, and the ACK of the latter; 0 if not seen
	pendingTime                   capture.Time // of pendingSYN

	requests  int32
	responses int32
	queue     []*request // without a complete and acknowledged response, oldest first; the last of them is the latest
	answered  *request   // the last request that left the queue; nil if none has
	unasked   *response  // a response that no request had asked for; nil if there was none

	respTime capture.Time // last byte of the last complete response
	respEnd  int64        // its end
	server   *server      // what is known of the server's timers
	tls      *tlsConn     // nil if it does not speak TLS
	mismatch *mismatch    // nil if each end understood the other
	up       *upgrade     // what followed HTTP; nil unless upgraded
}

type connState uint8

const (
	free connState = iota
	open
	ending // ended, and waiting for what may follow
)

type protocol uint8

const (
	undecided protocol = iota
	http1
	tls
	h2c
	opaque
)

func (p protocol) String() string {
	return [...]string{"", "http/1.1", "tls", "h2c", "opaque"}[p]
}

// missing says what the capture lacks of a connection, as a set.
type missing uint8

const (
	missingStart   missing = 1 << iota // it began before the capture
	missingBytes                       // bytes that the receiver acknowledged were not captured
	missingHead                        // header sections were cut off by the snap length
	missingSync                        // the messages could not be told apart
	missingContent                     // bytes inside a body whose length is known were not captured
)

// A closing is a FIN or a RST as it was first seen.
type closing struct {
	kind   CloseKind
	notify bool // it is TLS's close_notify, which comes before the FIN
	hasAck bool
	resent bool // its first copy was not captured, and may have acknowledged less
	file   int32
	off    int64        // its sequence number
	heard  capture.Time // of the other end's latest data until then
	ack    int64        // the least it acknowledged over all copies: Linux rewrites it when it retransmits
	time   capture.Time
	frame  uint64
}

func (k *closing) seen() bool { return k.kind != NoClose }

// ends tell how one direction of a connection was closed. Most connections that
// are open have none of it, so they share one, notClosed, until they do.
type ends struct {
	fin     closing     // the first FIN
	rst     closing     // the first RST with an acknowledgement
	reply   [4]replyRST // the first RSTs without
	nreply  uint8
	ignored int         // RSTs that the peer had to ignore
	reset   *resetTrace // how the first RST looked; nil if there was none
}

// notClosed is never written to.
var notClosed ends

// closings returns h's ends for writing.
func (h *half) closings(t *Tracker) *ends {
	if h.ends != &notClosed {
		return h.ends
	}
	if n := len(t.ends); n > 0 {
		h.ends, t.ends = t.ends[n-1], t.ends[:n-1]
		*h.ends = ends{}
	} else {
		h.ends = new(ends)
	}
	return h.ends
}

// A half is one direction of a connection.
type half struct {
	*ends
	based   bool // base is known
	ackSeen bool // ack is known
	fresh   bool // the peer spoke since this half last did
	state   parseState
	nsig    uint8
	header  ipHeader
	probes  uint8  // its keep-alive probes since the other end was last heard
	resends uint8  // how often it sent the first byte again that the other end lacks
	base    uint32 // the sequence number of offset 0
	packets uint32 // saturates; 0 says that this direction was never seen

	next    int64        // offset of the next byte to be framed
	end     int64        // offset behind the last byte seen
	top     int64        // the highest offset that a segment bore or reached, with or without data
	topTime capture.Time // when it first did
	ack     int64        // the highest offset of the peer that it acknowledged
	ackTime capture.Time // when it did

	lastData capture.Time
	last     capture.Time // its latest segment other than a RST

	left    int64 // bytes left of the body or of the chunk
	scanned int   // how much of buf has been searched for the end of the head
	buf     []byte
	bufAt   stamp // where buf begins
	bufOff  int64
	pend    []piece
	sigs    [3]signature // of the latest data segments
}

type replyRST struct {
	off   int64
	ttl   uint8
	taken bool  // the other end had to accept it
	again uint8 // how many more there were with the same number
	time  capture.Time
	frame uint64
	file  int32
}

// A signature recognises the same packet when it is captured again on its way.
type signature struct {
	id   uint64 // sequence number, IP identification, length
	time capture.Time
}

func sign(s *capture.Segment) signature {
	return signature{uint64(s.Seq)<<32 | uint64(s.IPID)<<16 | uint64(uint16(s.Len)), s.Time}
}

// A stamp says where bytes were seen, and what their segment acknowledged.
type stamp struct {
	time   capture.Time
	frame  uint64
	file   int32
	hasAck bool
	resent bool // later bytes had been sent long before: this is not the first copy
	ack    int64
}

// A piece is a run of one direction's bytes that cannot be framed yet.
type piece struct {
	off     int64
	n       int
	payload []byte // the captured part, owned
	tail    []byte // how it ends, where the captured part does not reach that far
	interim bool   // interim responses that were not kept
	at      stamp
}

// A request is a request message and what became of it.
type request struct {
	number           int
	start, end       int64 // its bytes; end is the last one known while it is not complete
	base             int64 // behind the last interim response to it; 0 if there was none
	complete         bool  // sent whole
	framed           bool  // its head was read, so that complete means something
	headEnded        bool  // the end of its head was sent
	head             bool  // HEAD: no body in the response
	connect          bool
	refused          bool // its content was refused (Expect: 100-continue) and never sent
	close            bool // Connection: close
	hasIdle          bool
	resent           bool  // its first copy was not captured, and may have acknowledged less
	retrans          int32 // how often its first byte was sent again
	nacks            uint8
	ack              int64    // the least that the segment with its first byte acknowledged
	acks             [4]int64 // what its segments acknowledged
	time, lastTime   capture.Time
	frame            uint64
	file             int32
	idle             time.Duration
	text             []byte // method, target, host, one after the other
	nmethod, ntarget uint16
	key              uint32  // see requestKey; 0 while its head is not whole
	usual            uint32  // mean interval of the requests like it before, in usualUnit; 0 if there were none
	tracks           *tracks // nil unless it was lost, or repeats one that was
	resp             response
}

func (r *request) method() string { return string(r.text[:r.nmethod]) }
func (r *request) target() string { return string(r.text[r.nmethod : r.nmethod+r.ntarget]) }
func (r *request) host() string   { return string(r.text[r.nmethod+r.ntarget:]) }

// acknowledged notes what one of the request's segments acknowledged: a reply
// RST to that segment will bear it as its sequence number.
func (r *request) acknowledged(ack int64) {
	for _, a := range r.acks[:r.nacks] {
		if a == ack {
			return
		}
	}
	if int(r.nacks) < len(r.acks) {
		r.acks[r.nacks] = ack
		r.nacks++
	}
}

// A response is a final response message.
type response struct {
	began, complete bool
	framed          bool // complete means something
	untilClose      bool // its body ends where the connection is closed
	impliedClose    bool // and only the lack of a length says so
	close           bool // it announces the end of the connection
	hasAck          bool
	status          int
	start, end      int64
	ack             int64 // what its first segment acknowledged
	frame           uint64
	file            int32
	time, lastTime  capture.Time
}

// reset makes c ready for another connection, keeping its small buffers.
func (c *conn) reset() {
	q := c.queue[:0]
	*c = conn{} // and then field by field: a literal is built elsewhere and copied
	c.client, c.speaking, c.pendingFrom, c.current, c.queue = -1, -1, -1, -1, q
	c.half[0].ends, c.half[1].ends = &notClosed, &notClosed
}

// rel returns the offset of seq, on whichever side of h.next is nearer.
func (h *half) rel(seq uint32) int64 {
	return h.next + int64(int32(seq-(h.base+uint32(h.next))))
}

// setBase fixes offset 0. Where the SYN was not seen, the first byte seen is
// byte 1, as in Wireshark.
func (h *half) setBase(base uint32) {
	h.based = true
	h.base = base
	h.next, h.end = 1, 1
}

// upTo is the offset behind everything that h is known to have sent,
// its FIN included.
func (h *half) upTo() int64 {
	if h.fin.seen() {
		return max(h.end, h.fin.off+1)
	}
	return h.end
}

// reached reports whether everything that ack covers was framed.
func (h *half) reached(ack int64) bool {
	return ack <= h.next || (h.fin.seen() && ack <= h.fin.off+1 && h.next >= h.fin.off)
}
