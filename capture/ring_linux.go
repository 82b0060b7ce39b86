package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A ring is a socket of AF_PACKET and the memory that the kernel puts packets
// into, TPACKET_V3 (Documentation/networking/packet_mmap.rst). Its packets begin
// with the network header: SOCK_DGRAM makes those of Ethernet, PPP, tunnels and
// bare IP alike, and says their protocol beside them.
type ring struct {
	fd     int
	mem    []byte
	blocks int
	at     int  // the block that is read or comes next
	held   bool // it is ours
	left   uint32
	next   int // offset of the next packet in mem
	place  *Place
	zone   uint16
	ended  Time // when its place was over; 0: it is not
	all    bool // of all interfaces
	links  map[int32]*netLink
	named  []*netLink
}

// A netLink is a network interface.
type netLink struct {
	name  string // with its place
	plain string // without
	index int32
	up    bool
	gone  bool
}

// Offsets in the kernel's structures: tpacket_block_desc, tpacket3_hdr and
// sockaddr_ll of linux/if_packet.h, which are part of its interface.
const (
	blockStatus  = 8
	blockCount   = 12
	blockFirst   = 16
	packetNext   = 0
	packetSec    = 4
	packetNsec   = 8
	packetSnap   = 12
	packetLen    = 16
	packetNet    = 26
	packetSource = 48 // the sockaddr_ll
	llProtocol   = packetSource + 2
	llIndex      = packetSource + 4
	llHardware   = packetSource + 8
	llKind       = packetSource + 10
	llAddrLen    = packetSource + 11
	llAddr       = packetSource + 12
)

var native = binary.NativeEndian

// openRing opens a socket in the current namespace. The filter is there before the
// socket is bound: nothing else gets in.
func openRing(place *Place, cfg *LiveConfig) (_ *ring, err error) {
	r := &ring{fd: -1, place: place, links: map[int32]*netLink{}}
	defer func() {
		if err != nil && r.fd >= 0 {
			unix.Close(r.fd)
		}
	}()
	// Protocol 0 receives nothing.
	r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return nil, ErrPrivilege
	case err != nil:
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	if err := r.choose(place.Interfaces); err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return nil, fmt.Errorf("ask for TPACKET_V3 (Linux 3.2): %w", err)
	}
	if err := r.filter(cfg); err != nil {
		return nil, err
	}
	if err := r.allocate(cfg.Buffer); err != nil {
		return nil, err
	}
	if err := r.bind(); err != nil {
		unix.Munmap(r.mem)
		return nil, err
	}
	mem := r.mem
	// Not in Close: the last payload that Next yielded may still be looked at.
	runtime.AddCleanup(r, func(b []byte) { unix.Munmap(b) }, mem)
	return r, nil
}

// choose finds the interfaces that are named.
func (r *ring) choose(names []string) error {
	r.all = len(names) == 0 || slices.Contains(names, "any")
	if r.all {
		return nil
	}
	for _, name := range names {
		if slices.ContainsFunc(r.named, func(l *netLink) bool { return l.plain == name }) {
			continue
		}
		index, err := r.indexOf(name)
		if err != nil {
			return noInterface(name)
		}
		l := &netLink{name: r.full(name), plain: name, index: index}
		if l.up = r.isUp(name); !l.up {
			return fmt.Errorf("interface %s is down", l.name)
		}
		r.named = append(r.named, l)
		r.links[index] = l
	}
	return nil
}

func (r *ring) full(name string) string {
	if r.place.Name == "" {
		return name
	}
	return r.place.Name + "/" + name
}

func noInterface(name string) error {
	var names []string
	if all, err := net.Interfaces(); err == nil {
		for _, i := range all {
			names = append(names, i.Name)
		}
	}
	return fmt.Errorf("there is no interface %q; those that exist: any, %s", name, strings.Join(names, ", "))
}

// indexOf asks the socket, which stays in its namespace.
func (r *ring) indexOf(name string) (int32, error) {
	q, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(r.fd, unix.SIOCGIFINDEX, q)
	}
	if err != nil {
		return 0, err
	}
	return int32(q.Uint32()), nil
}

func (r *ring) isUp(name string) bool {
	q, err := unix.NewIfreq(name)
	return err == nil && unix.IoctlIfreq(r.fd, unix.SIOCGIFFLAGS, q) == nil && q.Uint16()&unix.IFF_UP != 0
}

// link returns the interface with an index, whose name is looked up once.
func (r *ring) link(index int32) *netLink {
	if l := r.links[index]; l != nil {
		return l
	}
	// struct ifreq: the name, then the index.
	var q struct {
		name  [unix.IFNAMSIZ]byte
		index int32
		_     [20]byte
	}
	q.index = index
	name := fmt.Sprintf("interface %d", index)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(r.fd), unix.SIOCGIFNAME, uintptr(unsafe.Pointer(&q))); errno == 0 {
		name = unix.ByteSliceToString(q.name[:])
	}
	l := &netLink{name: r.full(name), plain: name, index: index, up: true}
	if len(r.links) > maxInterfaces {
		clear(r.links) // they came and went
	}
	r.links[index] = l
	return l
}

