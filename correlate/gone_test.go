package correlate

import (
	"testing"

	"whyreset/capture"
)

// The ring holds the latest connections, each with its latest end, whether or not
// their hashes share a chain.
func TestGoneRing(t *testing.T) {
	for _, spread := range []uint64{1, maxGone, maxGone / 4} {
		g := new(goneRing)
		hash := func(n int) uint64 { return uint64(n)*spread + 7 }
		const all = 2*maxGone + maxGone/2
		if _, ok := g.find(hash(0)); ok {
			t.Error("an empty ring finds something")
		}
		for n := range all {
			g.add(hash(n), capture.Time(n))
		}
		step := 1
		if spread == maxGone { // one chain
			step = 97
		}
		for n := 0; n < all; n += step {
			at, ok := g.find(hash(n))
			if want := n >= all-maxGone; ok != want || ok && at != capture.Time(n) {
				t.Fatalf("spread %d: %d of %d found: %v, %d", spread, n, all, ok, at)
			}
		}
		g.add(hash(all-5), 77)
		for n := range maxGone - 1 {
			g.add(hash(all+n), 78)
		}
		if at, ok := g.find(hash(all - 5)); !ok || at != 77 {
			t.Errorf("spread %d: the second end of a connection is forgotten with the first: %v, %d", spread, ok, at)
		}
	}
}
