//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"whyreset/capture"
)

// taps are the programs of one place, and where they are attached.
type taps struct {
	place    capture.Place
	zone     uint16
	instance uint32
	hook     Hook
	byCgroup bool
	programs programs
	links    map[int]tap // by interface index
	sockets  []int       // of socket filters
	ended    time.Time   // when the place had; zero: it has not
}

// programs are those that are loaded: of one hook, TCX where that is not decided yet.
type programs struct {
	ends
	filter
}

type ends struct {
	In  *ebpf.Program `ebpf:"record_in"`
	Out *ebpf.Program `ebpf:"record_out"`
}

type filter struct {
	Enter  *ebpf.Program `ebpf:"enter_socket"` // goes on with the next
	Socket *ebpf.Program `ebpf:"record_socket"`
	// Recorders is what Enter finds the next in. The kernel empties it once nobody
	// has it open.
	Recorders *ebpf.Map `ebpf:"recorders"`
}

// A tap is what is attached to one interface.
type tap struct {
	name  string
	links []link.Link
}

func (t *tap) close() {
	for _, l := range t.links {
		l.Close()
	}
}

// begin loads the programs and attaches them. It returns ErrNoTCX if the hook was not
// decided and the kernel has none.
func (t *taps) begin(maps *recorderMaps, s *settings) error {
	if err := t.load(maps, s); err != nil {
		return err
	}
	_, err := t.attach(true)
	return err
}

// ErrNoTCX means that there is no hook that tells whose sockets packets leave.
var ErrNoTCX = errors.New("this kernel has no TCX (Linux 6.6), which tells whose sockets packets leave")

// load loads the programs of t: each place has its own, since what tells it apart
// from the others is part of them.
func (t *taps) load(maps *recorderMaps, s *settings) error {
	spec, err := loadRecorder()
	if err != nil {
		return err
	}
	for _, v := range []struct {
		name  string
		value any
	}{
		{recorderVarZone, uint32(t.zone)}, {recorderVarInstance, t.instance}, {recorderVarSnap, uint32(s.snap)},
		{recorderVarByCgroup, boolByte(s.byCgroup)}, {recorderVarEverything, boolByte(s.everything)}, {recorderVarReplayed, boolByte(s.replayed)}, {recorderVarRingQuarter, uint64(s.quarter)},
	} {
		if err := spec.Variables[v.name].Set(v.value); err != nil {
			return err
		}
	}
	for name, m := range map[string]*ebpf.Map{recorderMapConns: maps.Conns, recorderMapRing: maps.Ring} {
		spec.Maps[name].MaxEntries = m.MaxEntries()
	}
	t.hook, t.byCgroup = s.hook, s.byCgroup
	var programs any = &t.programs.ends
	if t.hook == SocketFilter {
		programs = &t.programs.filter
	}
	err = spec.LoadAndAssign(programs, &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		recorderMapBlank: maps.Blank, recorderMapBlankLoad: maps.BlankLoad, recorderMapCgroups: maps.Cgroups, recorderMapConns: maps.Conns,
		recorderMapCounts: maps.Counts, recorderMapFilters: maps.Filters, recorderMapPacket: maps.Packet,
		recorderMapPorts: maps.Ports, recorderMapPrefixes: maps.Prefixes, recorderMapRing: maps.Ring,
		recorderMapServers: maps.Servers,
	}})
	if err != nil || t.hook != SocketFilter {
		return err
	}
	if err := t.programs.Recorders.Put(uint32(0), t.programs.Socket); err != nil {
		return fmt.Errorf("let a socket filter go on with the recorder: %w", err)
	}
	return nil
}

