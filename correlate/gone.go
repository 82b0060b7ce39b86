package correlate

import "whyreset/capture"

// maxGone bounds the reported connections that are remembered so that what comes
// late is not taken for new ones. It is a power of two.
const maxGone = 8192

// A goneRing remembers the latest maxGone connections that were reported, by
// longHash. Each connection passes through it: a Go map, with the ring that says
// whom to delete, took a tenth of the time of short connections.
type goneRing struct {
	all    [maxGone]departed
	newest [maxGone]uint64 // of each chain, the number of its first
	count  uint64          // numbers begin at 1; number n is at all[n%maxGone] until n+maxGone takes its place
}

type departed struct {
	hash  uint64
	last  capture.Time // its last segment
	older uint64       // the number of the next in its chain
}

func (g *goneRing) add(hash uint64, last capture.Time) {
	g.count++
	head := &g.newest[hash%maxGone]
	g.all[g.count%maxGone] = departed{hash, last, *head}
	*head = g.count
}

// find returns the last segment of the latest connection with that hash.
func (g *goneRing) find(hash uint64) (capture.Time, bool) {
	for n := g.newest[hash%maxGone]; n > 0 && n+maxGone > g.count; {
		e := &g.all[n%maxGone]
		if e.hash == hash {
			return e.last, true
		}
		n = e.older
	}
	return 0, false
}
