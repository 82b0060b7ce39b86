package correlate

import (
	"slices"
	"time"

	"whyreset/capture"
)

// Under TLS the messages of HTTP cannot be read, but the records that carry them
// can be counted and timed: every record begins with its type and length in
// clear (RFC 8446, section 5.1). A run of the client's application data is taken
// for a request, and the server's that follows for its response; each is taken
// for complete wherever a record ends. Nothing else is known of them, and the
// rules for TLS (rules_tls.go) say so.

// The types of records (RFC 8446, section 5.1; RFC 6520).
const (
	recordChangeCipherSpec = 20
	recordAlert            = 21
	recordHandshake        = 22
	recordData             = 23
	recordHeartbeat        = 24
)

const (
	recordHeader = 5
	// maxRecord is the longest ciphertext: 2^14 bytes and what encryption may add
	// to them (RFC 5246, section 6.2.3).
	maxRecord = 1<<14 + 2048
	version13 = 0x0304
)

// A tlsConn is what the records of a connection show. It is allocated for
// connections that speak TLS only, and not written to once they are judged.
type tlsConn struct {
	hello         hello // the client's
	choice        hello // the server's
	half          [2]tlsHalf
	whole         bool         // its records were followed from the first on
	established   bool         // the handshake is over
	at            capture.Time // when it was
	http2         bool         // the messages are those of HTTP/2
	broken        int          // number of the request whose beginning is not certain, as behind lost records; 0 if none
	other         bool         // its port is one of other protocols
	foreign       bool         // the data does not alternate as HTTP/1 does
	refused       closing      // an alert that ended the handshake; its kind is NoClose if there was none
	refusal       uint8        // what it says; 0 if that is encrypted
	by            Party        // who sent it
	certificate   bool         // the client sent more than its Finished: it was asked for a certificate
	base          int64        // behind the server's last record that is part of no response
	early         int          // the client's encrypted records in the handshake
	pushes        int          // how often the server spoke up without having been asked
	flight        [3]int       // lengths of the server's last records before the client's Finished
	firstLen      int          // of the server's first record of application data
	firstTime     capture.Time // when it came
	merged        bool         // the first request went on behind what may be a session ticket, or be its response
	twins         bool         // the second is as long, and records of the client's came between them
	hurried       int          // requests that came at once behind a response, and were answered
	run, tail     int          // how many records the client's latest request has, and how long the last one is; 0 if that is not known
	likeRest      int          // number of the request that goes on in records as long as those of the one before; 0 if none
	scrap         scrap        // what the client sent since the last response, if that is too short for a request
	full          bool         // the latest record of a response is as long as they come
	second        second       // where another request may have begun behind an early answer
	answer        int          // how long the latest response may be
	replies       int          // the server's records of application data
	ticketLen     int          // of the records of session tickets that came before any request, or in a row; 0 if none did
	ticketTime    capture.Time // when the latest of them came
	doubtful      bool         // the first of them may be a session ticket
	maybeTicket   bool         // the only one of them is as long as a session ticket of this server
	perhapsTicket bool         // it may be one, since how long they are is not known
}

// A tlsHalf is one direction of a TLS connection.
type tlsHalf struct {
	header   [recordHeader]byte
	nheader  uint8
	role     recordRole
	cipher   bool // its ChangeCipherSpec was seen
	read     bool // its hello was read, or cannot be
	torn     bool // records were lost since the other end last spoke
	blind    bool // where its latest record ends is not known, see passRecords
	records  int  // of application data
	at       stamp
	off      int64
	length   int
	pad      int // how much longer its records are than they need be, see finished
	padKnown bool
	message  []byte  // of a handshake, as far as it has come
	notify   closing // its close_notify, if that is the last that it sent
}

// A recordRole says what a record is to the connection.
type recordRole uint8

const (
	roleNone    recordRole = iota // nothing that is followed
	roleHello                     // handshake in clear
	roleAlert                     // an alert in clear
	roleClosing                   // as long as an encrypted alert
	roleData                      // application data
)

// beginTLS begins to follow records where pc does. whole says that they are the
// first of the connection.
func (c *conn) beginTLS(whole bool) {
	c.protocol = tls
	c.tls = &tlsConn{whole: whole, established: !whole}
	c.tls.other = otherTLS[c.ep[1-c.clientSide()].Port]
	for d := range c.half {
		c.half[d].state = recordStart
		if !whole {
			c.half[d].state = lost
		}
		c.half[d].buf = c.half[d].buf[:0]
	}
	if c.client < 0 {
		c.client = int8(c.clientSide())
	}
}