func boolByte(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// all reports whether every interface is meant, and those that come.
func (t *taps) all() bool {
	return len(t.place.Interfaces) == 0 || slices.Contains(t.place.Interfaces, "any")
}

// attach attaches the programs to the interfaces that are meant and have none. The
// first time, all that are named must be there.
func (t *taps) attach(first bool) (notices []string, err error) {
	if t.hook == SocketFilter && !first && t.all() || !t.ended.IsZero() {
		return nil, nil // a packet socket sees those that come
	}
	work := func() (err error) {
		notices, err = t.attachHere(first)
		return err
	}
	if t.place.Enter != nil {
		err = t.place.Enter(work)
	} else {
		err = work()
	}
	if err != nil && !first {
		return append(notices, fmt.Sprintf("interfaces of %s that came are not watched: %v", &t.place, err)), nil
	}
	return notices, err
}

func (t *taps) attachHere(first bool) (notices []string, err error) {
	there, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for index, tap := range t.links {
		if !slices.ContainsFunc(there, func(i net.Interface) bool { return i.Index == index }) {
			tap.close()
			delete(t.links, index)
			if !t.all() {
				notices = append(notices, fmt.Sprintf("interface %s was removed: nothing more is captured on it", tap.name))
			}
		}
	}
	if first && !t.all() {
		for _, name := range t.place.Interfaces {
			if !slices.ContainsFunc(there, func(i net.Interface) bool { return i.Name == name }) {
				return nil, fmt.Errorf("there is no interface %q; there are %s", name, names(there))
			}
		}
	}
	switch {
	case !first:
	case t.hook == SocketFilter:
		return nil, t.filterSockets(there)
	case t.hook != TCX:
		if err := t.tryTCX(there); err != nil {
			return nil, err
		}
	}
	for _, i := range there {
		if _, ok := t.links[i.Index]; ok || !t.all() && (!first || !slices.Contains(t.place.Interfaces, i.Name)) {
			continue
		}
		if err := t.attachTo(&i); err != nil {
			if errors.Is(err, unix.ENODEV) && t.all() { // it went
				continue
			}
			return notices, err
		}
	}
	return notices, nil
}

// tryTCX decides between the hooks.
func (t *taps) tryTCX(there []net.Interface) error {
	if len(there) == 0 {
		return ErrNoTCX
	}
	err := t.attachTo(&there[0])
	switch {
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EINVAL):
		return ErrNoTCX
	case err != nil:
		return err
	}
	t.hook = TCX
	if !t.all() && !slices.Contains(t.place.Interfaces, there[0].Name) {
		tap := t.links[there[0].Index]
		tap.close()
		delete(t.links, there[0].Index)
	}
	return nil
}

func (t *taps) attachTo(i *net.Interface) error {
	in := link.TCXOptions{Interface: i.Index, Program: t.programs.In, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()}
	out := link.TCXOptions{Interface: i.Index, Program: t.programs.Out, Attach: ebpf.AttachTCXEgress, Anchor: link.Tail()}
	hooks := []link.TCXOptions{in, out}
	switch loopback := i.Flags&net.FlagLoopback != 0; { // there, what goes out comes in again
	case loopback && t.byCgroup:
		hooks = hooks[1:]
	case loopback:
		hooks = hooks[:1]
	}
	to := tap{name: i.Name}
	for _, h := range hooks {
		l, err := link.AttachTCX(h)
		if err != nil {
			to.close()
			return fmt.Errorf("attach to %s: %w", i.Name, err)
		}
		to.links = append(to.links, l)
	}
	t.links[i.Index] = to
	return nil
}

// filterSockets opens packet sockets whose filter is the program. They get nothing:
// it says that it wants none of each packet.
func (t *taps) filterSockets(there []net.Interface) error {
	var on []int
	if t.all() {
		on = []int{0}
	}
	for _, i := range there {
		if !t.all() && slices.Contains(t.place.Interfaces, i.Name) {
			on = append(on, i.Index)
		}
	}
	for _, index := range on {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("%w: %w", errPacketSocket, err)
		}
		t.sockets = append(t.sockets, fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, t.programs.Enter.FD()); err != nil {
			return fmt.Errorf("attach to a packet socket: %w", err)
		}
		// Only now, with the filter in place, packets come.
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allProtocols, Ifindex: index}); err != nil {
			return fmt.Errorf("bind a packet socket: %w", err)
		}
	}
	return nil
}

// allProtocols is ETH_P_ALL as on the wire.
var allProtocols = binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})

// over reports whether what is watched here has ended. What it did last comes up.
func (t *taps) over(now time.Time) bool {
	if t.ended.IsZero() && t.place.Over != nil && t.place.Over() {
		t.ended = now
	}
	return !t.ended.IsZero() && now.Sub(t.ended) > tickEvery
}

func (t *taps) close() {
	for _, tap := range t.links {
		tap.close()
	}
	for _, fd := range t.sockets {
		unix.Close(fd)
	}
	for _, p := range []*ebpf.Program{t.programs.In, t.programs.Out, t.programs.Enter, t.programs.Socket} {
		p.Close() // nil if it was not loaded
	}
	t.programs.Recorders.Close()
}

func names(all []net.Interface) string {
	var s string
	for i, n := range all {
		if i > 0 {
			s += ", "
		}
		s += n.Name
	}
	return s
}
