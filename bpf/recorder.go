//go:build linux

package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"

	"whyreset/capture"
)

// RecorderConfig says what a [Recorder] watches.
type RecorderConfig struct {
	// Places are the network namespaces; none means the caller's own, on all
	// interfaces, unless Waits is set.
	Places []capture.Place
	// Waits has it go on while there is no place: some may be added.
	Waits bool
	// Filter says which segments are looked at. It can be changed with SetFilter.
	Filter capture.Filter
	// Cgroups are control groups, by the inode numbers of their directories in the
	// cgroup2 hierarchy: only connections are recorded of which a socket of one of
	// them, or of one below, has sent a segment. None means all. It takes TCX.
	Cgroups []uint64
	// Snap is how many bytes are kept of how each burst begins; 0 means
	// capture.MaxKept, which is the most.
	Snap int
	// Connections bounds those that are kept at once; 0 means DefaultConnections.
	Connections int
	// Ring is the size in bytes of the buffer through which records come up; the next
	// power of two is taken. 0 means DefaultRing.
	Ring int
	// Hook is where the programs are attached; the zero Hook takes TCX where the
	// kernel has it, else a socket filter.
	Hook Hook

	everything bool // every segment comes up: for tests of the parser
	replayed   bool // packets bear their times: for tests of the record
}

const (
	// DefaultConnections take 6 kB of the kernel's memory each while they are open.
	DefaultConnections = 32768
	// DefaultRing holds what a loaded machine's short connections send up until they
	// are read.
	DefaultRing = 32 << 20
)

// A Hook is a place on the path of packets where programs can be attached.
type Hook uint8

const (
	// AnyHook is the best that the kernel has.
	AnyHook Hook = iota
	// TCX is Linux 6.6's, at both ends of each interface's queue.
	TCX
	// SocketFilter is that of a packet socket, which gets no packets.
	SocketFilter
)

// String names the hook as messages do.
func (h Hook) String() string { return [...]string{"", "TCX", "a socket filter"}[h] }

const (
	// tickEvery is how often Next returns capture.ErrTick, and looks for records:
	// the kernel wakes it only when many come at once.
	tickEvery = 100 * time.Millisecond
	// rounded makes up for a reader that waits whole milliseconds, rounded down: what is
	// left of the last one would be waited for by asking over and over.
	rounded = time.Millisecond
	// lateness is how long ago a segment can have been stamped whose record is not
	// there yet.
	lateness = 5 * time.Millisecond
	// loadEvery is how often the servers' loads are read, and the table's filling.
	loadEvery = time.Second
	// full is the share of Connections, in percent, beyond which those that were
	// quiet longest are given up.
	full = 90
)

// A Recorder keeps the last segments of each connection in the kernel and yields
// them once something happened to it. It is a [capture.Source] whose Next also
// returns [capture.ErrTick]. The segments of one record are older than those that
// came before it, and in order among themselves.
type Recorder struct {
	maps     recorderMaps
	settings settings
	reader   *ringbuf.Reader
	taps     []*taps
	added    uint32 // how many there have been
	waits    bool
	zones    capture.Zones
	clock    clock
	replay   replay
	next     int // of replay.out
	raw      ringbuf.Record
	short    recorderConn // one that went up without the heads that it does not have

	mu      sync.Mutex // held by Next, so that Close frees nothing under it
	closed  atomic.Bool
	stopped atomic.Int64 // when Stop was called, as a capture.Time

	stats   capture.Stats
	ticked  time.Time
	loaded  time.Time
	reached capture.Time
	notices []string
	loads   []capture.Load
	rest    []*recorderConn // what was open when Stop was called
	dumped  bool
	resets  []resetConn
	taken   uint64 // connections taken out of the map here
	evicted uint64 // those of them that had not ended
	reuses  uint64 // requests on connections that had been used, of all servers
	pending uint64 // those that the kernel will not add to them any more
	yielded uint64
	err     error
}

// settings are what the programs of each place are loaded with.
type settings struct {
	snap, quarter int
	byCgroup      bool
	everything    bool
	replayed      bool
	hook          Hook
}

