package correlate

import "bytes"

// A parseState says what the next byte of a direction belongs to.
type parseState uint8

const (
	atStart     parseState = iota // a message, or the empty line before one
	inHead                        // a start line or header field
	inBody                        // half.left bytes of content
	chunkSize                     // a chunk-size line
	inChunk                       // half.left bytes of a chunk
	chunkBreak                    // the line break behind a chunk
	inTrailer                     // trailer fields
	untilClose                    // content that ends with the connection
	inChunks                      // chunked content whose chunks were not kept: only its end can be seen
	recordStart                   // the header of a TLS record
	inRecord                      // half.left bytes of a TLS record
	inRecords                     // TLS records that were not kept: the next is looked for at each segment
	passing                       // nothing that is framed here: upgraded, tunnelled, not HTTP
	inFrames                      // WebSocket frames; half.left bytes of one are to be passed over
	lost                          // unknown: the start of a message is looked for at each segment
)

// maxChunkLine bounds a chunk-size line with its extensions.
const maxChunkLine = 16 << 10

// frame advances the framing of direction d over a piece that begins at
// half.next. Bytes that were not captured pass if their framing is known.
func (c *conn) frame(t *Tracker, d int, pc *piece) {
	h := &c.half[d]
	if pc.interim && h.state == atStart {
		return
	}
	if c.expecting && d == int(c.client) {
		c.expecting = false
		c.expectation(h, pc.payload)
	}
	for whole := true; pc.n > 0; whole = false {
		if h.state == lost && !whole {
			// Only at the start of a segment can a message be told from content.
			c.unframed(d, pc)
			return
		}
		switch h.state {
		case inBody, inChunk:
			k := min(h.left, int64(pc.n))
			c.watchAnswer(d, pc, int(k))
			pc.skip(int(k))
			h.left -= k
			h.extend(c, d, pc)
			if h.left > 0 {
				return
			}
			if h.state == inChunk {
				h.state = chunkBreak
				continue
			}
			c.messageEnd(t, d, pc)
		case untilClose:
			c.watchAnswer(d, pc, pc.n)
			pc.skip(pc.n)
			h.extend(c, d, pc)
		case inChunks:
			c.passChunks(t, d, pc)
			return
		case recordStart, inRecord, inRecords:
			if !c.records(t, d, pc) {
				return
			}
		case passing, inFrames:
			c.beyond(d, pc)
			return
		case chunkSize, chunkBreak, inTrailer:
			if !c.line(t, d, pc) {
				return
			}
		case atStart, lost:
			if h.state == atStart && c.wholeHead(t, d, pc) {
				continue
			}
			if !c.begin(t, d, pc) {
				return
			}
		case inHead:
			if !c.continueHead(t, d, pc) {
				return
			}
		}
	}
}

// wholeHead is the common case of begin and continueHead: the piece begins with a
// message and holds all of its head. It returns false, and does nothing, if not.
func (c *conn) wholeHead(t *Tracker, d int, pc *piece) bool {
	h := &c.half[d]
	if len(h.buf) > 0 || c.client < 0 || len(pc.payload) == 0 || !isTChar[pc.payload[0]] {
		return false
	}
	var hd head
	request := d == int(c.client)
	hd.who = t.wantsWho(c, request)
	k := parseHead(pc.payload, request, &hd)
	if k == 0 || !hd.http1 {
		return false
	}
	c.protocol = http1
	h.fresh = false
	if request {
		c.beginRequest(t, pc.off, &pc.at)
	} else {
		c.beginResponse(t, pc.off, &pc.at)
	}
	pc.skip(k)
	h.extend(c, d, pc)
	if request {
		c.requestHead(t, d, &hd, pc)
	} else {
		c.responseHead(t, d, &hd, pc)
	}
	return true
}

// skip moves the piece's beginning n bytes on.
func (pc *piece) skip(n int) {
	pc.off += int64(n)
	pc.n -= n
	pc.payload = pc.payload[min(n, len(pc.payload)):]
}

// extend notes that the message of direction d reaches up to where pc begins.
func (h *half) extend(c *conn, d int, pc *piece) {
	if d == int(c.client) {
		if n := len(c.queue); n > 0 {
			c.queue[n-1].end = pc.off
		}
		return
	}
	if r := c.reading(); r != nil {
		r.end, r.lastTime = pc.off, pc.at.time
	}
}

