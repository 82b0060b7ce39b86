package correlate

import (
	"bytes"
	"encoding/binary"
	"slices"
	"time"

	"whyreset/capture"
)

// replayWindow is how long after its loss a request must come again to count as
// sent again.
const replayWindow = time.Second

// tooUsual is the interval of like requests below which another one never says
// anything; a server that drops thousands of them must not cost time.
const tooUsual = 2 * time.Millisecond

// maxTrails bounds the lost requests that are looked for at once.
const maxTrails = 4096

// A trail is what a request leaves that was outstanding when its connection was
// closed, for its copy to be recognised.
type trail struct {
	text     []byte // its method, target and host
	conn     uint64
	client   [16]byte
	server   capture.Endpoint
	key      uint32
	older    *trail        // another with the same key
	sent, at capture.Time  // when it was sent, and when its connection was closed
	usual    time.Duration // see request.usual
	copies   int           // how often it came again, not counting copies of copies that were lost too
	copy     Replay
}

// tracks tie a request to its trail, and to that of the one it is a copy of.
type tracks struct {
	lost, copyOf *trail
}

// A Replay is the copy of a lost request.
type Replay struct {
	Connection uint64           // Connection.ID of the connection that carried it
	Client     capture.Endpoint // its client's end
	First      bool             // it was that connection's first request
	Frame      uint64
	File       int
	Time       capture.Time
	After      time.Duration // from the close of the lost request's connection to the copy
	Status     int           // what it was answered with; 0 if no answer had begun when the finding was made
	Lost       bool          // it was lost as well
}

// A repeat is what is remembered of requests that are alike. Others may share
// its place, and then push it out.
type repeat struct {
	key  uint32
	last capture.Time  // when the latest was sent
	mean time.Duration // from one to the next, the latest counting most; 0 while there was only one
}

// maxRepeats is a power of two. At 24 bytes each they fit the cache.
const maxRepeats = 1 << 12

// requestKey condenses a request: who sends it to whom, its method, target and
// length. Not all of a long target counts: requests that are taken for one
// another only make replay more careful. It is the same in every run, and never 0.
func requestKey(c *conn, hd *head, length int64) uint32 {
	b := hd.target
	h := condenseHosts(&c.ep[c.client], &c.ep[1-c.client]) + uint64(length)*0x8ebc6af09c88c6e3
	if len(hd.method) > 0 {
		h += uint64(hd.method[0]) << 32
	}
	// The products do not wait for one another.
	switch n := len(b); {
	case n >= 16:
		h += le(b[n/2-4:])*0xeb44accab455d165 + le(b[n-8:])*0x589965cc75374cc3 + le(b)*0x1d8e4e27c47d124f
	case n >= 8:
		h += le(b[n-8:])*0x589965cc75374cc3 + le(b)*0x1d8e4e27c47d124f
	case n >= 4:
		h += (uint64(binary.LittleEndian.Uint32(b))<<32 | uint64(binary.LittleEndian.Uint32(b[n-4:]))) * 0x589965cc75374cc3
	case n > 0:
		h += (uint64(b[0])<<8 | uint64(b[n-1])) * 0x589965cc75374cc3
	}
	return uint32(h>>32)&^1 + 1
}

// condenseHosts makes a number of the client's host and the server; never 0.
func condenseHosts(client, server *capture.Endpoint) uint64 {
	return le(client.Addr[8:])*0x9e3779b97f4a7c15 + le(client.Addr[:8])*0xd6e8feb86659fd93 +
		le(server.Addr[8:])*0xa0761d6478bd642f + uint64(server.Port)*0xe7037ed1a0b428db | 1
}