// OpenRecorder begins to record. It needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or
// CAP_SYS_ADMIN, then and when interfaces or places are to be added later; its errors
// are for [Explain].
func OpenRecorder(cfg RecorderConfig) (*Recorder, error) {
	r, err := newRecorder(&cfg)
	if err != nil {
		return nil, err
	}
	if len(cfg.Places) == 0 && !cfg.Waits {
		cfg.Places = []capture.Place{{}}
	}
	for _, p := range cfg.Places {
		if err := r.Add(p); err != nil {
			r.free()
			return nil, err
		}
	}
	return r, nil
}

// newRecorder returns a recorder without places.
func newRecorder(cfg *RecorderConfig) (_ *Recorder, err error) {
	if cfg.Snap == 0 {
		cfg.Snap = capture.MaxKept
	}
	if cfg.Connections == 0 {
		cfg.Connections = DefaultConnections
	}
	if cfg.Ring == 0 {
		cfg.Ring = DefaultRing
	}
	for size := os.Getpagesize(); ; size *= 2 {
		if size >= cfg.Ring {
			cfg.Ring = size
			break
		}
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, err
	}
	r := &Recorder{waits: cfg.Waits, settings: settings{
		snap: cfg.Snap, quarter: cfg.Ring / 4, byCgroup: len(cfg.Cgroups) > 0,
		everything: cfg.everything, replayed: cfg.replayed, hook: cfg.Hook,
	}}
	defer func() {
		if err != nil {
			r.free()
		}
	}()
	spec, err := loadRecorder()
	if err != nil {
		return nil, err
	}
	spec.Maps[recorderMapRing].MaxEntries = uint32(cfg.Ring)
	spec.Maps[recorderMapConns].MaxEntries = uint32(cfg.Connections)
	if err := spec.LoadAndAssign(&r.maps, nil); err != nil {
		return nil, err
	}
	if err := r.SetFilter(cfg.Filter); err != nil {
		return nil, err
	}
	if err := replace(r.maps.Cgroups, numbers[uint64](cfg.Cgroups)); err != nil {
		return nil, fmt.Errorf("set the recorder's control groups: %w", err)
	}
	r.replay.offset = r.clock.convert
	if r.reader, err = ringbuf.NewReader(r.maps.Ring); err != nil {
		return nil, err
	}
	r.ticked = time.Now()
	return r, nil
}

// Add has another place recorded from now on. It may be called between calls of Next.
func (r *Recorder) Add(p capture.Place) error {
	t := &taps{place: p, zone: r.zones.Add(p.Name), instance: r.added, links: map[int]tap{}}
	r.added++
	err := t.begin(&r.maps, &r.settings)
	if errors.Is(err, ErrNoTCX) && !r.settings.byCgroup {
		t.close()
		t.programs = programs{}
		r.settings.hook = SocketFilter
		err = t.begin(&r.maps, &r.settings)
	}
	if err != nil {
		t.close()
		return err
	}
	r.settings.hook = t.hook
	r.taps = append(r.taps, t)
	return nil
}

// Hook returns where the programs are attached.
func (r *Recorder) Hook() Hook { return r.settings.hook }

// SetFilter changes which segments are looked at. Connections that are no longer
// among them are kept until they are given up for being quiet. For a moment, both the
// old and the new filter do.
func (r *Recorder) SetFilter(f capture.Filter) error {
	var set, old uint32
	if len(f.Ports) > 0 {
		set |= byPort
	}
	if len(f.Prefixes) > 0 {
		set |= byPrefix
	}
	err := r.maps.Filters.Lookup(uint32(0), &old)
	if err == nil {
		// A filter that is to go goes first, so that nothing is judged by an empty one.
		err = errors.Join(
			r.maps.Filters.Put(uint32(0), set&old),
			r.maps.Ports.Put(uint32(0), portSet(f.Ports)),
			replace(r.maps.Prefixes, prefixKeys(f.Prefixes)),
			r.maps.Filters.Put(uint32(0), set),
		)
	}
	if err != nil {
		return fmt.Errorf("set the recorder's filter: %w", err)
	}
	return nil
}