// reading returns the response that the server is sending.
func (c *conn) reading() *response {
	switch {
	case c.current >= 0 && int(c.current) < len(c.queue):
		return &c.queue[c.current].resp
	case c.current == -2:
		return c.unasked
	}
	return nil
}

// begin looks for the start of a message. It returns false once the piece is
// used up, or of no use.
func (c *conn) begin(t *Tracker, d int, pc *piece) bool {
	h := &c.half[d]
	switch {
	case c.protocol == tls:
		return c.resumeRecords(d, pc)
	case c.protocol == h2c:
		c.answeredPreface(t, d, pc)
		return false
	}
	if h.state == lost && h.fresh {
		h.buf = h.buf[:0]
	}
	h.fresh = false
	if h.state == atStart && len(h.buf) == 0 && (pc.off > 1 || !bytes.HasPrefix(pc.payload, []byte("\r\n\r\n\x00"))) {
		for len(pc.payload) > 0 && (pc.payload[0] == '\r' || pc.payload[0] == '\n') {
			pc.skip(1)
		}
		if pc.n == 0 {
			return false
		}
	}
	if len(pc.payload) == 0 {
		c.loseSync(d, missingHead)
		c.unframed(d, pc)
		return false
	}
	if len(h.buf) == 0 {
		h.bufAt, h.bufOff, h.scanned = pc.at, pc.off, 0
	}
	view := pc.payload
	if len(h.buf) > 0 {
		t.store(h, pc.payload)
		view = h.buf
	}
	cut := len(pc.payload) < pc.n
	like, role := c.recognise(d, view, cut)
	if like == yes && h.state == lost && role == roleRequest && !likelyRequest(view) {
		like = no // in the middle of content, little is needed to look like a request
	}
	switch like {
	case maybe:
		if cut {
			c.loseSync(d, missingHead)
			c.unframed(d, pc)
			return false
		}
		if len(h.buf) == 0 {
			t.store(h, pc.payload)
		}
		if h.state == lost {
			c.unframed(d, pc)
		}
		return false
	case no:
		if n := proxyHeader(view); n > 0 && h.bufOff == 1 && d == int(c.client) && c.requests == 0 {
			c.preface = int32(n)
			h.buf = h.buf[:0]
			pc.skip(n - (len(view) - len(pc.payload)))
			return true
		}
		if h.bufOff == 1+int64(c.preface) && c.startSeen && c.requests == 0 && c.responses == 0 {
			return c.notHTTP(d, view)
		}
		if h.state == lost && c.protocol == undecided && likeRecord(view) {
			c.beginTLS(false)
			h.state = recordStart
			return true
		}
		if h.bufOff == 1 && d != int(c.client) && c.answeredOtherwise(view, &h.bufAt) {
			if len(h.buf) == 0 {
				t.store(h, pc.payload)
			}
			return false
		}
		c.loseSync(d, missingSync)
		c.unframed(d, pc)
		return false
	}
	if c.client < 0 {
		c.client = int8(d)
		if role == roleResponse {
			c.client = int8(1 - d)
		}
	}
	c.protocol = http1
	if len(h.buf) > 0 { // the head is in buf from its beginning on
		h.buf = h.buf[:len(h.buf)-len(pc.payload)]
	}
	h.state = inHead
	if role == roleRequest {
		c.beginRequest(t, h.bufOff, &h.bufAt)
	} else {
		c.beginResponse(t, h.bufOff, &h.bufAt)
	}
	return true
}

type role uint8

const (
	roleRequest role = iota
	roleResponse
)

// recognise says whether view begins a message, and which kind, given who sent it.
func (c *conn) recognise(d int, view []byte, cut bool) (likeness, role) {
	if c.client != int8(1-d) {
		if like := likeRequest(view, cut); like != no || c.client == int8(d) {
			if like == maybe && c.client < 0 && likeResponse(view) == yes {
				return yes, roleResponse
			}
			return like, roleRequest
		}
	}
	return likeResponse(view), roleResponse
}

// proxyHeader returns the length of a PROXY protocol header, of version 1 or 2,
// at the beginning of b; 0 if there is none, or not all of one.
func proxyHeader(b []byte) int {
	if bytes.HasPrefix(b, []byte("PROXY ")) {
		return bytes.IndexByte(b[:min(len(b), 108)], '\n') + 1
	}
	if bytes.HasPrefix(b, []byte("\r\n\r\n\x00\r\nQUIT\n")) && len(b) >= 16 {
		if n := 16 + int(b[14])<<8 + int(b[15]); n <= len(b) {
			return n
		}
	}
	return 0
}