// likeRecord reports whether b begins like a record, and, as far as b goes, like
// another one behind it.
func likeRecord(b []byte) bool {
	for first := true; ; first = false {
		if len(b) < recordHeader {
			return !first
		}
		n := int(b[3])<<8 | int(b[4])
		if b[0] < recordChangeCipherSpec || b[0] > recordData || b[1] != 3 || b[2] > 4 || n == 0 || n > maxRecord {
			return false
		}
		if b[0] == recordChangeCipherSpec && n > 1 || b[0] == recordAlert && n > 64 {
			return false
		}
		if len(b) <= recordHeader+n {
			return true
		}
		b = b[recordHeader+n:]
	}
}

// records advances the framing of direction d over pc. It returns false once pc
// is used up, or of no use.
func (c *conn) records(t *Tracker, d int, pc *piece) bool {
	h, th := &c.half[d], &c.tls.half[d]
	switch h.state {
	case inRecords:
		if !likeRecord(pc.payload) {
			if !c.passRecords(t, d, pc) {
				c.loseRecords(t, d, pc, missingHead)
			}
			return false
		}
		h.state = recordStart
	case inRecord:
		k := int(min(h.left, int64(pc.n)))
		th.take(t, pc.payload[:min(k, len(pc.payload))], k)
		pc.skip(k)
		h.left -= int64(k)
		c.recordGrows(d, pc)
		if h.left == 0 {
			h.state = recordStart
			c.recordEnds(t, d, pc)
		}
		return pc.n > 0
	}
	if th.nheader == 0 {
		th.at, th.off = pc.at, pc.off
	}
	for th.nheader < recordHeader && len(pc.payload) > 0 {
		th.header[th.nheader] = pc.payload[0]
		th.nheader++
		pc.skip(1)
	}
	if th.nheader < recordHeader {
		if pc.n > 0 && !c.passRecords(t, d, pc) {
			c.loseRecords(t, d, pc, missingHead)
		}
		return false
	}
	th.nheader = 0
	b := &th.header
	n := int(b[3])<<8 | int(b[4])
	if b[0] < recordChangeCipherSpec || b[0] > recordHeartbeat || b[1] != 3 || n > maxRecord {
		if th.off != 1 || d == int(c.client) || !c.answeredInClear(b[:], &th.at) {
			c.loseRecords(t, d, pc, missingSync)
		}
		return false
	}
	th.length = n
	h.left, h.state = int64(n), inRecord
	c.recordBegins(t, d)
	if n == 0 {
		h.state = recordStart
		c.recordEnds(t, d, pc)
	}
	return pc.n > 0
}

// take keeps b, the captured part of n bytes of a record, if it is to be read.
func (th *tlsHalf) take(t *Tracker, b []byte, n int) {
	if th.role != roleHello && th.role != roleAlert || th.read && th.role == roleHello {
		return
	}
	if len(b) < n || len(th.message)+n > maxHello || t.stored+n > maxStored {
		th.read = true
		th.drop(t)
		return
	}
	before := cap(th.message)
	th.message = append(th.message, b...)
	t.stored += cap(th.message) - before
}

// drop lets go of what take kept.
func (th *tlsHalf) drop(t *Tracker) {
	t.stored -= cap(th.message)
	th.message = nil
}

// loseRecords gives up the records of direction d until one is recognised at the
// beginning of a segment.
func (c *conn) loseRecords(t *Tracker, d int, pc *piece, why missing) {
	c.tls.half[d].nheader = 0
	c.tls.half[d].read = true
	c.tls.half[d].drop(t)
	c.tls.established = true // or never will be, as far as can be told
	c.tls.whole = false
	c.tls.half[d].torn = true
	c.tls.answer += minHead // what is lost may be of it
	if d == int(c.client) {
		c.tls.tail = 0
	}
	c.tls.half[d].notify = closing{}
	c.loseSync(d, why)
	if n := len(c.queue); n > 0 {
		r := c.queue[n-1]
		if d == int(c.client) {
			r.framed = false
		} else {
			r.resp.framed = false
		}
	}
	c.unframed(d, pc)
}

// recordBegins says what the record is whose header was read, and opens the
// message that it belongs to.
func (c *conn) recordBegins(t *Tracker, d int) {
	x, th := c.tls, &c.tls.half[d]
	client := d == int(c.client)
	th.role, th.blind = roleNone, false
	switch th.header[0] {
	case recordChangeCipherSpec:
		th.cipher = true
		x.foreign = x.foreign || !x.whole // where the handshake ends is not known
	case recordAlert:
		th.role = roleClosing
		if th.length == 2 && !x.established {
			th.role = roleAlert
		}
		th.drop(t)
	case recordHandshake:
		x.foreign = x.foreign || !x.whole
		if th.cipher && x.choice.version != version13 {
			// Encrypted: the Finished, as a rule, and the server's is the last of a
			// full handshake, the client's of one that resumes.
			if x.half[1-d].cipher && !x.established {
				x.established, x.at = true, th.at.time
			}
			return
		}
		th.role = roleHello
	case recordData:
		th.role = c.dataRole(t, client, th)
		if th.role == roleClosing {
			c.noNotify(d)
		}
	}
	switch {
	case th.role != roleData:
	case client && !c.recordOfRequest(t, th), !client && !c.recordOfResponse(t, th):
		th.role = roleNone
	}
	if th.role == roleData {
		th.notify = closing{}
	}
}

