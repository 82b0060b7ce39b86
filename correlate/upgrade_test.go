package correlate

import (
	"testing"
)

// FuzzFrames cuts the bytes of a WebSocket direction into pieces in two ways: what
// is found of its frames is the same.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x81\x02ok\x88\x04\x03\xe9by"), byte(1), false)
	f.Add([]byte("\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x03abc\x89\x00\x88\x00"), byte(3), false)
	f.Add([]byte("\x01\x83\x01\x02\x03\x04abc\x80\x80\x01\x02\x03\x04\x88\x82\x01\x02\x03\x04\x02\xea"), byte(2), true)
	f.Add([]byte("\x81\x7e\x00\x01x\x8a\x7d"), byte(5), false)
	f.Fuzz(func(t *testing.T, b []byte, size byte, client bool) {
		d := 1
		if client {
			d = 0
		}
		read := func(size int) (frames, int64) {
			c := &conn{up: &upgrade{}}
			c.half[d].state = inFrames
			u := &c.up.dir[d]
			for at := 0; at < len(b); {
				n := min(size, len(b)-at)
				pc := &piece{off: int64(1 + at), n: n, payload: b[at : at+n]}
				c.beyond(d, pc)
				if u.lost {
					break
				}
				if pc.n != 0 {
					t.Fatalf("%d bytes of a piece of %d were left over", pc.n, n)
				}
				at += n
			}
			return *u, c.half[d].left
		}
		whole, left := read(len(b) + 1)
		parts, left2 := read(1 + int(size))
		if whole.n != parts.n || whole.lost != parts.lost || whole.close != parts.close || whole.pings != parts.pings || left != left2 {
			t.Fatalf("in pieces of %d: %+v, %d left; in one: %+v, %d left", 1+int(size), parts, left2, whole, left)
		}
		if k := whole.close; k.seen && (k.end-k.start < 2 || len(k.reason) > maxControl-2) {
			t.Fatalf("close frame %+v", k)
		}
	})
}