// notHTTP marks a connection whose first bytes are no HTTP/1 message. It reports
// whether framing goes on all the same.
func (c *conn) notHTTP(d int, first []byte) bool {
	switch {
	case first[0] == recordHandshake && (len(first) < 2 || first[1] == 3) && d == int(c.client):
		c.beginTLS(true)
		return true
	case bytes.HasPrefix(first, []byte("PRI * HTTP/2")):
		c.protocol = h2c
	default:
		c.protocol = opaque
	}
	c.pass()
	if c.protocol == h2c {
		c.half[1-d].state = lost // the answer to it is looked at
	}
	return false
}

// pass stops framing: what follows is not HTTP/1.
func (c *conn) pass() {
	for d := range c.half {
		c.half[d].state = passing
		c.half[d].buf = c.half[d].buf[:0]
	}
}

// loseSync gives up framing direction d until a message is recognised again.
func (c *conn) loseSync(d int, why missing) {
	h := &c.half[d]
	h.state = lost
	h.buf = h.buf[:0]
	c.missing |= why
	c.accounted = false
}

// unframed attributes bytes that could not be framed: the client's to its latest
// request, the server's to the oldest request without a response.
func (c *conn) unframed(d int, pc *piece) {
	end := pc.off + int64(pc.n)
	if d == int(c.client) {
		if n := len(c.queue); n > 0 && !c.queue[n-1].resp.began {
			r := c.queue[n-1]
			r.end, r.framed, r.complete = end, false, false
		}
		return
	}
	r := c.reading()
	if r == nil {
		for i := range c.queue {
			if !c.queue[i].resp.began && (!pc.at.hasAck || pc.at.ack > c.queue[i].start) {
				r, c.current = &c.queue[i].resp, int32(i)
				break
			}
		}
	}
	if r == nil {
		return
	}
	if !r.began {
		*r = response{began: true, start: pc.off, frame: pc.at.frame, file: pc.at.file, time: pc.at.time, hasAck: pc.at.hasAck, ack: pc.at.ack}
	}
	r.framed = false
	r.end, r.lastTime = end, pc.at.time
}

// hole passes over bytes of half d, up to offset to, that were not captured.
func (c *conn) hole(t *Tracker, h *half, d int, to int64) {
	n := to - h.next
	c.missing |= missingContent
	switch h.state {
	case passing, untilClose, inChunks:
	case recordStart, inRecord, inRecords:
		if h.state == inRecord && c.holeInRecord(t, d, n) {
			break
		}
		if pc := (&piece{off: h.next, n: int(min(n, 1<<30)), at: stamp{time: c.last}}); !c.passRecords(t, d, pc) {
			c.loseRecords(t, d, pc, missingBytes)
		}
	case inFrames:
		if n > h.left {
			c.loseFrames(d)
			break
		}
		h.left -= n
	case inBody, inChunk:
		if n < h.left {
			h.left -= n
			break
		}
		if n == h.left && h.state == inBody {
			// The body ends where the hole does: framing goes on.
			h.left = 0
			h.extend(c, d, &piece{off: to, at: stamp{time: c.last}})
			h.next = to
			c.messageEnd(t, d, &piece{off: to, at: stamp{time: c.last}})
			return
		}
		fallthrough
	default:
		c.loseSync(d, missingBytes)
		c.unframed(d, &piece{off: h.next, n: int(min(n, 1<<30)), at: stamp{time: c.last}})
	}
	h.next = to
}

// continueHead reads the header section, once all of it is there.
func (c *conn) continueHead(t *Tracker, d int, pc *piece) bool {
	h := &c.half[d]
	request := d == int(c.client)
	view, old, k := pc.payload, len(h.buf), 0
	var hd head
	hd.who = t.wantsWho(c, request)
	if old > 0 {
		// It came in pieces: its end is looked for only in what is new.
		t.store(h, pc.payload)
		view = h.buf
		if from := max(0, h.scanned-3); endOfHead(view[from:]) > 0 {
			k = parseHead(view, request, &hd)
		}
	} else {
		k = parseHead(view, request, &hd)
	}
	if k == 0 {
		h.scanned = len(view)
		after := *pc
		after.skip(pc.n)
		h.extend(c, d, &after)
		switch {
		case len(pc.payload) < pc.n: // cut off by the snap length
			parseHead(view, request, &hd)
			c.noteHead(d, &hd)
			if c.kept && hd.chunked {
				c.cutHead(t, d, &hd, pc)
				break
			}
			c.loseSync(d, missingHead)
		case len(view) > maxHead || t.stored > maxStored:
			c.loseSync(d, missingSync)
		case old == 0:
			t.store(h, pc.payload)
		}
		return false
	}
	pc.skip(k - old)
	h.extend(c, d, pc)
	if request {
		c.requestHead(t, d, &hd, pc)
	} else {
		c.responseHead(t, d, &hd, pc)
	}
	h.buf = h.buf[:0]
	return true
}

