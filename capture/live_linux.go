package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Live captures packets as they pass. It is a [Source] whose Next also returns
// [ErrTick].
//
// Segments come in the order in which the kernel put them into its ring; those of
// several places in the order of their times. Those that are not yielded because
// they were seen on another interface before are counted in Stats.Repeated.
type Live struct {
	filter Filter
	record *Recording
	rings  []*ring
	zones  Zones
	poll   []unix.PollFd // of the rings, and last of wake

	waking sync.Mutex // guards wake
	wake   int        // an eventfd, or -1

	mu      sync.Mutex // held by Next, so that Close frees nothing under it
	closed  atomic.Bool
	stopped atomic.Int64 // when Stop was called, as a Time; 0: not yet

	dec      decoder
	taps     *taps // nil if packets can be seen only once
	stats    Stats
	ticked   time.Time
	looked   time.Time
	reached  Time
	written  Time // the latest of what was yielded
	notices  []string
	recorded bool // the recording has been ended
	err      error
}

// OpenLive begins to capture. It needs CAP_NET_RAW, and none after that. That
// there are no packets is no reason to end: Next waits.
func OpenLive(cfg LiveConfig) (_ *Live, err error) {
	if cfg.Buffer == 0 {
		cfg.Buffer = DefaultBuffer
	}
	if len(cfg.Places) == 0 {
		cfg.Places = []Place{{}}
	}
	l := &Live{filter: cfg.Filter, wake: -1}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	taps := 0
	for i := range cfg.Places {
		p := &cfg.Places[i]
		open := func() error {
			r, err := openRing(p, &cfg)
			if err == nil {
				r.zone = l.zones.Add(p.Name)
				l.rings = append(l.rings, r)
			}
			return err
		}
		if p.Enter != nil {
			err = p.Enter(open)
		} else {
			err = open()
		}
		if err != nil {
			return nil, err
		}
		r := l.rings[len(l.rings)-1]
		taps += max(len(r.named), 1)
		if r.all {
			taps++
		}
		l.poll = append(l.poll, unix.PollFd{Fd: int32(r.fd), Events: unix.POLLIN | unix.POLLERR})
	}
	if taps > 1 {
		l.taps = newTaps()
	}
	l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	l.poll = append(l.poll, unix.PollFd{Fd: int32(l.wake), Events: unix.POLLIN})
	l.ticked = time.Now()
	l.looked = l.ticked
	return l, nil
}

// Record has every packet whose segment is yielded from now on written to r, which
// is closed with the source.
func (l *Live) Record(r *Recording) { l.record = r }

// Next implements [Source]. It returns io.EOF after [Live.Stop], once everything
// from before has been yielded.
func (l *Live) Next(s *Segment) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.err == nil {
		if l.closed.Load() {
			return net.ErrClosed
		}
		// With several rings, the earliest of all packets is next, and a ring that is
		// empty may still be about to get it. With one, none of this is asked.
		r := l.rings[0]
		if len(l.rings) > 1 {
			asked := time.Now()
			if err := l.tick(asked, 0); err != nil {
				return err
			}
			r = l.earliest(asked)
		} else if r.left == 0 { // at the end of a block, or of all
			if err := l.tick(time.Now(), 0); err != nil {
				return err
			}
			if !r.ready() {
				r = nil
			}
		}
		if r == nil {
			if err := l.wait(); err != nil {
				return err
			}
			continue
		}
		if l.take(r, s) {
			return l.err
		}
	}
	return l.err
}

// earliest returns the ring whose packet is next, if it is certain that no other
// can get an earlier one.
func (l *Live) earliest(asked time.Time) *ring {
	var first *ring
	var at Time
	empty := false
	for _, r := range l.rings {
		if r.left == 0 && !r.ready() {
			empty = empty || !r.over()
		} else if t := r.time(); first == nil || t < at {
			first, at = r, t
		}
	}
	if first != nil && empty && at > Time(asked.UnixNano()).Add(-margin) {
		return nil
	}
	return first
}

