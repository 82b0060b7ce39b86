package correlate

import (
	"encoding/binary"
	"time"

	"whyreset/capture"
)

// An upgrade follows a connection that has left HTTP: for WebSocket (RFC 6455)
// the frames of both directions, just enough to find the close frames and the
// pings; for everything else only when bytes were last seen.
type upgrade struct {
	protocol  string       // the token of the Upgrade field, in lower case; "connect" for a tunnel
	websocket bool         // its frames are followed
	last      capture.Time // the latest bytes in either direction, the switch itself before any
	before    capture.Time // the same, before the first close frame
	dir       [2]frames    // by half
}

// frames is one direction of a WebSocket connection.
type frames struct {
	lost  bool // where frames begin is not known any more
	count uint64
	head  [14 + maxControl]byte // of the frame that is being read, and the payload of a control frame
	n     int                   // how much of head there is
	pings int                   // sent and not answered yet by a pong
	ping  capture.Time          // when the first of those was
	close closeFrame
}

// A closeFrame is the first close frame of a direction (RFC 6455, section 5.5.1).
type closeFrame struct {
	seen       bool
	hasCode    bool
	code       uint16
	reason     string // as it was sent, at most 123 bytes
	start, end int64  // its bytes
	ack        int64  // what its segment acknowledged
	hasAck     bool
	time       capture.Time
	frame      uint64
	file       int32
}

// maxControl bounds the payload of a control frame (RFC 6455, section 5.5).
const maxControl = 125

// Opcodes (RFC 6455, section 5.2).
const (
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// upgradeTo makes c one that has left HTTP for the named protocol.
func (c *conn) upgradeTo(protocol []byte, at capture.Time) {
	c.upgraded = true
	u := &upgrade{last: at, protocol: string(lower(protocol[:min(len(protocol), 32)]))}
	c.up = u
	c.pass()
	if u.websocket = u.protocol == "websocket"; !u.websocket {
		return
	}
	for d := range c.half {
		c.half[d].state, c.half[d].left = inFrames, 0
	}
}

// lower returns a copy of b in lower case.
func lower(b []byte) []byte {
	l := make([]byte, len(b))
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		l[i] = c
	}
	return l
}

// beyond notes bytes of a connection that has left HTTP.
func (c *conn) beyond(d int, pc *piece) {
	u := c.up
	if u == nil {
		return
	}
	if !u.dir[0].closing() && !u.dir[1].closing() {
		u.before = u.last
	}
	u.last = max(u.last, pc.at.time)
	if h := &c.half[d]; h.state == inFrames && !u.dir[d].read(c, d, pc) {
		c.loseFrames(d)
	}
}

// closing reports whether the first close frame of this direction has begun.
func (f *frames) closing() bool { return f.close.seen || f.n > 0 && f.head[0]&15 == opClose }

// loseFrames gives up following the frames of direction d.
func (c *conn) loseFrames(d int) {
	c.half[d].state = passing
	if c.up != nil {
		c.up.dir[d].lost = true
	}
}

// read advances over a piece. It returns false when the bytes are not those of
// WebSocket frames, or too few of them were captured to tell.
func (f *frames) read(c *conn, d int, pc *piece) bool {
	h, from := &c.half[d], pc.off
	for pc.n > 0 {
		if h.left > 0 {
			k := min(h.left, int64(pc.n))
			pc.skip(int(k))
			h.left -= k
			continue
		}
		if len(pc.payload) == 0 {
			return false
		}
		if f.n == 0 {
			f.close.mark(pc)
		}
		f.head[f.n] = pc.payload[0]
		f.n++
		pc.skip(1)
		whole, ok := f.frame(c, d, pc)
		if !ok {
			return false
		}
		if whole {
			if f.close.seen && f.close.end == pc.off && f.close.start > from {
				c.up.before = pc.at.time // data came with it
			}
			f.n = 0
			f.count++
		}
	}
	return true
}

// mark notes where a frame begins, in case that it is the first close frame.
func (k *closeFrame) mark(pc *piece) {
	if !k.seen {
		k.start, k.ack, k.hasAck = pc.off, pc.at.ack, pc.at.hasAck
		k.time, k.frame, k.file = pc.at.time, pc.at.frame, pc.at.file
	}
}