// store adds b to what h has of a head or a line that comes in pieces.
func (t *Tracker) store(h *half, b []byte) {
	before := cap(h.buf)
	h.buf = append(h.buf, b...)
	t.stored += cap(h.buf) - before
}

// maxStored bounds what is stored of heads and lines of all connections together.
// Beyond it, those that come in pieces go unread.
const maxStored = 16 << 20

// noteCutHead keeps what there is of a head whose end never came.
func (c *conn) noteCutHead(t *Tracker, d int) {
	h := &c.half[d]
	if len(h.buf) == 0 {
		return
	}
	if h.state == atStart && d == int(c.client) && likelyRequest(h.buf) {
		// Not even the request line came to its end.
		c.beginRequest(t, h.bufOff, &h.bufAt)
		c.protocol, h.state = http1, inHead
		c.queue[len(c.queue)-1].end = h.bufOff + int64(len(h.buf))
		c.queue[len(c.queue)-1].lastTime = h.lastData
	}
	if h.state == inHead {
		var hd head
		parseHead(h.buf, d == int(c.client), &hd)
		c.noteHead(d, &hd)
		// A head without an end is surely not complete: that is all that framing
		// is needed for.
		if d == int(c.client) {
			c.queue[len(c.queue)-1].framed = true
		} else if r := c.reading(); r != nil {
			r.framed = true
		}
	}
}

// giveUp lets go of the oldest request without knowing what became of it.
func (c *conn) giveUp(t *Tracker) {
	if r := c.queue[0]; !r.resp.complete {
		c.untracked = true
		t.sum.Unjudged++
	}
	c.pop(t)
}

// line reads a chunk-size line or a trailer field.
func (c *conn) line(t *Tracker, d int, pc *piece) bool {
	h := &c.half[d]
	if len(pc.payload) == 0 && c.kept {
		h.state = inChunks
		return true
	}
	if len(pc.payload) == 0 {
		c.loseSync(d, missingHead)
		c.unframed(d, pc)
		return false
	}
	i := bytes.IndexByte(pc.payload, '\n')
	if i < 0 {
		captured := len(pc.payload)
		t.store(h, pc.payload)
		short := captured < pc.n
		pc.skip(pc.n)
		h.extend(c, d, pc)
		if short && c.kept {
			h.buf, h.state = h.buf[:0], inChunks
			return false
		}
		if short || len(h.buf) > maxChunkLine || t.stored > maxStored {
			c.loseSync(d, missingHead)
			c.unframed(d, pc)
		}
		return false
	}
	ln := pc.payload[:i]
	if len(h.buf) > 0 {
		t.store(h, ln)
		ln = h.buf
	}
	ln = bytes.TrimSuffix(ln, []byte("\r"))
	size, state := int64(0), h.state
	empty := len(ln) == 0
	ok := empty || state == inTrailer
	if state == chunkSize {
		size, ok = parseChunkSize(ln)
	}
	h.buf = h.buf[:0]
	pc.skip(i + 1)
	h.extend(c, d, pc)
	switch {
	case !ok:
		c.loseSync(d, missingSync)
		c.unframed(d, pc)
		return false
	case state == inTrailer && empty:
		c.messageEnd(t, d, pc)
	case state == inTrailer:
	case state == chunkBreak:
		h.state = chunkSize
	case size == 0:
		h.state = inTrailer
	default:
		h.state, h.left = inChunk, size
	}
	return true
}

// parseChunkSize reads a chunk-size line; extensions are passed over.
func parseChunkSize(b []byte) (int64, bool) {
	if i := bytes.IndexByte(b, ';'); i >= 0 {
		b = b[:i]
	}
	b = trim(b)
	if len(b) == 0 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if n >= 1<<55 {
			return 0, false
		}
		switch {
		case isDigit(c):
			n = n<<4 | int64(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			n = n<<4 | int64(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return n, true
}