// Next implements [capture.Source]. It returns io.EOF after [Recorder.Stop], once
// everything from before has been yielded, and what is kept of the connections that
// are open.
func (r *Recorder) Next(s *capture.Segment) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.err == nil {
		if r.closed.Load() {
			return net.ErrClosed
		}
		if r.next < len(r.replay.out) {
			*s = r.replay.out[r.next]
			r.next++
			r.yielded++
			if r.stats.First == 0 || s.Time < r.stats.First {
				r.stats.First = s.Time
			}
			r.stats.Last = max(r.stats.Last, s.Time)
			s.Frame = r.yielded
			return nil
		}
		if err := r.fill(); err != nil {
			return err
		}
	}
	return r.err
}

// fill gets the next of what has come up.
func (r *Recorder) fill() error {
	r.next = 0
	clear(r.replay.out)
	r.replay.out = r.replay.out[:0]
	if r.dumped {
		if len(r.rest) == 0 {
			r.end(io.EOF)
			return r.err
		}
		r.replay.record(r.rest[0])
		r.rest = r.rest[1:]
		return nil
	}
	asked := time.Now()
	if asked.Sub(r.ticked).Abs() >= tickEvery {
		return r.tick(asked)
	}
	stop := r.stopped.Load()
	if stop != 0 {
		r.reader.SetDeadline(asked)
	} else {
		r.reader.SetDeadline(r.ticked.Add(tickEvery + rounded))
	}
	switch err := r.reader.ReadInto(&r.raw); {
	case err == nil:
		return r.take(r.raw.RawSample)
	case errors.Is(err, ringbuf.ErrClosed):
		return net.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, ringbuf.ErrFlushed):
		r.reached = max(r.reached, capture.Time(asked.Add(-lateness).UnixNano()))
		if stop != 0 && r.reached > capture.Time(stop) {
			return r.dump()
		}
		if stop != 0 {
			time.Sleep(lateness / 2)
		}
		return nil
	default:
		r.end(fmt.Errorf("read the kernel's records: %w", err))
		return r.err
	}
}

func (r *Recorder) take(raw []byte) error {
	kind, ok := as[uint32](raw)
	if !ok {
		return fmt.Errorf("the kernel sent %d bytes", len(raw))
	}
	switch *kind {
	case aRecord:
		if len(raw) == int(unsafe.Sizeof(r.short)-unsafe.Sizeof(r.short.Heads)/2) {
			copy(unsafe.Slice((*byte)(unsafe.Pointer(&r.short)), len(raw)), raw)
			r.replay.record(&r.short)
			return nil
		}
		if c, ok := as[recorderConn](raw); ok {
			r.replay.record(c)
			return nil
		}
	case aSegment:
		if e, ok := as[recorderEvent](raw); ok {
			r.replay.event(e, raw)
			if e.Slot.Flags&uint8(capture.RST) != 0 && e.Born != 0 && len(r.resets) < maxResets {
				r.resets = append(r.resets, resetConn{e.Key, e.Born, r.ticked})
			}
			return nil
		}
	}
	return fmt.Errorf("the kernel sent %d bytes of kind %d", len(raw), *kind)
}

// dump gets what is kept of the connections that are open, the longest quiet first.
func (r *Recorder) dump() error {
	r.dumped = true
	if err := r.readLoads(); err != nil {
		r.end(err)
		return r.err
	}
	var k recorderKey
	c := new(recorderConn)
	for it := r.maps.Conns.Iterate(); it.Next(&k, c); c = new(recorderConn) {
		r.pending += uint64(c.Quick)
		if (c.Up == 0 || c.Told == 0) && !r.others(c) {
			r.rest = append(r.rest, c)
		}
	}
	sortByLast(r.rest)
	if err := r.count(); err != nil {
		r.end(err)
		return r.err
	}
	return nil
}

func sortByLast(all []*recorderConn) {
	slices.SortFunc(all, func(a, b *recorderConn) int { return cmp.Compare(a.last(), b.last()) })
}

// last returns when c was last heard of.
func (c *recorderConn) last() uint64 { return max(c.Half[0].Last, c.Half[1].Last) }