// finishedServer takes in how the server's part of the handshake ended. Its records may
// be padded, as others of its connections showed, and Go sends its session ticket right
// behind its Finished.
func (c *conn) finishedServer(t *Tracker) {
	x, s := c.tls, t.serverOf(c)
	th := &x.half[1-c.client]
	last := x.flight[0]
	switch {
	case x.finished(th, last):
		s.pads = th.pad > 0
	case last >= minTicket && last <= maxTicket && slices.Contains(x.flight[1:], x.finishedRecord()):
		th.padKnown = true
		s.ticket, x.ticketLen = last, allTickets
	case s.pads:
		th.pad, th.padKnown = jssePad, true
	}
}

// noNotify takes what was as long as a close_notify for a part of the response, since
// its sender goes on.
func (c *conn) noNotify(d int) {
	k, n := &c.tls.half[d].notify, len(c.queue)
	if d == int(c.client) || !k.seen() || n == 0 || !c.queue[n-1].resp.began || c.tls.canceled(&c.tls.half[d]) {
		return
	}
	c.tls.goesOn(k.ack)
	r := &c.queue[n-1].resp
	r.end, r.lastTime = c.tls.half[d].off, k.time
	if r.complete {
		c.respTime, c.respEnd = k.time, r.end
	}
}

// canceled takes in the close_notify behind a user_canceled: its sender had decided to
// close by the first, and the other end knows of it with the second.
func (c *conn) canceled(t *Tracker, th *tlsHalf) {
	th.notify.off = th.off
	th.pad, th.padKnown = jssePad, true
	if th == &c.tls.half[c.client] {
		return
	}
	t.serverOf(c).pads = true
	if len(c.queue) == 0 {
		return
	}
	c.tls.base = th.off
	if r := c.queue[len(c.queue)-1]; !r.resp.began {
		r.base = th.off
	}
	if c.respEnd > 0 {
		c.respEnd = th.off
	}
}

// dataRole tells application data from the encrypted part of a handshake, which
// TLS 1.3 sends in records of the same type, and from alerts.
func (c *conn) dataRole(t *Tracker, client bool, th *tlsHalf) recordRole {
	x := c.tls
	if !x.established {
		switch {
		case x.choice.version != 0 && x.choice.version != version13:
			// No data comes before the handshake is over, but its end may not have
			// been captured.
			x.established, x.at = true, th.at.time
		case x.choice.version == 0:
			x.foreign = true // early data (RFC 8446, section 2.3)
			return roleNone
		case th.length-th.pad == x.alertRecord():
			p := Server
			if client {
				p = Client
			}
			x.refuse(p, 0, th)
			return roleNone
		case client:
			if x.early++; x.early == 1 {
				c.finishedServer(t)
			}
			if x.finished(th, th.length) {
				x.established, x.at = true, th.at.time
			} else {
				x.certificate = true
			}
			return roleNone
		case x.early == 0:
			copy(x.flight[1:], x.flight[:])
			x.flight[0] = th.length
			return roleNone
		case !th.at.hasAck || !x.certificate:
			return roleNone
		default:
			// It answers what the client sent: that was all of its handshake.
			x.established, x.at = true, th.at.time
		}
	}
	if x.choice.version == version13 || x.choice.version == 0 {
		if x.alertLike(th) {
			return roleClosing
		}
	}
	return roleData
}

// refuse notes an alert of p's that ends the handshake.
func (x *tlsConn) refuse(p Party, says uint8, th *tlsHalf) {
	if x.refused.seen() {
		return
	}
	x.refused = closing{kind: FINClose, notify: true, hasAck: th.at.hasAck, off: th.off, ack: th.at.ack, time: th.at.time, frame: th.at.frame, file: th.at.file}
	x.refusal, x.by = says, p
}

// recordGrows notes that the record of direction d reaches up to where pc begins.
func (c *conn) recordGrows(d int, pc *piece) {
	if c.tls.half[d].role != roleData {
		return
	}
	r := c.queue[len(c.queue)-1]
	if d == int(c.client) {
		r.end, r.complete = pc.off, false
		return
	}
	r.resp.end, r.resp.lastTime, r.resp.complete = pc.off, pc.at.time, false
}

