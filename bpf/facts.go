//go:build linux

package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"

	"whyreset/capture"
)

// FactsConfig says of which sockets [Facts] tell. Every list that is empty lets all
// pass.
type FactsConfig struct {
	// Filter is by ports and addresses, of either end.
	Filter capture.Filter
	// Namespaces are network namespaces, by inode number.
	Namespaces []uint64
	// Processes and Cgroups are owners of sockets: processes by number, cgroups by
	// the inode numbers of their directories in the cgroup2 hierarchy, with those
	// below them. One of either is enough. A fact whose owner stays unknown does
	// not pass.
	Processes []int
	Cgroups   []uint64
	// Closes asks for every close too; without it, only those are told of that no
	// reset tells of and that left something unread. It cannot be changed later.
	Closes bool
	// Buffer is the size of the ring that the kernel puts facts into, in bytes,
	// rounded up to a power of two; 0 means DefaultFactsBuffer. It cannot be
	// changed later.
	Buffer int
}

// DefaultFactsBuffer holds about 2,200 facts.
const DefaultFactsBuffer = 1 << 20

// FactStats count what the kernel had to tell.
type FactStats struct {
	Facts uint64 // handed over
	Lost  uint64 // came when the ring was full, or at a moment when none can be taken
}

// Facts are what the kernel tells of its sockets, in all network namespaces. They
// cost nothing per packet and per request.
//
// Read, Flush and SetFilter may not be called at the same time; Stats and Close may.
type Facts struct {
	objects factsObjects
	links   []link.Link
	ring    *ringbuf.Reader
	record  ringbuf.Record
	reasons map[uint32]string
	reason  bool // the kernel tells of resets without a full socket too, and why
	clock   clock
	tick    time.Duration
	owners  owners
	filter  FactsConfig
	held    []heldFact
	facts   atomic.Uint64
	lost    atomic.Uint64 // as last asked for, for when the kernel has let go of it
}

// A heldFact waits for its owner.
type heldFact struct {
	fact   *capture.SocketFact
	socket uint64 // tells sockets apart while they live
	inode  uint64 // of the file that has the socket; 0 if none has
	since  time.Time
}

// holdFor is for how long a fact waits for the socket's owner to close it: most do
// at once when they are told that the connection was reset. Whoever has not by then
// still has it open, and is found by that.
const holdFor = 100 * time.Millisecond

// maxHeld bounds the facts that wait.
const maxHeld = 4096

// ownedKind is of the record that tells whose a socket was, in facts.h.
const ownedKind = 5

// The flags of a record, in facts.h.
const (
	activeFlag = 1 << iota
	unreadFlag
	segmentFlag
	idleFlag
	socketFlag
	pendingFlag
)

// OpenFacts has the kernel tell of its sockets from now on. If it cannot, the error
// says what is missing, as [Explain] does.
func OpenFacts(c FactsConfig) (*Facts, error) {
	types, err := kernelTypes(btfFile)
	if err != nil {
		return nil, err
	}
	has, err := readFeatures(types)
	if err != nil {
		return nil, err
	}
	f, err := openFacts(c, types, has)
	// Kernels from 6.4 have the function, but let such programs call it only from
	// 6.12 on (8aeaed21befc); their types do not tell which.
	var refused *ebpf.VerifierError
	if has.dynptr && errors.As(err, &refused) {
		has.dynptr = false
		f, err = openFacts(c, types, has)
	}
	return f, Explain(err)
}

// openFacts loads the programs for a kernel that has certain features, and attaches
// them.
func openFacts(c FactsConfig, types *btf.Spec, has kernelFeatures) (_ *Facts, err error) {
	f := &Facts{reasons: readReasons(types), reason: has.reason}
	if f.tick, err = tick(); err != nil {
		return nil, fmt.Errorf("resolution of CLOCK_MONOTONIC_COARSE: %w", err)
	}
	spec, err := loadFacts()
	if err != nil {
		return nil, err
	}
	size := ringSize(c.Buffer)
	spec.Maps[factsMapRing].MaxEntries = size
	for name, value := range map[string]any{
		"has_reason":         flag(has.reason),
		"has_cgroup":         flag(has.cgroup),
		"has_cgroup_pointer": flag(has.cgroupPointer),
		"has_dynptr":         flag(has.dynptr),
		"want_closes":        flag(c.Closes),
		"pid_namespace":      has.pids,
		"wakeup_bytes":       size / 4,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	// Before Linux 5.11, maps count as locked memory. Where it may not be raised,
	// they may still fit.
	limit := rlimit.RemoveMemlock()
	if err := spec.LoadAndAssign(&f.objects, &ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: types}}); err != nil {
		if limit != nil && errors.Is(err, os.ErrPermission) {
			err = fmt.Errorf("%w: %w", errMemlock, err)
		}
		return nil, fmt.Errorf("load programs: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := f.SetFilter(c); err != nil {
		return nil, err
	}
	if f.ring, err = ringbuf.NewReader(f.objects.Ring); err != nil {
		return nil, fmt.Errorf("map the ring: %w", err)
	}
	for _, p := range []*ebpf.Program{f.objects.DestroySock, f.objects.SetState, f.objects.ReceiveReset, f.objects.SendReset} {
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			return nil, fmt.Errorf("attach to a tracepoint: %w", err)
		}
		f.links = append(f.links, l)
	}
	return f, nil
}