// others reports whether c is not of those that were asked for, or not yet.
func (r *Recorder) others(c *recorderConn) bool { return r.settings.byCgroup && c.Ours == 0 }

// ended reports whether c's end has gone up.
func (c *recorderConn) ended() bool {
	return c.Up != 0 && (c.Reset != 0 || c.Half[0].Fin != 0 || c.Half[1].Fin != 0)
}

// tick does what is to be done now and then.
func (r *Recorder) tick(now time.Time) error {
	r.ticked = now
	if err := r.count(); err != nil {
		r.end(err)
		return r.err
	}
	r.taps = slices.DeleteFunc(r.taps, func(t *taps) bool {
		if !t.over(now) {
			return false
		}
		t.close()
		r.notices = append(r.notices, t.place.Title+" has ended")
		return true
	})
	if len(r.taps) == 0 && !r.waits {
		r.Stop()
	}
	if now.Sub(r.loaded).Abs() >= loadEvery {
		r.loaded = now
		r.takeResets(now)
		for _, t := range r.taps {
			notices, err := t.attach(false)
			if r.notices = append(r.notices, notices...); err != nil {
				r.end(err)
				return r.err
			}
		}
		if err := r.readLoads(); err != nil {
			r.end(err)
			return r.err
		}
		if err := r.evict(); err != nil {
			r.end(err)
			return r.err
		}
	}
	return capture.ErrTick
}

// count reads the kernel's counters.
func (r *Recorder) count() error {
	var each []recorderCounters
	if err := r.maps.Counts.Lookup(uint32(0), &each); err != nil {
		return fmt.Errorf("read the kernel's counters: %w", err)
	}
	var sum recorderCounters
	words := func(c *recorderCounters) []uint64 {
		return unsafe.Slice(&c.Packets, unsafe.Sizeof(*c)/8)
	}
	for i := range each {
		for j, n := range words(&each[i]) {
			words(&sum)[j] += n
		}
	}
	s := &r.stats
	s.Packets, s.Bytes, s.Segments = sum.Packets, sum.Bytes, sum.Segments
	s.Filtered, s.Other, s.Fragments, s.Undecodable, s.Repeated = sum.Filtered, sum.Other, sum.Fragments, sum.Undecodable, sum.Repeated
	s.Missed = sum.LostRecords + sum.LostEvents
	s.Recorder = &capture.RecorderStats{
		Records: sum.Records, Segments: sum.Events, Lost: sum.LostRecords + sum.LostEvents, Full: sum.Full,
		Kept: sum.Opened - min(sum.Opened, sum.Closed+r.taken), Evicted: r.evicted, Reuses: r.reuses + r.pending,
	}
	if sum.Undecodable > 0 && s.FirstBad == "" {
		s.FirstBad = "by the recorder in the kernel, which does not say which"
	}
	return nil
}

// readLoads reads what the kernel counted of servers.
func (r *Recorder) readLoads() error {
	var k recorderEndpoint
	var l recorderLoad
	r.reuses = 0
	for it := r.maps.Servers.Iterate(); it.Next(&k, &l); {
		r.reuses += l.Reuses
		e := endpoint(&k.Addr, k.Port)
		if k.Zone != 0 && e.Loopback() {
			e.Zone = uint16(k.Zone)
		}
		load := capture.Load{Server: e, Open: int(l.Opened - min(l.Opened, l.Closed)), Reuses: l.Reuses, Longest: time.Duration(l.Longest)}
		for i, n := range l.Idle {
			if n > 0 {
				load.Idle = append(load.Idle, capture.IdleCount{From: bucketFloor(i), To: bucketFloor(i + 1), Count: uint64(n)})
			}
		}
		r.loads = append(r.loads, load)
	}
	return nil
}

// firstBucket is the bucket that begins at 2^15 microseconds, QUICK in recorder.h; all
// that is less is in bucket 0.
const firstBucket = 4 * 15

// bucketFloor returns the least idle time that the program puts into bucket i.
func bucketFloor(i int) time.Duration {
	if i == 0 {
		return 0
	}
	i = max(i, firstBucket)
	return time.Duration(uint64(4+i%4)<<(i/4-2)) * time.Microsecond
}