// recordEnds takes in a whole record.
func (c *conn) recordEnds(t *Tracker, d int, pc *piece) {
	x, th := c.tls, &c.tls.half[d]
	client := d == int(c.client)
	switch th.role {
	case roleHello:
		c.readHello(t, d)
	case roleAlert:
		if len(th.message) == 2 && th.message[1] != alertCloseNotify {
			p := Server
			if client {
				p = Client
			}
			x.refuse(p, th.message[1], th)
			if th.message[0] == alertWarning {
				x.refused = closing{}
			}
		}
		th.drop(t)
	case roleClosing:
		if x.canceled(th) {
			c.canceled(t, th)
			break
		}
		th.notify = closing{kind: FINClose, notify: true, hasAck: th.at.hasAck, resent: th.at.resent, off: th.off, ack: th.at.ack, heard: c.half[1-d].lastData,
			time: th.at.time, frame: th.at.frame, file: th.at.file}
	case roleData:
		r := c.dataEnds(t, d, pc)
		if !client {
			c.withoutTickets(t, r, th, pc)
		}
	default:
		if client {
			break
		}
		x.base = pc.off
		c.ticketEnds(t, th)
		if n := len(c.queue); n > 0 && !c.queue[n-1].resp.began {
			c.queue[n-1].base = x.base
		}
	}
}

// dataEnds takes the message of direction d for complete where pc begins.
func (c *conn) dataEnds(t *Tracker, d int, pc *piece) *request {
	r := c.queue[len(c.queue)-1]
	if d == int(c.client) {
		r.complete = true
		return r
	}
	if !r.resp.complete && c.respEnd <= r.resp.start {
		c.responses++
		if r.hasIdle && r.number > 1 {
			t.answeredAfter(c, r.idle)
		}
	}
	r.resp.complete = true
	c.respTime, c.respEnd = pc.at.time, pc.off
	return r
}

// isHTTP2 gives up the requests of a connection that turns out to carry HTTP/2.
func (c *conn) isHTTP2() {
	c.tls.http2 = true
	c.requests, c.responses, c.respTime, c.respEnd = 0, 0, 0, 0
}

// alternates reports whether what the records show fits requests and responses
// of HTTP/1, each after the other.
func (x *tlsConn) alternates() bool {
	return x.established && !x.http2 && !x.foreign && x.pushes < 2 && (!x.other || x.hello.offers1) && !x.tooShort()
}

// otherTLS are the ports on which TLS carries something other than HTTP (IANA's
// registry of services): mail, news, directories, DNS, logs, telephony, queues,
// chat, push services.
var otherTLS = map[uint16]bool{
	465: true, 563: true, 587: true, 636: true, 853: true, 989: true, 990: true, 992: true, 993: true, 994: true, 995: true,
	3269: true, 5061: true, 5223: true, 5228: true, 5349: true, 5671: true, 6514: true, 6679: true, 6697: true, 8883: true,
}

// resumeRecords looks for a record at the beginning of pc, where framing was lost.
func (c *conn) resumeRecords(d int, pc *piece) bool {
	if !likeRecord(pc.payload) {
		c.unframed(d, pc)
		return false
	}
	c.half[d].state = recordStart
	return true
}

// holeInRecord passes over n bytes of direction d that were not captured, if they
// lie inside one record.
func (c *conn) holeInRecord(t *Tracker, d int, n int64) bool {
	h := &c.half[d]
	if n > h.left {
		return false
	}
	c.tls.half[d].take(t, nil, int(n))
	h.left -= n
	pc := &piece{off: h.next + n, at: stamp{time: c.last}}
	c.recordGrows(d, pc)
	if h.left == 0 {
		h.state = recordStart
		c.recordEnds(t, d, pc)
	}
	return true
}

// closeNotify returns the close_notify that ended what half d sent. In TLS 1.3 only
// its length tells it from data of two bytes, as are the end of a chunk or a short
// body that is sent by itself: it counts if its sender closed right behind it, or its
// receiver did when it had it, and soon.
func (c *conn) closeNotify(d int) closing {
	k := c.tls.half[d].notify
	if !k.seen() {
		return closing{}
	}
	h, p := &c.half[d], &c.half[1-d]
	certain := c.tls.half[d].header[0] == recordAlert
	behind := func(x *closing, wait time.Duration) bool { return x.seen() && x.time.Sub(k.time) < wait }
	if !certain && !behind(&h.fin, moment) && !behind(&h.rst, moment) && !(behind(&p.fin, notifyWait) && p.fin.ack > k.off) {
		return closing{}
	}
	if h.fin.seen() && h.fin.off < k.off || h.rst.seen() && h.rst.off < k.off {
		return closing{}
	}
	return k
}

// notifyWait is less than most idle timers, and longer than a FIN takes that comes in
// answer to a close_notify.
const notifyWait = time.Second