// take turns the next packet of r into s. It reports whether it is to be yielded.
func (l *Live) take(r *ring, s *Segment) bool {
	h := r.take()
	p := cooked{
		time:     Time(native.Uint32(h[packetSec:]))*1e9 + Time(native.Uint32(h[packetNsec:])),
		protocol: binary.BigEndian.Uint16(h[llProtocol:]),
		index:    native.Uint32(h[llIndex:]),
		hardware: native.Uint16(h[llHardware:]),
		kind:     h[llKind],
		wire:     int(native.Uint32(h[packetLen:])),
	}
	if stop := Time(l.stopped.Load()); stop != 0 && p.time > stop {
		l.reached = max(l.reached, stop)
		l.err = l.end(io.EOF)
		return true
	}
	at := int(native.Uint16(h[packetNet:]))
	p.data = h[at : at+int(native.Uint32(h[packetSnap:]))]
	p.protocol = outgoingTag(&p)
	l.stats.Packets++
	l.stats.Bytes += uint64(p.wire)
	if l.stats.First == 0 || p.time < l.stats.First {
		l.stats.First = p.time
	}
	l.stats.Last = max(l.stats.Last, p.time)
	l.dec.depth = 0
	switch l.dec.cooked(p.hardware, p.protocol, p.data, p.wire, s) {
	case isOther:
		l.stats.Other++
		return false
	case isFragment:
		l.stats.Fragments++
		return false
	case isBad:
		l.stats.Undecodable++
		if l.stats.FirstBad == "" {
			l.stats.FirstBad = "a packet on " + r.link(int32(p.index)).name + ": " + l.dec.why
		}
		return false
	}
	s.setZone(r.zone)
	if !l.filter.Match(s) {
		l.stats.Filtered++
		return false
	}
	s.Time = p.time
	if l.taps != nil {
		tap := uint64(r.fd)<<40 | uint64(p.index)<<8 | uint64(p.kind)
		if p.kind != packetOutgoing {
			tap &^= 0xff // to whom it is addressed makes no difference
		}
		if l.taps.again(s, tap) {
			l.stats.Repeated++
			return false
		}
	}
	l.stats.Segments++
	s.Frame = l.stats.Segments
	s.File = 0
	l.written = max(l.written, s.Time)
	if l.record != nil {
		p.iface = r.link(int32(p.index)).name
		p.addrLen = h[llAddrLen]
		copy(p.addr[:], h[llAddr:])
		l.err = l.record.packet(&p)
	}
	return true
}

// outgoingTag returns the protocol of what p.data begins with. Before Linux 6.11
// (commit 79eecf631c14), what leaves with a VLAN tag that no hardware adds begins
// with the IP header, but has the tag's protocol.
func outgoingTag(p *cooked) uint16 {
	switch p.protocol {
	case etherVLAN, etherQinQ:
	default:
		return p.protocol
	}
	if p.kind != packetOutgoing || len(p.data) < 4 {
		return p.protocol
	}
	switch binary.BigEndian.Uint16(p.data[2:]) { // of the tag, if there is one
	case etherIPv4, etherIPv6, etherVLAN, etherQinQ:
		return p.protocol
	}
	switch p.data[0] >> 4 {
	case 4:
		return etherIPv4
	case 6:
		return etherIPv6
	}
	return p.protocol
}

// wait waits until packets come, the clock ticks, or Close or Stop is called.
func (l *Live) wait() error {
	asked := time.Now()
	before := Time(asked.UnixNano()).Add(-margin)
	quiet := true
	for _, r := range l.rings {
		quiet = quiet && !r.ready()
	}
	if quiet {
		if stop := Time(l.stopped.Load()); stop != 0 && before > stop {
			l.reached = max(l.reached, stop)
			l.err = l.end(io.EOF)
			return l.err
		}
	} else {
		before = 0
	}
	if err := l.tick(asked, before); err != nil {
		return err
	}
	timeout := l.ticked.Add(tickEvery).Sub(asked)
	if !quiet {
		timeout = min(timeout, margin/8) // a packet is held back for another ring
	} else if l.stopped.Load() != 0 {
		timeout = min(timeout, margin)
	}
	ms := int(max(timeout, time.Millisecond) / time.Millisecond)
	watched := l.poll
	if !quiet {
		watched = l.poll[len(l.poll)-1:] // the rings' packets would end every poll at once
	}
	if _, err := unix.Poll(watched, ms); err != nil && !errors.Is(err, unix.EINTR) {
		l.err = l.end(fmt.Errorf("poll: %w", err))
		return l.err
	}
	if l.closed.Load() {
		return net.ErrClosed
	}
	if l.poll[len(l.poll)-1].Revents != 0 {
		var b [8]byte
		_, _ = unix.Read(l.wake, b[:]) // it only wakes
	}
	for i, r := range l.rings {
		if l.poll[i].Revents&unix.POLLERR != 0 {
			if err := r.clearError(); err != nil && !errors.Is(err, unix.ENETDOWN) {
				l.err = l.end(err)
				return l.err
			}
			l.looked = time.Time{} // an interface went down, or is gone
		}
		l.poll[i].Revents = 0
	}
	return nil
}