// Loads returns what the kernel counted of servers since the recorder began, if it
// was read since the last call.
func (r *Recorder) Loads() []capture.Load {
	l := r.loads
	r.loads = nil
	return l
}

// A resetConn was reset. In the map it stays a while: if the other end does not take
// the reset, it goes on.
type resetConn struct {
	key  recorderKey
	born uint64
	at   time.Time
}

const (
	// resetStays is longer than a verdict waits for what follows a reset.
	resetStays = 3 * time.Second
	// maxResets bounds those that wait to be taken out of the map; what is beyond it
	// goes first when the map fills.
	maxResets = 1 << 16
)

// takeResets takes the connections out of the map that were reset a while ago.
func (r *Recorder) takeResets(now time.Time) {
	n := 0
	var c recorderConn
	for ; n < len(r.resets) && now.Sub(r.resets[n].at) >= resetStays; n++ {
		e := &r.resets[n]
		if r.maps.Conns.Lookup(&e.key, &c) == nil && c.Born == e.born && c.Reset != 0 && r.maps.Conns.Delete(&e.key) == nil {
			r.taken++
		}
	}
	r.resets = slices.Delete(r.resets, 0, n)
}

// evict gives up connections that were quiet longest where little room is left.
func (r *Recorder) evict() error {
	size := uint64(r.maps.Conns.MaxEntries())
	if r.stats.Recorder.Kept*100 < size*full {
		return nil
	}
	type candidate struct {
		key  recorderKey
		done bool // nothing more is to be told of it
		last uint64
	}
	var all []candidate
	var k recorderKey
	c := new(recorderConn)
	for it := r.maps.Conns.Iterate(); it.Next(&k, c); {
		met := c.Half[0].Packets > 0 && c.Half[1].Packets > 0 // else it may be ours yet
		all = append(all, candidate{k, c.ended() || r.others(c) && met, c.last()})
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(boolByte(b.done), boolByte(a.done)), cmp.Compare(a.last, b.last))
	})
	keep := int(size * (full - 10) / 100)
	for i := 0; len(all)-i > keep; i++ {
		c := new(recorderConn)
		if r.maps.Conns.Lookup(&all[i].key, c) != nil || r.maps.Conns.Delete(&all[i].key) != nil {
			continue // it ended meanwhile
		}
		r.taken++
		if r.others(c) {
			continue
		}
		r.pending += uint64(c.Quick)
		if !c.ended() {
			r.evicted++
		}
		if c.Up == 0 {
			r.replay.record(c)
		}
	}
	return nil
}

func (r *Recorder) end(err error) {
	if r.err == nil {
		r.err = err
	}
	r.stats.End = r.reached
}

// Reached returns up to which time everything has been yielded, as far as that is
// known, but for what is kept. It may be called between calls of Next.
func (r *Recorder) Reached() capture.Time { return r.reached }

// Notices returns what happened to interfaces since the last call, each in a
// sentence. It may be called between calls of Next.
func (r *Recorder) Notices() []string {
	n := r.notices
	r.notices = nil
	return n
}

// Stop ends the recording: Next yields what came up until now and what is kept, and
// then io.EOF. It may be called from another goroutine.
func (r *Recorder) Stop() {
	r.stopped.CompareAndSwap(0, time.Now().UnixNano())
	_ = r.reader.Flush() // it fails once the reader is closed
}

// Lasting implements [capture.Source].
func (r *Recorder) Lasting() bool { return false }

// Files implements [capture.Source].
func (r *Recorder) Files() []string { return []string{"live"} }

// Zones implements [capture.Source].
func (r *Recorder) Zones() *capture.Zones { return &r.zones }

// Stats implements [capture.Source].
func (r *Recorder) Stats() capture.Stats { return r.stats }

// Close implements [capture.Source].
func (r *Recorder) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	err := r.reader.Close() // wakes Next
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free()
	return err
}

func (r *Recorder) free() {
	for _, t := range r.taps {
		t.close()
	}
	r.taps = nil
	if r.reader != nil {
		r.reader.Close()
	}
	r.maps.Close()
}

var _ capture.Source = (*Recorder)(nil)