func flag(on bool) uint8 {
	if on {
		return 1
	}
	return 0
}

// ringSize returns the size of a ring: a power of two, and of whole pages.
func ringSize(wanted int) uint32 {
	if wanted <= 0 {
		wanted = DefaultFactsBuffer
	}
	size := os.Getpagesize()
	for size < wanted && size < 1<<30 {
		size *= 2
	}
	return uint32(size)
}

// Read hands over what the kernel has told, waiting up to a time for it; the kernel
// wakes nobody before a quarter of the ring is full. The facts are emit's own, in no
// strict order. One whose owner is not known yet comes up to a quarter of a second
// late, if Read is called that often. It returns os.ErrClosed once Close has been
// called.
func (f *Facts) Read(wait time.Duration, emit func(*capture.SocketFact)) error {
	if f.ring.AvailableBytes() > 0 {
		wait = 0
	}
	deadline := time.Now().Add(wait)
	if len(f.held) > 0 {
		if due := f.held[0].since.Add(holdFor); due.Before(deadline) {
			deadline = due
		}
	}
	if wait > 0 {
		deadline = deadline.Add(rounded)
	}
	f.ring.SetDeadline(deadline)
	// What comes while this goes on counts as well, but not without end.
	for range 1 << 16 {
		err := f.ring.ReadInto(&f.record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			return err
		}
		f.ring.SetDeadline(time.Unix(1, 0)) // what is there, and no waiting for more
		if err := f.take(f.record.RawSample, emit); err != nil {
			return err
		}
	}
	f.release(time.Now().Add(-holdFor), emit)
	return nil
}

// Flush hands over what waits for its owner, with what is known of that. To be
// called at the end, after a last Read.
func (f *Facts) Flush(emit func(*capture.SocketFact)) { f.release(time.Now(), emit) }

// take reads a record.
func (f *Facts) take(sample []byte, emit func(*capture.SocketFact)) error {
	var r factsRecord
	if len(sample) < binary.Size(r) {
		return fmt.Errorf("a fact of %d bytes, want %d", len(sample), binary.Size(r))
	}
	if _, err := binary.Decode(sample, binary.NativeEndian, &r); err != nil {
		return err
	}
	if r.Kind == ownedKind {
		f.settle(&r, emit)
		return nil
	}
	fact := f.fact(&r)
	if fact.Owner.PID == 0 && r.Flags&pendingFlag != 0 && len(f.held) < maxHeld {
		f.held = append(f.held, heldFact{fact, r.Socket, r.Inode, time.Now()})
		return nil
	}
	if fact.Owner.PID == 0 && r.Inode != 0 {
		f.owners.find(r.Inode, &fact.Owner)
	}
	f.emit(fact, emit)
	return nil
}

// fact translates a record.
func (f *Facts) fact(r *factsRecord) *capture.SocketFact {
	x := &capture.SocketFact{
		Time:   f.clock.convert(r.Time),
		Kind:   capture.FactKind(r.Kind),
		Local:  capture.Endpoint{Addr: r.Local, Port: r.LocalPort},
		Remote: capture.Endpoint{Addr: r.Remote, Port: r.RemotePort},
		Active: r.Flags&activeFlag != 0,
		Where:  uint64(r.Netns),
	}
	if x.Kind == capture.ResetSent {
		x.Reason = f.reasons[r.Reason]
	}
	if r.Flags&socketFlag != 0 {
		x.State, x.NewState = stateName(r.State), stateName(r.NewState)
	}
	if r.Flags&unreadFlag != 0 {
		x.HasUnread, x.Unread, x.RcvNxt = true, r.Unread, r.RcvNxt
	}
	if r.Flags&segmentFlag != 0 {
		x.HasSegment, x.Seq, x.Ack, x.Len = true, r.Seq, r.Ack, int(r.Len)
	}
	if r.Flags&idleFlag != 0 {
		x.HasIdle, x.Idle = true, time.Duration(r.Idle)*f.tick
	}
	if n := min(int(r.HeadLen), len(r.Head)); n > 0 {
		x.Head = slices.Clone(r.Head[:n])
	}
	x.Owner.PID, x.Owner.Command = int(r.Pid), command(&r.Command)
	x.Owner.Cgroup = f.owners.groups.path(r.Cgroup)
	return x
}

