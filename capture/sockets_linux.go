package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sockets look up single TCP sockets of a network namespace, and what is there that
// translates addresses. All is opened at the beginning: looking takes no privilege,
// and does not depend on which namespace the looker is in.
//
// A lookup costs the kernel one step in its table of sockets, however many there are
// (inet_diag_dump_one_icsk in net/ipv4/inet_diag.c). Its methods may not be called at
// the same time.
type Sockets struct {
	diag, route     int
	conntrack, ipvs *os.File // nil if they were not there
	addresses       map[[16]byte]struct{}
	listed          time.Time // when addresses were
	serial          uint32
}

const (
	conntrackCount  = "/proc/sys/net/netfilter/nf_conntrack_count"
	ipvsConnections = "/proc/thread-self/net/ip_vs_conn"
	// addressesFor is how long a list of a namespace's addresses is good for.
	addressesFor = time.Second
	// socketWait bounds how long the kernel is waited for, which answers at once.
	socketWait = 100 * time.Millisecond
)

// OpenSockets opens the sockets of the network namespace that the calling thread is
// in.
func OpenSockets() (_ *Sockets, err error) {
	s := &Sockets{diag: -1, route: -1}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	for _, x := range []struct {
		fd       *int
		protocol int
	}{{&s.diag, unix.NETLINK_SOCK_DIAG}, {&s.route, unix.NETLINK_ROUTE}} {
		if *x.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, x.protocol); err != nil {
			return nil, fmt.Errorf("open a netlink socket: %w", err)
		}
		wait := unix.NsecToTimeval(int64(socketWait))
		if err = unix.SetsockoptTimeval(*x.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
			return nil, fmt.Errorf("set how long to wait for netlink: %w", err)
		}
	}
	for name, f := range map[string]**os.File{conntrackCount: &s.conntrack, ipvsConnections: &s.ipvs} {
		if *f, err = os.Open(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return s, nil
}

// Close releases what is open.
func (s *Sockets) Close() {
	for _, fd := range []int{s.diag, s.route} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	for _, f := range []*os.File{s.conntrack, s.ipvs} {
		if f != nil {
			f.Close()
		}
	}
}

// A FoundSocket is what a lookup found.
type FoundSocket struct {
	// Listens says that it is a listener, which segments of no known connection
	// would reach.
	Listens bool
	// Heard is when the connection's socket last took something of its peer's, to
	// about 20 ms; 0 if it does not say, as those do not whose connection is not
	// open yet or any more.
	Heard Time
}

// diagInfo is the attribute with the socket's tcp_info (INET_DIAG_INFO in
// include/uapi/linux/inet_diag.h), and tcpListen a listener's state.
const (
	diagInfo  = 2
	tcpListen = 10
	// diagSize is the length of struct inet_diag_msg.
	diagSize = 72
)

// Find looks up what a segment from remote to local would reach. It reports false if
// that is nothing, or if it cannot be known.
func (s *Sockets) Find(local, remote *Endpoint) (f FoundSocket, ok bool) {
	// struct inet_diag_req_v2: family, protocol, attributes wanted, and after the
	// states, which do not count here, the ports, addresses, an interface (none) and
	// a cookie (any).
	b := make([]byte, 56)
	src, dst := local.Addr[:], remote.Addr[:]
	b[0], b[1], b[2] = unix.AF_INET6, unix.IPPROTO_TCP, 1<<(diagInfo-1)
	if isMapped(src) != isMapped(dst) {
		return f, false
	} else if isMapped(src) {
		b[0], src, dst = unix.AF_INET, src[12:], dst[12:]
	}
	binary.BigEndian.PutUint16(b[8:], local.Port)
	binary.BigEndian.PutUint16(b[10:], remote.Port)
	copy(b[12:], src)
	copy(b[28:], dst)
	copy(b[48:], "\xff\xff\xff\xff\xff\xff\xff\xff")
	s.ask(s.diag, unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_REQUEST, b, func(m *syscall.NetlinkMessage) {
		d := m.Data
		if m.Header.Type != unix.SOCK_DIAG_BY_FAMILY || len(d) < diagSize {
			return
		}
		ok, f.Listens = true, d[1] == tcpListen
		now := time.Now()
		for d = d[diagSize:]; len(d) >= unix.SizeofRtAttr; {
			n, kind := int(binary.NativeEndian.Uint16(d)), binary.NativeEndian.Uint16(d[2:])
			if n < unix.SizeofRtAttr || n > len(d) {
				break
			}
			const last = int(unsafe.Offsetof(unix.TCPInfo{}.Last_ack_recv))
			if info := d[unix.SizeofRtAttr:n]; kind == diagInfo && len(info) >= last+4 && !f.Listens {
				data := binary.NativeEndian.Uint32(info[unsafe.Offsetof(unix.TCPInfo{}.Last_data_recv):])
				ack := binary.NativeEndian.Uint32(info[last:])
				f.Heard = Time(now.Add(-time.Duration(min(data, ack)) * time.Millisecond).UnixNano())
			}
			d = d[min(len(d), (n+3)&^3):]
		}
	})
	return f, ok
}

// isMapped reports whether an address is one of IPv4.
func isMapped(a []byte) bool {
	return bytes.Equal(a[:12], []byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"))
}

// Has reports whether an interface of the namespace has the address of e. What is
// only routed to the namespace, for a proxy that speaks in another's name, does not
// count.
func (s *Sockets) Has(e *Endpoint) bool {
	if time.Since(s.listed) >= addressesFor {
		s.listed, s.addresses = time.Now(), map[[16]byte]struct{}{}
		if !s.ask(s.route, unix.RTM_GETADDR, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg), s.addAddress) {
			s.addresses = nil
		}
	}
	_, ok := s.addresses[e.Addr]
	return ok || isMapped(e.Addr[:]) && e.Loopback() // all of 127.0.0.0/8
}

func (s *Sockets) addAddress(m *syscall.NetlinkMessage) {
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return
	}
	var own, peer []byte
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFA_LOCAL:
			own = a.Value
		case unix.IFA_ADDRESS: // of the other end, where there is IFA_LOCAL too and they differ
			peer = a.Value
		}
	}
	if own == nil {
		own = peer
	}
	switch len(own) {
	case 4:
		s.addresses[[16]byte(append([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"), own...))] = struct{}{}
	case 16:
		s.addresses[[16]byte(own)] = struct{}{}
	}
}

// ask sends a request and takes what is answered. It reports false if that is an
// error or not all.
func (s *Sockets) ask(fd int, kind, flags uint16, body []byte, take func(*syscall.NetlinkMessage)) bool {
	s.serial++
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, s.serial)
	b = binary.NativeEndian.AppendUint32(b, 0)
	if err := unix.Sendto(fd, append(b, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false
	}
	buffer := make([]byte, 32<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return false
		}
		list, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return false
		}
		for i := range list {
			switch m := &list[i]; {
			case m.Header.Seq != s.serial: // of an earlier request, which was given up
			case m.Header.Type == unix.NLMSG_ERROR, m.Header.Flags&unix.NLM_F_DUMP_INTR != 0:
				return false
			case m.Header.Type == unix.NLMSG_DONE:
				return true
			default:
				take(m)
				if m.Header.Flags&unix.NLM_F_MULTI == 0 {
					return true
				}
			}
		}
	}
}

// Untracked reports whether nothing is known to netfilter's connection tracking in
// the namespace, without which it translates no addresses, and nothing to IPVS.
//
// Where connection tracking is at work, every connection through the namespace is
// known to it for a while after its end: 10 s after a reset (nf_conntrack_proto_tcp.c).
// But one that is refused is forgotten at once: that nothing is known shows only that
// a connection was not translated where others were there, just before.
func (s *Sockets) Untracked() bool {
	return quiet(s.conntrack, conntrackCount, func(text []byte) bool { return string(text) == "0" }) &&
		quiet(s.ipvs, ipvsConnections, func(text []byte) bool { return !bytes.ContainsRune(text, '\n') }) // the first line is the table's head
}

// quiet reports whether a file says that there is nothing. One that was not there
// must not be anywhere: its module may have been loaded since, or it may be hidden.
func quiet(f *os.File, name string, nothing func([]byte) bool) bool {
	if f == nil {
		_, err := os.Stat(name)
		return errors.Is(err, fs.ErrNotExist)
	}
	b := make([]byte, 4096)
	n, _ := f.ReadAt(b, 0)
	text := bytes.TrimSpace(b[:n])
	return len(text) > 0 && nothing(text)
}
