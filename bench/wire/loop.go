//go:build linux

package wire

import (
	"container/heap"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// A parcel is a packet that waits for its time of delivery.
type parcel struct {
	due    time.Time
	n      uint64 // breaks ties: first in, first out
	toward Side
	data   []byte
}

// parcels is a heap, the next one due first.
type parcels []parcel

func (q parcels) Len() int      { return len(q) }
func (q parcels) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *parcels) Push(x any)   { *q = append(*q, x.(parcel)) }
func (q parcels) Less(i, j int) bool {
	if q[i].due.Equal(q[j].due) {
		return q[i].n < q[j].n
	}
	return q[i].due.Before(q[j].due)
}

func (q *parcels) Pop() any {
	last := len(*q) - 1
	p := (*q)[last]
	(*q)[last] = parcel{}
	*q = (*q)[:last]
	return p
}

// A loop moves the packets. It is one thread for both directions, waiting in
// ppoll: Go's own timers have a granularity of a millisecond in an idle
// program, which is more than a whole short link.
type loop struct {
	w      *Wire
	rand   *rand.Rand
	queue  parcels
	count  uint64
	newest [2]time.Time // latest due time in each direction, for keeping the order
}

func newLoop(w *Wire, seed uint64) *loop {
	return &loop{w: w, rand: rand.New(rand.NewPCG(seed, 0))}
}

func (l *loop) run() {
	defer close(l.w.gone)
	runtime.LockOSThread() // for the timer slack, which is the thread's
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	poll := []unix.PollFd{
		Client: {Fd: int32(l.w.tun[Client]), Events: unix.POLLIN},
		Server: {Fd: int32(l.w.tun[Server]), Events: unix.POLLIN},
		2:      {Fd: int32(l.w.wake), Events: unix.POLLIN},
	}
	buf := make([]byte, 1<<16)
	for {
		var wait *unix.Timespec // nil: until something happens
		if len(l.queue) > 0 {
			ts := unix.NsecToTimespec(max(0, time.Until(l.queue[0].due).Nanoseconds()))
			wait = &ts
		}
		unix.Ppoll(poll, wait, nil) // EINTR is as good as a timeout
		if poll[2].Revents != 0 {
			unix.Read(l.w.wake, buf[:8])
			if !l.collect() {
				return
			}
		}
		for _, from := range [...]Side{Client, Server} {
			for {
				n, err := unix.Read(l.w.tun[from], buf)
				if err != nil || n <= 0 {
					break // EAGAIN, or the device is down for now
				}
				l.enter(parse(from.Other(), append([]byte(nil), buf[:n]...)))
			}
		}
		l.deliver()
	}
}

// collect takes over injected packets. It reports whether the wire is open.
func (l *loop) collect() bool {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	for _, p := range l.w.injected {
		l.push(p)
	}
	l.w.injected = nil
	return !l.w.closed
}

func (l *loop) push(p parcel) {
	p.n = l.count
	l.count++
	heap.Push(&l.queue, p)
}

func (l *loop) deliver() {
	for len(l.queue) > 0 && !l.queue[0].due.After(time.Now()) {
		p := heap.Pop(&l.queue).(parcel)
		if _, err := unix.Write(l.w.tun[p.toward], p.data); err != nil {
			continue // the device is down
		}
		l.w.mu.Lock()
		l.w.stats[p.toward].Delivered++
		l.w.mu.Unlock()
	}
}

// enter decides what becomes of a packet that has come onto the wire.
func (l *loop) enter(p *Packet) {
	now := time.Now()
	w, to := l.w, p.Toward
	w.mu.Lock()
	link := w.links[to]
	flow := Flow{Client: p.Src, Server: p.Dst}
	if to == Client {
		flow = Flow{Client: p.Dst, Server: p.Src}
	}
	amnesia, forgotten := w.forgotten[flow]
	back := w.links[to.Other()]
	w.stats[to].Entered++
	if forgotten {
		w.stats[to].Forgotten++
	}
	w.mu.Unlock()

	if forgotten {
		if amnesia.Reset && p.TCP != nil && !p.TCP.RST {
			// The box stands in the middle: half the way there, half the way back.
			w.Inject(to.Other(), denial(p, amnesia.TTL, w.hops/2), link.Delay/2+back.Delay/2)
		}
		return
	}

	fate := Pass
	if link.Filter != nil {
		fate = link.Filter(p)
	}
	drop, twice, late := l.chance(fate, link)
	if !age(p.Data, w.hops) {
		drop = true
	}
	w.mu.Lock()
	switch {
	case drop:
		w.stats[to].Dropped++
	default:
		if twice {
			w.stats[to].Duplicated++
		}
		if late {
			w.stats[to].Reordered++
		}
	}
	w.mu.Unlock()
	if drop {
		return
	}

	due := now.Add(link.Delay)
	if link.Jitter > 0 {
		due = due.Add(time.Duration(l.rand.Int64N(int64(link.Jitter))))
	}
	if due.Before(l.newest[to]) {
		due = l.newest[to]
	}
	if late {
		hold := link.HoldBack
		if hold == 0 {
			hold = 5 * time.Millisecond
		}
		due = due.Add(hold)
	} else {
		l.newest[to] = due
	}
	l.push(parcel{due: due, toward: to, data: p.Data})
	if twice {
		l.push(parcel{due: due, toward: to, data: p.Data})
	}
}

func (l *loop) chance(fate Fate, link Link) (drop, twice, late bool) {
	switch fate {
	case Keep:
		return false, false, false
	case Lose:
		return true, false, false
	case Twice:
		return false, true, false
	case Late:
		return false, false, true
	}
	hit := func(p float64) bool { return p > 0 && l.rand.Float64() < p }
	return hit(link.Drop), hit(link.Duplicate), hit(link.Reorder)
}

// denial returns the RST with which a box that does not know the segment's
// connection answers it, as RFC 9293, section 3.10.7.1, has it: numbered after
// the segment's acknowledgement if it has one, else acknowledging the segment.
func denial(p *Packet, ttl, hops uint8) []byte {
	if ttl == 0 {
		ttl = 64
	}
	rst := layers.TCP{RST: true, Seq: p.TCP.Ack}
	if !p.TCP.ACK {
		rst.ACK, rst.Seq = true, 0
		rst.Ack = p.TCP.Seq + uint32(len(p.TCP.Payload))
		if p.TCP.SYN {
			rst.Ack++
		}
	}
	data, err := Forge(Header{Src: p.Dst, Dst: p.Src, TTL: ttl - min(hops, ttl-1)}, rst, nil)
	if err != nil {
		return nil // addresses of two families: cannot be, they come from one packet
	}
	return data
}
