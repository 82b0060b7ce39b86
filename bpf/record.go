//go:build linux

package bpf

import (
	"bytes"
	"cmp"
	"slices"
	"unsafe"

	"whyreset/capture"
)

// What comes up, and how kept segments are marked; as in recorder.h.
const (
	aRecord  = 1
	aSegment = 2

	firstOfBurst = 1
	lastOfBurst  = 2

	hasOptions    = 1
	hasTimestamps = 2

	slots = 8
)

// A replay turns what comes up into segments again.
type replay struct {
	offset func(uint64) capture.Time // the kernel's clock to that of packets
	out    []capture.Segment
	kept   []kept // scratch
}

// A kept is a slot and the half that it is of.
type kept struct {
	slot *recorderSlot
	half int
}

// as views raw, which a ring buffer or a map gave, as a T. It reports whether it is
// long enough to be one.
func as[T any](raw []byte) (*T, bool) {
	var t T
	if len(raw) < int(unsafe.Sizeof(t)) || uintptr(unsafe.Pointer(unsafe.SliceData(raw)))%unsafe.Alignof(t) != 0 {
		return nil, false
	}
	return (*T)(unsafe.Pointer(unsafe.SliceData(raw))), true
}

func endpoint(addr *[2]uint64, port uint16) (e capture.Endpoint) {
	e.Addr = *(*[16]byte)(unsafe.Pointer(addr))
	p := *(*[2]byte)(unsafe.Pointer(&port)) // as on the wire
	e.Port = uint16(p[0])<<8 | uint16(p[1])
	return e
}

// ends returns the endpoints of a connection.
func (k *recorderKey) ends() [2]capture.Endpoint {
	ends := [2]capture.Endpoint{endpoint(&k.A, k.Pa), endpoint(&k.B, k.Pb)}
	for i := range ends {
		if k.Zone != 0 && ends[i].Loopback() {
			ends[i].Zone = uint16(k.Zone)
		}
	}
	return ends
}

// segment returns what a slot keeps of a segment from half d.
func (r *replay) segment(ends *[2]capture.Endpoint, s *recorderSlot, d int) capture.Segment {
	return capture.Segment{
		Time: r.offset(s.Time), Src: ends[d], Dst: ends[1-d], Seq: s.Seq, Ack: s.Ack,
		Flags: capture.Flags(s.Flags), TTL: s.Ttl, HasTS: s.Opts&hasTimestamps != 0, HasOpts: s.Opts&hasOptions != 0,
		Window: s.Window, WScale: s.Wscale, IPID: s.Ipid, Len: int(s.Len),
	}
}

// event adds a segment that came up by itself.
func (r *replay) event(e *recorderEvent, raw []byte) {
	ends := e.Key.ends()
	s := r.segment(&ends, &e.Slot, int(e.Dir&1))
	payload := raw[unsafe.Sizeof(*e):]
	n := min(int(e.Snap), len(payload), s.Len)
	if s.Payload = payload[:n]; n < s.Len {
		s.Elided = &capture.Elision{Tail: e.Slot.Tail[:min(int(e.Slot.Ended), len(e.Slot.Tail))]}
	}
	r.out = append(r.out, s)
}

// record adds the segments of a connection's record. They refer to c.
func (r *replay) record(c *recorderConn) {
	ends := c.Key.ends()
	if c.Told == 0 {
		for i, s := range c.Shake {
			if c.Shakes&(1<<i) != 0 {
				r.out = append(r.out, r.segment(&ends, &s, shaker(c, i)))
			}
		}
	}
	r.kept = r.kept[:0]
	for d := range c.Half {
		h := &c.Half[d]
		for i := h.N - min(h.N, slots); i != h.N; i++ {
			r.kept = append(r.kept, kept{&h.Ring[i%slots], d})
		}
		if h.Bare.Kind != 0 {
			r.kept = append(r.kept, kept{&h.Bare, d})
		}
	}
	slices.SortStableFunc(r.kept, func(a, b kept) int { return cmp.Compare(a.slot.Time, b.slot.Time) })
	from := r.begin(c)
	if from != 0 {
		r.out = append(r.out, r.elision(c, &ends, from))
	}
	var bursts [2]burst
	for d := range bursts { // one that began before the record may go on in it
		bursts[d].first, bursts[d].end = c.From[d], c.From[d]
	}
	for _, k := range r.kept {
		s := k.slot
		if s.Time < from {
			continue
		}
		seg, b := r.segment(&ends, s, k.half), &bursts[k.half]
		seg.Flags &^= capture.SYN // its data counts for itself
		switch s.Kind {
		case firstOfBurst:
			if s.Skipped > 0 { // interim responses, the latest of which is s
				passed := seg
				passed.Seq, passed.Len = s.Seq-s.Skipped, int(s.Skipped)
				passed.Elided = &capture.Elision{Interim: true}
				r.out = append(r.out, passed)
			}
			*b = burst{first: s.Seq, head: c.headOf(k)}
			b.fill(&seg, s)
		case lastOfBurst:
			if gap := s.Seq - b.end; int32(gap) > 0 && s.Skipped > 0 {
				bulk := seg
				bulk.Seq, bulk.Len = b.end, int(min(gap, s.Skipped))
				bulk.Payload = b.of(bulk.Seq, bulk.Len)
				bulk.Elided = &capture.Elision{Bulk: true}
				r.out = append(r.out, bulk)
			}
			b.fill(&seg, s)
		}
		if s.Len > 0 {
			b.end = s.Seq + s.Len
		}
		r.out = append(r.out, seg)
	}
}