func (r *ring) filter(cfg *LiveConfig) error {
	var indexes []int
	for _, l := range r.named {
		indexes = append(indexes, int(l.index))
	}
	if len(indexes) == 1 {
		indexes = nil // the socket is bound to it
	}
	raw, err := compileFilter(&cfg.Filter, indexes, cfg.Snap)
	if err != nil {
		return fmt.Errorf("compile the filter: %w", err)
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		prog[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	if err := unix.SetsockoptSockFprog(r.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}); err != nil {
		return fmt.Errorf("attach the filter: %w", err)
	}
	return nil
}

// allocate makes the ring.
func (r *ring) allocate(size int) error {
	for r.blocks = max(size/ringBlock, 2); ; r.blocks /= 2 {
		req := unix.TpacketReq3{
			Block_size: ringBlock, Block_nr: uint32(r.blocks),
			Frame_size: 2048, Frame_nr: uint32(r.blocks * (ringBlock / 2048)), // only their product counts in version 3
			Retire_blk_tov: uint32(blockTimeout.Milliseconds()),
		}
		err := unix.SetsockoptTpacketReq3(r.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.ENOMEM) || r.blocks < 4 {
			return fmt.Errorf("allocate a ring of %d bytes: %w", r.blocks*ringBlock, err)
		}
	}
	mem, err := unix.Mmap(r.fd, 0, r.blocks*ringBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the ring: %w", err)
	}
	r.mem = mem
	return nil
}

// bind begins the capture.
func (r *ring) bind() error {
	addr := unix.SockaddrLinklayer{Protocol: network16(unix.ETH_P_ALL)}
	if len(r.named) == 1 {
		addr.Ifindex = int(r.named[0].index)
		if r.named[0].plain == "lo" {
			// Each packet goes out and comes in: this saves the kernel the copy that
			// the filter would refuse (Linux 4.20; before, it costs that copy).
			_ = unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
		}
	}
	for _, l := range r.named {
		// What is mirrored to an interface, or passes over a bridge, is not
		// addressed to it. Not every interface can: then its own has to do.
		_ = unix.SetsockoptPacketMreq(r.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: l.index, Type: unix.PACKET_MR_PROMISC})
	}
	if err := unix.Bind(r.fd, &addr); err != nil {
		what := "all interfaces"
		if len(r.named) == 1 {
			what = r.named[0].name
		}
		return fmt.Errorf("capture on %s: %w", what, err)
	}
	return nil
}

// network16 returns v in the byte order of the network.
func network16(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return native.Uint16(b[:])
}

// ready reports whether a packet is there, at r.next.
func (r *ring) ready() bool {
	if r.left > 0 {
		return true
	}
	for {
		base := r.at * ringBlock
		status := (*uint32)(unsafe.Pointer(&r.mem[base+blockStatus]))
		if r.held {
			r.held = false
			atomic.StoreUint32(status, unix.TP_STATUS_KERNEL)
			r.at = (r.at + 1) % r.blocks
			continue
		}
		if atomic.LoadUint32(status)&unix.TP_STATUS_USER == 0 {
			return false
		}
		r.held = true
		r.left = native.Uint32(r.mem[base+blockCount:])
		r.next = base + int(native.Uint32(r.mem[base+blockFirst:]))
		if r.left > 0 {
			return true
		}
	}
}

// time returns when the next packet was seen.
func (r *ring) time() Time {
	h := r.mem[r.next : r.next+packetSource]
	return Time(native.Uint32(h[packetSec:]))*1e9 + Time(native.Uint32(h[packetNsec:]))
}

// take returns the next packet and goes past it. It is valid until ready is
// called again.
func (r *ring) take() []byte {
	h := r.mem[r.next:]
	r.left--
	r.next += int(native.Uint32(h[packetNext:]))
	return h
}

// missed returns how many packets were lost since the last call.
func (r *ring) missed() uint64 {
	st, err := unix.GetsockoptTpacketStatsV3(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0
	}
	return uint64(st.Drops)
}

// clearError takes what the kernel reports of the socket, such as ENETDOWN.
func (r *ring) clearError() error {
	n, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && n != 0 {
		err = unix.Errno(n)
	}
	return os.NewSyscallError("packet socket", err)
}

// look reports what became of the named interfaces since the last call.
func (r *ring) look() (notices []string) {
	for _, l := range r.named {
		if l.gone {
			continue
		}
		switch index, err := r.indexOf(l.plain); {
		case errors.Is(err, unix.ENODEV), err == nil && index != l.index:
			l.gone = true
			notices = append(notices, fmt.Sprintf("interface %s was removed: nothing more is captured on it", l.name))
			continue
		}
		if up := r.isUp(l.plain); up != l.up {
			l.up = up
			if up {
				notices = append(notices, fmt.Sprintf("interface %s is up again", l.name))
			} else {
				notices = append(notices, fmt.Sprintf("interface %s is down: waiting for it", l.name))
			}
		}
	}
	return notices
}

// over reports whether nothing can come any more.
func (r *ring) over() bool {
	return !r.all && !slices.ContainsFunc(r.named, func(l *netLink) bool { return !l.gone })
}

// close ends the capture; the memory goes when nobody can look at it any more.
// The kernel keeps the socket as long as it is mapped: it refuses everything
// until then.
func (r *ring) close() {
	raw, _ := bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: 0}})
	_ = unix.SetsockoptSockFprog(r.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: raw[0].Op, K: raw[0].K}})
	for _, l := range r.named {
		_ = unix.SetsockoptPacketMreq(r.fd, unix.SOL_PACKET, unix.PACKET_DROP_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: l.index, Type: unix.PACKET_MR_PROMISC})
	}
	unix.Close(r.fd)
}
