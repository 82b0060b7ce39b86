package trial

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// A Schedule says how long to pause before each request.
type Schedule struct {
	// Pause is the time from the end of one response to the next request.
	Pause time.Duration
	// Jitter spreads it evenly over Pause ± Jitter.
	Jitter time.Duration
	// Seek moves the pause to where races are: longer after a request that found
	// the connection alive, shorter after one that had to open another, by steps
	// that shrink from Jitter to FinestStep.
	Seek bool
}

// FinestStep is the smallest step of a seeking schedule.
const FinestStep = 20 * time.Microsecond

// A pacer follows a schedule for one client.
type pacer struct {
	Schedule
	rand *rand.Rand
	step time.Duration
	last int // direction of the last step
}

func newPacer(s Schedule, seed uint64) *pacer {
	return &pacer{Schedule: s, rand: rand.New(rand.NewPCG(seed, 0)), step: s.Jitter}
}

func (p *pacer) next() time.Duration {
	spread := p.Jitter
	if p.Seek {
		spread = p.step / 2
	}
	if spread <= 0 {
		return p.Pause
	}
	return max(0, p.Pause+time.Duration(p.rand.Int64N(int64(2*spread)))-spread)
}

// learn looks at what became of the request that the last pause preceded.
func (p *pacer) learn(o Outcome) {
	if !p.Seek || o.Err != nil || o.Tries > 1 {
		return // lost: this is the place
	}
	way := 1
	if !o.Reused {
		way = -1
	}
	if way != p.last && p.last != 0 {
		p.step = max(p.step/2, FinestStep)
	}
	p.last = way
	p.Pause += time.Duration(way) * p.step
}

// Run sends n requests from each of several clients that work side by side. The
// ids are first, first+1, and so on. Progress, if not nil, is called with each
// outcome, one call at a time.
func Run(ctx context.Context, clients []*Client, n, first int, method string, s Schedule, progress func(int, Outcome)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i, c := range clients {
		wg.Go(func() {
			p := newPacer(s, uint64(first+i))
			var end time.Time
			for k := range n {
				r := Request{ID: first + i*n + k, Method: method}
				if k > 0 {
					r.Pause = p.next()
					SleepUntil(end.Add(r.Pause))
				} else {
					// Clients that begin together would all be in step.
					SleepUntil(time.Now().Add(time.Duration(i) * 7 * time.Millisecond))
				}
				if ctx.Err() != nil {
					return
				}
				o := c.Do(ctx, r)
				if k > 0 {
					p.learn(o)
				}
				end = o.End
				if progress != nil {
					mu.Lock()
					progress(r.ID, o)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
}
