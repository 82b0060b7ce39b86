package correlate

import (
	"time"

	"whyreset/capture"
)

// Load takes in what a recorder counted of a server: how long its connections had been
// idle when they were used again, and how many are open. The recorder shows the
// segments of a few reuses at most, and those only of connections that ended.
func (t *Tracker) Load(l *capture.Load) {
	s := t.servers[l.Server]
	if s == nil {
		if len(t.servers) >= maxServers {
			return
		}
		s = &server{host: t.hostOf(l.Server.Addr)}
		t.servers[l.Server] = s
	}
	s.counted = true
	s.hidden = max(l.Open-s.open, 0)
	s.reuses = l.Reuses
	s.maxReuse = max(s.maxReuse, l.Longest-s.away)
	s.gaps, s.steady = s.gaps[:0], s.steady[:0]
	// As many samples of each count as it has a share, spread over its width.
	for _, c := range l.Idle {
		n := share(c.Count, l.Reuses, maxSamples)
		for i := range n {
			d := c.From + (c.To-c.From)*time.Duration(2*i+1)/time.Duration(2*n)
			s.gaps = append(s.gaps, max(min(d, l.Longest)-s.away, 0))
		}
		for range share(c.Count, l.Reuses, maxSteady) {
			s.steady = append(s.steady, c.From+(c.To-c.From)/2)
		}
	}
}

// share returns count/of of n, at least 1.
func share(count, of uint64, n int) int {
	if of == 0 {
		return 0
	}
	return max(1, int(count*uint64(n)/of))
}