// tick does what is to be done now and then. Everything from before reached, if
// that is not 0, has been yielded.
func (l *Live) tick(now time.Time, reached Time) error {
	if reached != 0 {
		l.reached = max(l.reached, reached)
	}
	if d := now.Sub(l.ticked); d >= 0 && d < tickEvery {
		return nil
	}
	l.ticked = now
	l.countMissed()
	if l.endings() {
		l.err = l.end(io.EOF)
		return l.err
	}
	if now.Sub(l.looked).Abs() >= linkEvery {
		l.looked = now
		over := true
		for _, r := range l.rings {
			if r.ended != 0 { // its interfaces go with it
				over = false
				continue
			}
			l.notices = append(l.notices, r.look()...)
			over = over && r.over() && !r.ready()
		}
		if over {
			l.err = l.end(ErrGone)
			return l.err
		}
	}
	if l.record != nil {
		if l.err = l.record.Flush(); l.err != nil {
			return l.err
		}
	}
	return ErrTick
}

// endings lets go of the places that have ended. It reports whether that is true
// of all of them, or of all whose interfaces are not gone.
func (l *Live) endings() bool {
	ended, over := false, true
	for i := 0; i < len(l.rings); i++ {
		r := l.rings[i]
		now := Time(time.Now().UnixNano())
		if r.ended == 0 && r.place.Over != nil && r.place.Over() {
			r.ended = now
			l.notices = append(l.notices, r.place.Title+" has ended")
		}
		// What it did last may not have been handed over yet.
		if r.ended == 0 || r.ended.Add(margin) > now || r.ready() {
			over = over && r.over() && !r.ready()
			continue
		}
		ended = true
		l.reached = max(l.reached, min(r.ended, now))
		if len(l.rings) > 1 { // the socket holds what is left of the namespace
			r.close()
			l.rings = slices.Delete(l.rings, i, i+1)
			l.poll = slices.Delete(l.poll, i, i+1)
			i--
		}
	}
	return ended && over
}

func (l *Live) countMissed() {
	for _, r := range l.rings {
		l.stats.Missed += r.missed()
	}
}

// end completes the recording and returns err, or what went wrong with that.
func (l *Live) end(err error) error {
	if l.recorded {
		return err
	}
	l.recorded = true
	l.countMissed()
	l.stats.End = max(l.reached, l.written)
	if l.record != nil {
		if e := l.record.Close(l.stats.End, l.stats.Missed); e != nil {
			return e
		}
	}
	return err
}

// Reached returns up to which time everything has been yielded, as far as that is
// known: segments that come later are not older. It may be called between calls
// of Next.
func (l *Live) Reached() Time { return l.reached }

// Notices returns what happened to interfaces since the last call, each in a
// sentence. It may be called between calls of Next.
func (l *Live) Notices() []string {
	n := l.notices
	l.notices = nil
	return n
}

// Stop ends the capture: Next yields what was seen until now, and then io.EOF.
// It may be called from another goroutine.
func (l *Live) Stop() {
	l.stopped.CompareAndSwap(0, time.Now().UnixNano())
	l.rouse()
}

func (l *Live) rouse() {
	var one [8]byte
	native.PutUint64(one[:], 1)
	l.waking.Lock()
	defer l.waking.Unlock()
	if l.wake >= 0 {
		_, _ = unix.Write(l.wake, one[:]) // it fails only if it is awake as can be
	}
}

// Lasting implements [Source].
func (l *Live) Lasting() bool { return false }

// Files implements [Source].
func (l *Live) Files() []string { return []string{"live"} }

// Zones implements [Source].
func (l *Live) Zones() *Zones { return &l.zones }

// Stats implements [Source].
func (l *Live) Stats() Stats { return l.stats }

// Close implements [Source]. If it is called before Next has returned an error,
// the recording ends where Next came to.
func (l *Live) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	l.rouse()
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.end(nil)
	for _, r := range l.rings {
		r.close()
	}
	l.waking.Lock()
	defer l.waking.Unlock()
	if l.wake >= 0 {
		unix.Close(l.wake)
		l.wake = -1
	}
	return err
}