// command returns the name of a process as the kernel keeps it.
func command(c *[16]int8) string {
	b := make([]byte, 0, len(c))
	for _, x := range c {
		b = append(b, byte(x))
	}
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

// settle says whose socket it was that facts are held of.
func (f *Facts) settle(r *factsRecord, emit func(*capture.SocketFact)) {
	f.held = slices.DeleteFunc(f.held, func(h heldFact) bool {
		if h.socket != r.Socket {
			return false
		}
		o := &h.fact.Owner
		o.PID, o.Command = int(r.Pid), command(&r.Command)
		if path := f.owners.groups.path(r.Cgroup); path != "" {
			o.Cgroup = path
		}
		f.emit(h.fact, emit)
		return true
	})
}

// release hands over the facts that have been held since a time or longer. Their
// sockets are still open, unless the kernel closed them.
func (f *Facts) release(since time.Time, emit func(*capture.SocketFact)) {
	n := 0
	for n < len(f.held) && !f.held[n].since.After(since) {
		h := &f.held[n]
		if h.inode != 0 {
			f.owners.find(h.inode, &h.fact.Owner)
		}
		f.emit(h.fact, emit)
		n++
	}
	f.held = slices.Delete(f.held, 0, n)
}

// emit hands over a fact if its owner is of those that were asked for: the kernel
// lets pass what it does not know the process of.
func (f *Facts) emit(x *capture.SocketFact, emit func(*capture.SocketFact)) {
	if len(f.filter.Processes) > 0 && !slices.Contains(f.filter.Processes, x.Owner.PID) && !f.within(x.Owner.Cgroup) {
		return
	}
	f.owners.contain(&x.Owner)
	f.facts.Add(1)
	emit(x)
}

// within reports whether a cgroup is one of those that were asked for, or below one.
func (f *Facts) within(path string) bool {
	return path != "" && slices.ContainsFunc(f.filter.Cgroups, func(id uint64) bool {
		above := f.owners.groups.path(id)
		return above != "" && (path == above || strings.HasPrefix(path, above+"/"))
	})
}

// Held returns when the earliest of the facts happened that wait for their owners; 0
// if none does.
func (f *Facts) Held() capture.Time {
	var first capture.Time
	for i := range f.held {
		if at := f.held[i].fact.Time; first == 0 || at < first {
			first = at
		}
	}
	return first
}

// Whole reports whether the kernel tells of every reset that its TCP sends in the
// namespaces and on the ports that were asked for, but for those that are counted as
// lost. Before Linux 6.10 it does not tell of those that no full socket sends; what
// came with that (b533fb9cf4f7) shows in the tracepoint's arguments. Whose sockets
// they are is not always known, so that nothing is told of some where that is asked
// for.
func (f *Facts) Whole() bool {
	_, err := f.missed()
	return f.reason && err == nil && len(f.filter.Processes)+len(f.filter.Cgroups) == 0
}

// missed returns how often the kernel did not run a program because it was just
// running on the same CPU: when a process is interrupted that closes a socket, by a
// segment that is answered with a reset (__bpf_trace_run in kernel/trace/bpf_trace.c).
func (f *Facts) missed() (n uint64, err error) {
	for _, p := range []*ebpf.Program{f.objects.SendReset, f.objects.ReceiveReset, f.objects.SetState, f.objects.DestroySock} {
		if p == nil {
			continue
		}
		s, err := p.Stats()
		if err != nil {
			return 0, err
		}
		n += s.RecursionMisses
	}
	return n, nil
}

// Stats counts so far.
func (f *Facts) Stats() FactStats {
	var lost uint64
	if f.objects.Lost != nil && f.objects.Lost.Get(&lost) == nil {
		if missed, err := f.missed(); err == nil {
			lost += missed
		}
		f.lost.Store(max(lost, f.lost.Load()))
	}
	return FactStats{f.facts.Load(), f.lost.Load()}
}

// Close ends it. Stats keeps what it was.
func (f *Facts) Close() error {
	f.Stats()
	var errs []error
	for _, l := range f.links {
		errs = append(errs, l.Close())
	}
	if f.ring != nil {
		errs = append(errs, f.ring.Close())
	}
	return errors.Join(append(errs, f.objects.Close())...)
}
