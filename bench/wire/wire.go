//go:build linux

// Package wire is a link between two network namespaces whose every packet is
// in this program's hands.
//
// Each end is a TUN device in a namespace of its own. A loop between the two
// delays, jitters, drops, duplicates and reorders packets, injects forged ones,
// and forgets connections as a NAT box would. It does in user space what netem
// and a middlebox would do, on kernels that have neither.
//
// TUN devices here do no segmentation offload: every packet fits the MTU.
//
// It needs root, /dev/net/tun, and the ip program of iproute2.
package wire

import (
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"whyreset/bench/netns"
)

// A Side is an end of the wire.
type Side int

// The ends. Nothing makes them differ but their addresses.
const (
	Client Side = iota
	Server
)

// Other returns the opposite end.
func (s Side) Other() Side { return 1 - s }

// String returns "client" or "server".
func (s Side) String() string { return [...]string{"client", "server"}[s] }

// A Link says how packets fare in one direction. The zero Link passes them on
// at once.
type Link struct {
	Delay  time.Duration
	Jitter time.Duration // up to this much is added to each delay; the order is kept

	Drop      float64       // probability that a packet is lost
	Duplicate float64       // probability that it arrives twice
	Reorder   float64       // probability that it is held back
	HoldBack  time.Duration // by this much beyond its delay, while others overtake it; 5 ms if it is 0

	// Filter, if not nil, is asked for each packet, before chance is. It runs on
	// the wire's own goroutine: it must not block, and must not keep Data. It
	// may call the wire's methods.
	Filter func(*Packet) Fate
}

// A Fate is what a [Link.Filter] wants done to a packet.
type Fate int

const (
	Pass Fate = iota // leave it to chance
	Keep             // deliver it, whatever chance says
	Lose
	Twice
	Late // hold it back
)

// Config describes a wire. The zero Config is an ideal one.
type Config struct {
	ToServer, ToClient Link
	// Hops is taken off each packet's TTL, as that many routers would.
	Hops uint8
	// MTU of both devices; 1500 if it is 0.
	MTU int
	// Addresses of the two ends, in one subnet or several. Without any, the
	// client is 10.77.0.1 and fd77::1, the server 10.77.0.2 and fd77::2.
	ClientAddrs, ServerAddrs []netip.Prefix
	// Seed of all chance. The same seed does not give the same run, since the
	// kernels at both ends have clocks of their own.
	Seed uint64
}

// Device is the name of the TUN device in both namespaces.
const Device = "wire0"

// A Wire joins two namespaces. Its methods may be called from several
// goroutines at once.
type Wire struct {
	Client, Server *netns.Namespace

	hops uint8
	tun  [2]int // file descriptors, by Side
	wake int    // an eventfd that interrupts the loop's wait
	gone chan struct{}

	mu        sync.Mutex
	links     [2]Link // by the Side that packets travel to
	injected  []parcel
	forgotten map[Flow]Amnesia
	stats     [2]Stats
	closed    bool
}

// Stats count the packets that travelled to one end.
type Stats struct {
	Entered, Delivered, Dropped, Duplicated, Reordered, Injected, Forgotten uint64
}

// A Flow names a TCP connection.
type Flow struct{ Client, Server netip.AddrPort }

// An Amnesia says how packets of a forgotten flow are treated.
type Amnesia struct {
	// Reset makes the box on the way answer every segment that is no RST with a
	// RST in the other end's name. Otherwise packets vanish without a trace.
	Reset bool
	// TTL of such a RST when it leaves the box; 64 if it is 0.
	TTL uint8
}

// New makes two namespaces and the wire between them.
func New(cfg Config) (*Wire, error) {
	if cfg.MTU == 0 {
		cfg.MTU = 1500
	}
	if len(cfg.ClientAddrs)+len(cfg.ServerAddrs) == 0 {
		cfg.ClientAddrs = []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24"), netip.MustParsePrefix("fd77::1/64")}
		cfg.ServerAddrs = []netip.Prefix{netip.MustParsePrefix("10.77.0.2/24"), netip.MustParsePrefix("fd77::2/64")}
	}
	w := &Wire{
		hops: cfg.Hops, tun: [2]int{-1, -1}, wake: -1, gone: make(chan struct{}),
		links:     [2]Link{Client: cfg.ToClient, Server: cfg.ToServer},
		forgotten: map[Flow]Amnesia{},
	}
	if err := w.open(cfg); err != nil {
		close(w.gone)
		w.Close()
		return nil, err
	}
	l := newLoop(w, cfg.Seed)
	go l.run()
	return w, nil
}

func (w *Wire) open(cfg Config) (err error) {
	if w.Client, err = netns.New("wire-client"); err != nil {
		return err
	}
	if w.Server, err = netns.New("wire-server"); err != nil {
		return err
	}
	if w.tun[Client], err = openTUN(w.Client, cfg.MTU, cfg.ClientAddrs); err != nil {
		return err
	}
	if w.tun[Server], err = openTUN(w.Server, cfg.MTU, cfg.ServerAddrs); err != nil {
		return err
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	return nil
}

// openTUN makes the device in the namespace and returns its non-blocking file
// descriptor.
func openTUN(ns *netns.Namespace, mtu int, addrs []netip.Prefix) (int, error) {
	fd := -1
	err := ns.Do(func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
			return &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
		}
		ifr, err := unix.NewIfreq(Device)
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		return os.NewSyscallError("ioctl TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return -1, err
	}
	// Without nodad an IPv6 address is unusable for its first second.
	steps := [][]string{{"link", "set", Device, "mtu", fmt.Sprint(mtu)}}
	for _, a := range addrs {
		step := []string{"addr", "add", a.String(), "dev", Device}
		if a.Addr().Is6() {
			step = append(step, "nodad")
		}
		steps = append(steps, step)
	}
	steps = append(steps, []string{"link", "set", Device, "up"})
	for _, step := range steps {
		if err := ns.IP(step...); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

// Close takes the wire down and removes both namespaces. It may be called twice.
func (w *Wire) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	w.mu.Unlock()
	w.rouse()
	<-w.gone
	var first error
	for _, fd := range []int{w.tun[Client], w.tun[Server], w.wake} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	for _, ns := range []*netns.Namespace{w.Client, w.Server} {
		if ns == nil {
			continue
		}
		if err := ns.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// rouse makes the loop look at what has changed.
func (w *Wire) rouse() {
	if w.wake >= 0 {
		unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// Link returns how packets fare on their way to an end.
func (w *Wire) Link(toward Side) Link {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.links[toward]
}

// SetLink changes how packets fare on their way to an end. Those that are
// already on their way are not affected.
func (w *Wire) SetLink(toward Side, l Link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.links[toward] = l
}

// Inject delivers a packet, such as one that [Forge] made, to an end after the
// given time. Nothing else happens to it on the way.
func (w *Wire) Inject(toward Side, data []byte, after time.Duration) {
	w.mu.Lock()
	w.injected = append(w.injected, parcel{due: time.Now().Add(after), toward: toward, data: data})
	w.stats[toward].Injected++
	w.mu.Unlock()
	w.rouse()
}

// Forget makes the box on the way forget a connection: from now on none of its
// packets gets through. Packets that are already on their way still arrive.
func (w *Wire) Forget(f Flow, how Amnesia) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forgotten[f] = how
}

// Remember undoes Forget.
func (w *Wire) Remember(f Flow) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.forgotten, f)
}

// Stats counts the packets that travelled to an end so far.
func (w *Wire) Stats(toward Side) Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats[toward]
}
