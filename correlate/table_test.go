package correlate

import (
	"math/rand/v2"
	"testing"

	"whyreset/capture"
)

// The table holds what a map would, through growth and removal, and with hashes
// that collide.
func TestTable(t *testing.T) {
	type pair [2]capture.Endpoint
	for _, collide := range []uint32{1<<32 - 1, 0xf, 1, 0} { // a mask on hashes
		r := rand.New(rand.NewPCG(7, uint64(collide)))
		tb := newTable(r.Uint64())
		hash := func(p *pair) uint32 {
			return max(tb.hash(&p[0], &p[1])&collide, 1)
		}
		want := map[pair]*conn{}
		var keys []pair
		steps, most := 30000, 3000
		if collide < 1<<8 {
			steps, most = 3000, 300 // look-ups are linear then
		}
		for range steps {
			if len(keys) < most && r.IntN(5) < 3 {
				p := pair{client(r.IntN(1 << 14)), client(1<<16 + r.IntN(3))}
				if want[p] != nil || want[pair{p[1], p[0]}] != nil {
					continue
				}
				c := &conn{ep: p, hash: hash(&p)}
				tb.insert(c)
				want[p] = c
				keys = append(keys, p)
			} else if len(keys) > 0 {
				i := r.IntN(len(keys))
				tb.remove(want[keys[i]])
				delete(want, keys[i])
				keys[i] = keys[len(keys)-1]
				keys = keys[:len(keys)-1]
			}
			if tb.used != len(want) {
				t.Fatalf("%d used, want %d", tb.used, len(want))
			}
			if len(keys) == 0 {
				continue
			}
			p := keys[r.IntN(len(keys))]
			if c, d := tb.find(&p[0], &p[1], hash(&p)); c != want[p] || d != 0 {
				t.Fatalf("%v is not found, or as half %d", p, d)
			}
			back := pair{p[1], p[0]}
			if c, d := tb.find(&back[0], &back[1], hash(&back)); c != want[p] || d != 1 {
				t.Fatalf("%v is not found in the other direction, or as half %d", p, d)
			}
			q := pair{client(r.IntN(1 << 14)), client(1<<16 + 5)}
			if c, _ := tb.find(&q[0], &q[1], hash(&q)); c != nil {
				t.Fatalf("%v is found", q)
			}
		}
		for p, c := range want {
			if got, _ := tb.find(&p[0], &p[1], c.hash); got != c {
				t.Fatalf("%v is lost", p)
			}
		}
		tb.remove(&conn{hash: 1}) // what is not in it changes nothing
		if tb.used != len(want) {
			t.Errorf("%d used, want %d", tb.used, len(want))
		}
	}
}

// Hashes of neighbouring ports and addresses spread over the table, and are the
// same in both directions.
func TestHashSpreads(t *testing.T) {
	for seed := range uint64(5) {
		tb := newTable(seed * 0x9e3779b97f4a7c15)
		const n, buckets = 1 << 14, 1 << 10
		var count [buckets]int
		full := map[uint32]int{}
		for i := range n {
			e := client(i)
			h := tb.hash(&e, &theServer)
			if h == 0 || h != tb.hash(&theServer, &e) {
				t.Fatalf("hash %d, and %d the other way", h, tb.hash(&theServer, &e))
			}
			count[h%buckets]++
			full[h]++
		}
		for b, c := range count {
			if c > 5*n/buckets {
				t.Errorf("seed %d: %d of %d in one bucket of %d (%d)", seed, c, n, buckets, b)
				break
			}
		}
		if len(full) < n-100 {
			t.Errorf("seed %d: %d hashes of %d connections", seed, len(full), n)
		}
	}
}