// le is called and not kept in a variable, so that it is inlined.
func le(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// usualUnit is that of request.usual.
const usualUnit = 1 << 17 * time.Nanosecond

// sawRequest is called with every request whose head is whole; length is what it
// says of its own.
func (t *Tracker) sawRequest(c *conn, r *request, hd *head, length int64) {
	r.key = requestKey(c, hd, length)
	e := &t.repeats[r.key>>1%maxRepeats]
	if e.key != r.key {
		*e = repeat{key: r.key, last: r.time}
	} else {
		gap := max(r.time.Sub(e.last), 1)
		if e.mean == 0 {
			e.mean = gap
		} else {
			e.mean += (gap - e.mean) >> 2
		}
		e.last = r.time
		r.usual = uint32(e.mean/usualUnit) + 1
	}
	if len(t.trails) > 0 {
		t.followTrails(c, r)
	}
}

// followTrails looks whether r was lost a moment ago.
func (t *Tracker) followTrails(c *conn, r *request) {
	t.forgetTrails(r.time)
	var match *trail
	for l := t.trailOf[r.key]; l != nil; l = l.older {
		if l.conn == c.id || l.client != c.ep[c.client].Addr || l.server != c.ep[1-c.client] || !bytes.Equal(l.text, r.text) || r.time < l.sent {
			continue
		}
		if l.copies == 0 || match == nil { // the oldest that has not come again yet, else the oldest
			match = l
		}
	}
	if match == nil {
		return
	}
	if match.copies > 0 && match.copy.Lost {
		return // a copy of its copy
	}
	if match.copies++; match.copies > 1 {
		return
	}
	match.copy = Replay{Connection: c.id, Client: c.ep[c.client], First: r.number == 1, Frame: r.frame, File: int(r.file),
		Time: r.time, After: max(r.time.Sub(match.at), 0)}
	r.tracks = &tracks{copyOf: match}
}

// forgetTrails drops those that are too old to come again.
func (t *Tracker) forgetTrails(now capture.Time) {
	n := 0
	for ; n < len(t.trails) && now.Sub(t.trails[n].at) > replayWindow; n++ {
		l := t.trails[n]
		at := t.trailOf[l.key]
		if at == l {
			if l.older == nil {
				delete(t.trailOf, l.key)
			} else {
				t.trailOf[l.key] = l.older
			}
			continue
		}
		for at != nil && at.older != l {
			at = at.older
		}
		if at != nil {
			at.older = l.older
		}
	}
	t.trails = slices.Delete(t.trails, 0, n)
}

// leaveTrails notes the requests that are outstanding on c, which half d has just
// closed: they may come again.
func (t *Tracker) leaveTrails(c *conn, now capture.Time, byServer bool) {
	for _, r := range c.queue {
		if r.key == 0 || r.usual > 0 && time.Duration(r.usual)*usualUnit < tooUsual || r.resp.complete || r.resp.untilClose && byServer || r.tracks != nil && r.tracks.lost != nil {
			continue
		}
		if t.forgetTrails(now); len(t.trails) >= maxTrails {
			return
		}
		l := &trail{text: slices.Clone(r.text), conn: c.id, client: c.ep[c.client].Addr, server: c.ep[1-c.client], key: r.key,
			sent: r.time, at: now, usual: time.Duration(r.usual) * usualUnit}
		if r.tracks == nil {
			r.tracks = &tracks{}
		}
		r.tracks.lost = l
		if of := r.tracks.copyOf; of != nil {
			of.copy.Lost = true
		}
		if t.trailOf == nil {
			t.trailOf = map[uint32]*trail{}
		}
		l.older, t.trailOf[r.key] = t.trailOf[r.key], l
		t.trails = append(t.trails, l)
	}
}

// replay returns the copy of the lost request; nil if there is none, or if the
// client's host sends that request so often that another one says nothing: as
// many as are to be expected from now on until then must be next to none, and it
// must not simply be the next of a series.
func (l *trail) replay() *Replay {
	if l == nil || l.copies != 1 {
		return nil
	}
	if l.usual > 0 && (l.copy.After*20 > l.usual || l.copy.Time.Sub(l.sent)*2 > l.usual) {
		return nil
	}
	return &l.copy
}

// Idempotent reports whether RFC 9110, section 9.2.2, calls the method idempotent.
func Idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// noteReplay says on x that its request was sent again.
func (t *Tracker) noteReplay(x *Finding, c *Replay) {
	x.Replay = c
	t.sum.Replayed++
	x.Modifiers = append(x.Modifiers, "replayed")
	text := "sent again " + short(c.After) + " later on another connection"
	if c.First {
		text = "sent again " + short(c.After) + " later as the first request of another connection"
	}
	switch {
	case c.Status > 0:
		t.sum.ReplayedAnswered++
		text += " and answered " + itoa(c.Status) + ": the application may not have noticed"
	case c.Lost:
		text += ", and lost again"
	}
	x.Evidence = append(x.Evidence, Evidence{Frame: c.Frame, File: c.File, Text: text})
	if x.Retry != RetrySafe && x.Request != nil && !Idempotent(x.Request.Method) {
		x.Modifiers = append(x.Modifiers, "duplicate-risk")
		t.sum.DuplicateRisk++
	}
}