// frame looks at what head holds of a frame: ok is false if it cannot be one;
// whole is true once all that is wanted of it was read. The payload of a data
// frame is then left to be passed over.
func (f *frames) frame(c *conn, d int, pc *piece) (whole, ok bool) {
	b := f.head[:f.n]
	opcode := b[0] & 15
	switch control := opcode >= 8; {
	case opcode > opPong || opcode > 2 && opcode < opClose, control && b[0]&0xf0 != 0x80:
		return false, false // RFC 6455, sections 5.2 and 5.5
	case f.n < 2:
		return false, true
	case (b[1]&0x80 != 0) != (d == int(c.client)): // clients mask, servers never do (section 5.1)
		return false, false
	}
	size, header := int64(b[1]&0x7f), 2
	switch size {
	case 126:
		header = 4
	case 127:
		header = 10
	}
	if opcode >= 8 && size > maxControl {
		return false, false
	}
	mask := header
	if b[1]&0x80 != 0 {
		header += 4
	}
	if f.n < header {
		return false, true
	}
	switch size {
	case 126:
		size = int64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		if b[2]&0x80 != 0 {
			return false, false
		}
		size = int64(binary.BigEndian.Uint64(b[2:]))
	}
	if opcode != opClose {
		c.half[d].left = size
		f.pingPong(c, d, opcode, pc.at.time)
		return true, true
	}
	if f.n < header+int(size) {
		return false, true
	}
	if k := &f.close; !k.seen {
		k.seen, k.end = true, pc.off
		payload := b[header:]
		if mask < header {
			for i := range payload {
				payload[i] ^= b[mask+i%4]
			}
		}
		if len(payload) >= 2 {
			k.hasCode, k.code, k.reason = true, binary.BigEndian.Uint16(payload), string(payload[2:])
		}
	}
	return true, true
}

// pingPong counts the pings that no pong has answered.
func (f *frames) pingPong(c *conn, d int, opcode byte, at capture.Time) {
	switch peer := &c.up.dir[1-d]; opcode {
	case opPing:
		if f.pings == 0 {
			f.ping = at
		}
		f.pings++
	case opPong:
		peer.pings = 0 // a pong answers all pings before it (section 5.5.3)
	}
}

// An Upgraded describes a connection that has left HTTP, and how it ended.
type Upgraded struct {
	Protocol string // "websocket", "connect" for a tunnel, or what else the Upgrade field said, in lower case
	// Idle is how long neither end had sent anything before the end: before the
	// first close frame where there is one, else before the close of TCP.
	Idle    time.Duration
	HasIdle bool
	// Close is the first WebSocket close frame; nil if there is none.
	Close *CloseFrame
	// Abnormal means that a WebSocket connection ended without any close frame,
	// which libraries report as code 1006.
	Abnormal bool
	// Followed is whether all frames of both directions were found; without that
	// the lack of a close frame means nothing.
	Followed bool
	// Pings is how many pings had not been answered by a pong when it ended, and
	// PingedBy who had sent them.
	Pings    int
	PingedBy Party
	// Tunnel is the idle time after which this server's, or its proxy's, upgraded
	// connections end, as far as several agree; nil if it is not known.
	Tunnel *Timer
}

// A CloseFrame is a WebSocket close frame (RFC 6455, section 5.5.1).
type CloseFrame struct {
	By       Party // who sent it first; BothParties if the two crossed
	Code     int   // 0 if it carries none, which libraries report as 1005
	Reason   string
	Frame    uint64
	Answered bool // the other end sent one in return
}

// CloseCodeName returns the name of a WebSocket close code (RFC 6455, section
// 7.4.1, and IANA's WebSocket Close Code Number Registry), or "".
func CloseCodeName(code int) string {
	if code >= 4000 && code <= 4999 {
		return "private use"
	}
	return closeCodes[code]
}

var closeCodes = map[int]string{
	1000: "normal closure",
	1001: "going away",
	1002: "protocol error",
	1003: "unsupported data",
	1005: "no status received",
	1006: "abnormal closure",
	1007: "invalid frame payload data",
	1008: "policy violation",
	1009: "message too big",
	1010: "mandatory extension",
	1011: "internal error",
	1012: "service restart",
	1013: "try again later",
	1014: "bad gateway",
	1015: "TLS handshake failure",
	3000: "unauthorized",
	3003: "forbidden",
	3008: "timeout",
}