// A burst is what one end sends without the other speaking.
type burst struct {
	first uint32 // the sequence number of its first byte
	end   uint32 // and behind the last of what was added
	head  []byte // how it begins
}

// of returns what is known of the payload at seq.
func (b *burst) of(seq uint32, n int) []byte {
	at := int(int32(seq - b.first))
	if at < 0 || at >= len(b.head) {
		return nil
	}
	return b.head[at:min(at+n, len(b.head))]
}

// fill gives seg what is known of its payload.
func (b *burst) fill(seg *capture.Segment, s *recorderSlot) {
	seg.Payload = b.of(seg.Seq, seg.Len)
	if len(seg.Payload) == seg.Len {
		return
	}
	if n := min(int(s.Ended), len(s.Tail)); n >= seg.Len {
		seg.Payload = s.Tail[:seg.Len]
	} else {
		seg.Elided = &capture.Elision{Tail: s.Tail[:n]}
	}
}

// shaker returns which half sent the ith packet of the handshake.
func shaker(c *recorderConn, i int) int {
	client := int(c.Client) & 1
	if i == 1 {
		return 1 - client
	}
	return client
}

// headOf returns how the burst begins whose first segment is s, or nil if a later
// one took its place.
func (c *recorderConn) headOf(k kept) []byte {
	hd := &c.Heads[(k.slot.Turn+1)%2*2+uint32(k.half)]
	if k.slot.Head == 0 || hd.Turn != k.slot.Turn {
		return nil
	}
	return hd.Bytes[:min(hd.Len, uint32(len(hd.Bytes)))]
}

// begin returns from when on everything was kept that framing needs: 0 if that is all
// of it, else the time of a request's first segment; one after all if there is none.
func (r *replay) begin(c *recorderConn) uint64 {
	var oldest uint64 // of the slots that are there, where some were overwritten
	whole := true
	for d := range c.Half {
		if h := &c.Half[d]; h.N > slots {
			oldest = max(oldest, h.Ring[h.N%slots].Time)
			whole = false
		}
	}
	// From the latest back: as long as each burst has its head.
	from := ^uint64(0)
	for i := len(r.kept) - 1; i >= 0; i-- {
		k := r.kept[i]
		if k.slot.Time < oldest {
			whole = false
			break
		}
		if k.slot.Kind != firstOfBurst {
			continue
		}
		head := c.headOf(k)
		if k.slot.Len > 0 && head == nil {
			whole = false
			break
		}
		// Content that is sent while the server speaks begins no request.
		if (c.Client < 0 || k.half == int(c.Client)) && (c.Sealed != 0 || c.Tunnel != 0 || beginsRequest(head)) {
			from = k.slot.Time
		}
	}
	switch {
	case whole:
		return 0
	case from == ^uint64(0): // not even the latest request: all is elided
		return max(c.Half[0].Last, c.Half[1].Last) + 1
	}
	return from
}

// beginsRequest reports whether a request line begins b, as far as it goes (RFC 9112,
// section 3).
func beginsRequest(b []byte) bool {
	line, _, ended := bytes.Cut(b, []byte("\n"))
	method, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok || len(method) == 0 || len(method) > 20 || bytes.ContainsFunc(method, func(r rune) bool { return r < 'A' || r > 'Z' }) {
		return false
	}
	_, version, ok := bytes.Cut(rest, []byte(" "))
	if !ended {
		return true
	}
	return ok && bytes.HasPrefix(version, []byte("HTTP/1."))
}

// elision stands for what was before from.
func (r *replay) elision(c *recorderConn, ends *[2]capture.Endpoint, from uint64) capture.Segment {
	e := &capture.Elision{Before: true, Client: int(c.Client), Bytes: c.Half[0].Bytes + c.Half[1].Bytes, Hurried: int(c.Hurried)}
	var first [2]*recorderSlot // of those that are kept
	var last uint64
	for _, k := range r.kept {
		if k.slot.Time >= from {
			e.Bytes -= min(e.Bytes, uint64(k.slot.Len)+uint64(k.slot.Skipped))
			if first[k.half] == nil {
				first[k.half] = k.slot
			}
			continue
		}
		e.Last[k.half] = r.offset(k.slot.Time)
		last = max(last, k.slot.Time)
	}
	for d := range c.Half {
		h := &c.Half[d]
		e.Next[d] = h.Next
		if s := first[d]; s != nil {
			e.Next[d] = s.Seq
		} else if h.LastData != 0 && e.Last[d] == 0 {
			e.Last[d] = r.offset(h.LastData)
			last = max(last, h.LastData)
		}
	}
	if d := int(c.Client); d >= 0 {
		turns := c.Half[d].Turns
		if s := first[d]; s != nil {
			turns = s.Turn - 1
			e.Whole = true
		}
		e.Exchanges = int(turns - c.Turns[d])
	}
	if last == 0 {
		last = from - 1
	}
	return capture.Segment{Time: r.offset(last), Src: ends[0], Dst: ends[1], WScale: -1, Elided: e}
}
