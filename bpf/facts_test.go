//go:build linux

package bpf

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"whyreset/capture"
)

const request = "GET /unread HTTP/1.1\r\nHost: h\r\n\r\n"

// A wanted fact is one that must be told, as far as it says.
type wanted struct {
	kind            capture.FactKind
	client          bool // it is of the client's socket, not of the server's
	reason          string
	active          bool
	state, newState string
	unread          int    // -1: not said
	owner           string // "server", "client" or "" for one that must not be known
	head            string
	anyHead         bool // the kernel may not be able to read it
	segment         bool // an answer to a segment that is as long as head, or 0
}

// match says what of a fact is not as wanted; local and remote are the server's
// socket's.
func (w *wanted) match(x *capture.SocketFact, ns uint64, server, client netip.AddrPort, pids map[string]int) (wrong []string) {
	check := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	local, remote := server, client
	if w.client {
		local, remote = client, server
	}
	check(x.Kind == w.kind, "kind %v", x.Kind)
	check(x.Local.AddrPort() == local && x.Remote.AddrPort() == remote, "%v > %v", x.Local, x.Remote)
	check(x.Reason == w.reason, "reason %q", x.Reason)
	check(x.Active == w.active, "active %t", x.Active)
	check(x.State == w.state && x.NewState == w.newState, "state %q > %q", x.State, x.NewState)
	if w.unread < 0 {
		check(!x.HasUnread, "unread is said")
	} else {
		check(x.HasUnread && x.Unread == uint32(w.unread), "unread %t %d", x.HasUnread, x.Unread)
	}
	check(x.Owner.PID == pids[w.owner] && x.Owner.Command == w.owner, "owner %+v", x.Owner)
	check(x.Where == ns, "namespace %d", x.Where)
	check(x.HasSegment == w.segment && (!w.segment || x.Len == len(w.head)), "segment %t of %d", x.HasSegment, x.Len)
	if w.head != "" && !(w.anyHead && len(x.Head) == 0) {
		check(string(x.Head) == w.head, "head %q", x.Head)
	}
	return wrong
}

// A row provokes something that the kernel tells of. Server listens already; the
// connection is made and accepted if accepted is set.
type row struct {
	name     string
	accepted bool
	provoke  func(t *testing.T, ns *capture.Namespace, server, client *actor)
	want     []wanted
	not      []string // reasons that must not occur
}

const (
	sent     = capture.ResetSent
	received = capture.ResetReceived
	closed   = capture.Closed
)

// rows are what a program can provoke of what Linux does.
var rows = []row{
	{"close with unread data", true, func(t *testing.T, ns *capture.Namespace, server, client *actor) {
		client.do("write %q", request)
		server.do("await")
		server.do("close")
		client.do("await")
		client.do("close")
	}, []wanted{
		{kind: sent, reason: "TCP_ABORT_ON_CLOSE", active: true, state: "CLOSE", unread: len(request), owner: "server"},
		{kind: closed, state: "ESTABLISHED", newState: "CLOSE", unread: len(request), owner: "server"},
		// The client's kernel takes the reset while the server's task runs.
		{kind: received, client: true, state: "ESTABLISHED", owner: "client"},
	}, nil},
	{"close with part unread, after a FIN", true, func(t *testing.T, ns *capture.Namespace, server, client *actor) {
		client.do("write %q", request)
		client.do("shutdown")
		server.do("await")
		server.do("close")
	}, []wanted{
		// The FIN has a number, but is no byte.
		{kind: sent, reason: "TCP_ABORT_ON_CLOSE", active: true, state: "CLOSE", unread: len(request), owner: "server"},
		{kind: closed, client: true, state: "ESTABLISHED", newState: "FIN_WAIT1", owner: "client"},
		{kind: closed, state: "CLOSE_WAIT", newState: "CLOSE", unread: len(request), owner: "server"},
	}, nil},
	{"close when all was read", true, func(t *testing.T, ns *capture.Namespace, server, client *actor) {
		client.do("write %q", request)
		server.do("read")
		server.do("close")
		client.do("await")
		client.do("close")
	}, []wanted{
		{kind: closed, state: "ESTABLISHED", newState: "FIN_WAIT1", owner: "server"},
		{kind: closed, client: true, state: "CLOSE_WAIT", newState: "LAST_ACK", owner: "client"},
	}, []string{"TCP_ABORT_ON_CLOSE"}},
	{"shutdown with unread data", true, func(t *testing.T, ns *capture.Namespace, server, client *actor) {
		client.do("write %q", request)
		server.do("await")
		server.do("shutdown")
	}, []wanted{
		{kind: closed, state: "ESTABLISHED", newState: "FIN_WAIT1", unread: len(request), owner: "server"},
	}, []string{"TCP_ABORT_ON_CLOSE"}},
	{"SO_LINGER 0", true, func(t *testing.T, ns *capture.Namespace, server, client *actor) {
		client.do("write %q", request)
		server.do("read")
		server.do("linger")
		server.do("close")
	}, []wanted{
		{kind: sent, reason: "TCP_STATE", active: true, state: "CLOSE", owner: "server"},
		{kind: closed, state: "ESTABLISHED", newState: "CLOSE", owner: "server"},
		// It has not closed its socket, and is found by having it.
		{kind: received, client: true, state: "ESTABLISHED", owner: "client"},
	}, nil},
	{"data after close", true, func(t *testing.T, ns *capture.Namespace, server, client *actor) {
		// What the client does not read keeps the server's FIN back.
		server.do("flood")
		server.do("close")
		client.do("write %q", request)
	}, []wanted{
		// All of it while the client's task runs.
		{kind: sent, reason: "TCP_ABORT_ON_DATA", state: "CLOSE", owner: "server", head: request, segment: true},
		{kind: received, state: "FIN_WAIT1", owner: "server"}, // and no RST on the wire
	}, nil},
	{"data after close and its acknowledgement", true, func(t *testing.T, ns *capture.Namespace, server, client *actor) {
		server.do("close")
		client.do("await")
		time.Sleep(100 * time.Millisecond) // for the client's acknowledgement
		client.do("write %q", request)
		client.do("close")
	}, []wanted{
		{kind: sent, reason: "TCP_TIMEWAIT_SOCKET", state: "TIME_WAIT", unread: -1, owner: "server", head: request, segment: true},
		{kind: closed, state: "ESTABLISHED", newState: "FIN_WAIT1", owner: "server"},
		{kind: received, client: true, state: "CLOSE_WAIT", owner: "client"},
	}, nil},
	{"listener closed with un-accepted connections", false, func(t *testing.T, ns *capture.Namespace, server, client *actor) {
		client.do("connect %s", target)
		client.do("write %q", request)
		server.do("unlisten")
	}, []wanted{
		{kind: sent, reason: "TCP_STATE", active: true, state: "CLOSE", unread: len(request), owner: "server"},
		{kind: received, client: true, state: "ESTABLISHED", owner: "client"},
	}, nil},
	{"accept queue full, tcp_abort_on_overflow", false, func(t *testing.T, ns *capture.Namespace, server, client *actor) {
		if err := ns.Enter(func() error {
			return os.WriteFile("/proc/sys/net/ipv4/tcp_abort_on_overflow", []byte("1"), 0)
		}); err != nil {
			t.Fatal(err)
		}
		// The client's handshake waits for data, so that the queue of handshakes is
		// full and the next one gets a cookie. That one waits for nothing, and fills
		// the queue of connections.
		server.do("defer")
		client.do("connect %s", target)
		other := newActor(t, ns, "other", nil)
		other.target = client.target
		other.do("connect %s", target)
		client.do("write %q", request)
	}, []wanted{
		{kind: sent, reason: "INVALID_SYN", state: "LISTEN", unread: -1, owner: "server", head: request, segment: true},
	}, nil},
	{"keepalive finds nobody", true, func(t *testing.T, ns *capture.Namespace, server, client *actor) {
		needProgram(t, "nft")
		server.do("keepalive")
		inside(t, ns, "nft", "add table ip cut; add chain ip cut in { type filter hook input priority 0; }; add rule ip cut in drop")
		time.Sleep(2 * time.Second)
	}, []wanted{
		// Found by having the socket open still.
		{kind: sent, reason: "TCP_KEEPALIVE_TIMEOUT", active: true, state: "ESTABLISHED", owner: "server"},
		{kind: closed, state: "ESTABLISHED", newState: "CLOSE", owner: "server"},
	}, nil},
	{"killed with unread data", true, func(t *testing.T, ns *capture.Namespace, server, client *actor) {
		client.do("write %q", request)
		server.do("await")
		server.kill()
	}, []wanted{
		{kind: sent, reason: "TCP_ABORT_ON_CLOSE", active: true, state: "CLOSE", unread: len(request), owner: "server"},
	}, nil},
	{"killed when all was read", true, func(t *testing.T, ns *capture.Namespace, server, client *actor) {
		client.do("write %q", request)
		server.do("read")
		server.kill()
	}, []wanted{
		{kind: closed, state: "ESTABLISHED", newState: "FIN_WAIT1", owner: "server"},
	}, []string{"TCP_ABORT_ON_CLOSE"}},
	{"ended by the administrator", true, func(t *testing.T, ns *capture.Namespace, server, client *actor) {
		needProgram(t, "ss")
		inside(t, ns, "ss", "-K", "-t", "sport", "= :"+server.do("port"))
		server.do("close")
	}, []wanted{
		// Not of ss, though that had locked it.
		{kind: sent, reason: "TCP_STATE", active: true, state: "ESTABLISHED", owner: "server"},
	}, nil},
	{"the client aborts before the request was read", true, func(t *testing.T, ns *capture.Namespace, server, client *actor) {
		client.do("write %q", request)
		server.do("await")
		client.do("linger")
		client.do("close")
		server.do("close")
	}, []wanted{
		{kind: sent, client: true, reason: "TCP_STATE", active: true, state: "CLOSE", owner: "client"},
		{kind: received, state: "ESTABLISHED", unread: len(request), owner: "server"},
		{kind: closed, state: "ESTABLISHED", newState: "CLOSE", unread: len(request), owner: "server"},
	}, nil},
}

// target stands for the server's address in what actors are told.
const target = "TARGET"

// TestRows provokes what the kernel tells of, and holds what it says and of whom:
// over IPv4, and for one row over all families.
func TestRows(t *testing.T) {
	needRoot(t)
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) { r.run(t, "127.0.0.1:0", "127.0.0.1") })
	}
	for _, i := range []int{0, 6} {
		t.Run(rows[i].name+" over IPv6", func(t *testing.T) { rows[i].run(t, "[::1]:0", "::1") })
		t.Run(rows[i].name+" over both", func(t *testing.T) { rows[i].run(t, "[::]:0", "127.0.0.1") })
	}
}

// wantedHere returns what can be told on the running kernel.
func (r *row) wantedHere(t *testing.T) (want []wanted) {
	has, names := thisKernel(t)
	for _, w := range r.want {
		if !names[w.reason] {
			w.reason = ""
		}
		// Before there were reasons, only whole sockets were told of (5c487bb9).
		if has.reason || w.state != "TIME_WAIT" {
			if w.head != "" && !has.dynptr {
				w.anyHead = true
			}
			want = append(want, w)
		}
	}
	return want
}

// thisKernel returns what the running kernel has, and which reasons it names.
func thisKernel(t *testing.T) (has kernelFeatures, names map[string]bool) {
	t.Helper()
	types, err := kernelTypes(btfFile)
	if err != nil {
		t.Fatal(err)
	}
	if has, err = readFeatures(types); err != nil {
		t.Fatal(err)
	}
	names = map[string]bool{}
	if has.reason {
		for _, name := range readReasons(types) {
			names[name] = true
		}
	}
	return has, names
}

func (r *row) run(t *testing.T, listen, host string) {
	ns, inode := newNamespace(t)
	f := openFor(t, FactsConfig{Namespaces: []uint64{inode}, Closes: true})
	server, client := newActor(t, ns, "server", nil), newActor(t, ns, "client", nil)
	port := server.do("listen %s 0", listen)
	at := netip.AddrPortFrom(netip.MustParseAddr(host), uint16(atoi(t, port)))
	server.target, client.target = at.String(), at.String()
	if r.accepted {
		client.do("connect %s", target)
		server.do("accept")
	}
	before := time.Now()
	r.provoke(t, ns, server, client)
	peer := netip.AddrPortFrom(at.Addr(), uint16(atoi(t, client.port)))
	pids := map[string]int{"server": server.pid(), "client": client.pid()}
	want := r.wantedHere(t)
	missing := func(all []*capture.SocketFact) (left []wanted) {
		for _, w := range want {
			if !slices.ContainsFunc(all, func(x *capture.SocketFact) bool { return w.match(x, inode, at, peer, pids) == nil }) {
				left = append(left, w)
			}
		}
		return left
	}
	all := gather(t, f, func(all []*capture.SocketFact) bool { return len(missing(all)) == 0 })
	for _, w := range missing(all) {
		t.Errorf("not told: %+v", w)
		for _, x := range all {
			t.Logf("  told: %+v; wrong: %v", *x, w.match(x, inode, at, peer, pids))
		}
	}
	for _, x := range all {
		if slices.Contains(r.not, x.Reason) && x.Reason != "" {
			t.Errorf("told: %+v", *x)
		}
		if at := x.Time.Std(); at.Before(before.Add(-time.Second)) || at.After(time.Now()) {
			t.Errorf("%v %s at %v, not between %v and now", x.Kind, x.Reason, at, before)
		}
		if x.HasIdle && x.Idle > 10*time.Second {
			t.Errorf("idle for %v", x.Idle)
		}
	}
	if n := f.Stats().Lost; n != 0 {
		t.Errorf("lost %d", n)
	}
}

// TestNoConnection has segments come for connections that there are not.
func TestNoConnection(t *testing.T) {
	needRoot(t)
	ns, inode := newNamespace(t)
	f := openFor(t, FactsConfig{Namespaces: []uint64{inode}})
	server, client := newActor(t, ns, "server", nil), newActor(t, ns, "client", nil)
	port := uint16(atoi(t, server.do("listen 127.0.0.1:0 1")))
	if _, err := client.try("connect 127.0.0.1:1"); err == nil {
		t.Fatal("connected to a closed port")
	}
	client.do("close")
	inject(t, ns, 5555, port, 1000, 2000, request)
	inject(t, ns, 5556, 2, 3000, 4000, request)
	has, names := thisKernel(t)
	facts := map[string]*capture.SocketFact{}
	all := gather(t, f, func(all []*capture.SocketFact) bool { return len(all) >= 4 || len(all) >= 2 && !names["NO_SOCKET"] })
	for _, x := range all {
		facts[fmt.Sprintf("%v %s %d", x.Kind, x.Reason, x.Remote.Port)] = x
	}
	reason := func(name string) string {
		if names[name] {
			return name
		}
		return ""
	}
	head := func(x *capture.SocketFact) bool {
		return string(x.Head) == request || !has.dynptr && len(x.Head) == 0
	}
	// What the listener answers for a connection that it knows nothing of.
	if x := facts["reset-sent "+reason("TCP_FLAGS")+" 5555"]; x == nil {
		t.Errorf("no TCP_FLAGS in %v", facts)
	} else if x.Local.Port != port || x.State != "LISTEN" || x.Active || !x.HasSegment || x.Seq != 1000 || x.Ack != 2000 || !head(x) || x.HasUnread || x.Owner.PID != server.pid() {
		t.Errorf("%+v", *x)
	}
	// Without any socket.
	if x := facts["reset-sent NO_SOCKET 5556"]; x == nil && !has.reason {
		t.Log("this kernel does not tell of resets without a socket")
	} else if x == nil {
		t.Errorf("no NO_SOCKET in %v", facts)
	} else if x.Local.Port != 2 || x.State != "" || x.Seq != 3000 || !head(x) || x.Where != inode || x.Owner.Known() {
		t.Errorf("%+v", *x)
	}
	refused := 0
	for _, x := range all {
		if x.Kind == capture.ResetReceived {
			refused++
			if x.State != "SYN_SENT" || x.Remote.Port != 1 || x.HasUnread || x.Owner.PID != client.pid() || x.Owner.Command != "client" {
				t.Errorf("%+v", *x)
			}
		}
	}
	if refused != 1 {
		t.Errorf("%d connections were refused", refused)
	}
}

// inject sends a segment out of nowhere.
func inject(t *testing.T, ns *capture.Namespace, from, to uint16, seq, ack uint32, payload string) {
	t.Helper()
	seg := binary.BigEndian.AppendUint16(nil, from)
	seg = binary.BigEndian.AppendUint16(seg, to)
	seg = binary.BigEndian.AppendUint32(seg, seq)
	seg = binary.BigEndian.AppendUint32(seg, ack)
	seg = append(seg, 0x50, byte(capture.ACK|capture.PSH), 0xff, 0xff, 0, 0, 0, 0)
	seg = append(seg, payload...)
	sum := uint32(2*(127<<8) + 2*1 + 6 + len(seg)) // the pseudo header: 127.0.0.1 twice
	for i := 0; i < len(seg); i += 2 {
		sum += uint32(seg[i]) << 8
		if i+1 < len(seg) {
			sum += uint32(seg[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(seg[16:], ^uint16(sum))
	if err := ns.Enter(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, seg, 0, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}); err != nil {
		t.Fatal(err)
	}
}

// abort makes connections inside a namespace and has their servers close them with
// something unread, each from its own port.
func abort(t testing.TB, ns *capture.Namespace, n int) {
	t.Helper()
	if err := ns.Enter(func() error {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer ln.Close()
		clients := make([]*net.TCPConn, 0, n)
		defer func() {
			for _, c := range clients {
				c.Close()
			}
		}()
		servers := make([]net.Conn, 0, n)
		for range n {
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				return err
			}
			clients = append(clients, c.(*net.TCPConn))
			s, err := ln.Accept()
			if err != nil {
				return err
			}
			servers = append(servers, s)
			if _, err := c.Write([]byte(request)); err != nil {
				return err
			}
		}
		for _, s := range servers {
			go s.Close()
		}
		for _, c := range clients {
			c.Read(make([]byte, 1))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestMany holds that of many at once none is lost, and that each is told of once.
func TestMany(t *testing.T) {
	needRoot(t)
	ns, inode := newNamespace(t)
	f := openFor(t, FactsConfig{Namespaces: []uint64{inode}})
	const n = 100
	abort(t, ns, n)
	seen := map[capture.Endpoint]int{}
	all := gather(t, f, func(all []*capture.SocketFact) bool { return len(all) >= 2*n })
	for _, x := range all {
		if x.Owner.PID != os.Getpid() {
			t.Fatalf("owner %+v", x.Owner)
		}
		if x.Kind == capture.ResetSent {
			seen[x.Remote]++
			if x.Unread != uint32(len(request)) {
				t.Errorf("%d unread", x.Unread)
			}
		}
	}
	if len(seen) != n || len(all) != 2*n || f.Stats() != (FactStats{Facts: 2 * n}) {
		t.Errorf("%d connections, %d facts, %+v", len(seen), len(all), f.Stats())
	}
}

// TestLost holds that what finds the ring full is counted.
func TestLost(t *testing.T) {
	needRoot(t)
	ns, inode := newNamespace(t)
	f := openFor(t, FactsConfig{Namespaces: []uint64{inode}, Buffer: 4096})
	const n = 100
	abort(t, ns, n)
	time.Sleep(50 * time.Millisecond)
	got := 0
	if err := f.Read(0, func(*capture.SocketFact) { got++ }); err != nil {
		t.Fatal(err)
	}
	f.Flush(func(*capture.SocketFact) { got++ })
	s := f.Stats()
	// Owners that were lost are no facts, but are lost too.
	if s.Lost < 2*n-uint64(got) || s.Facts != uint64(got) || got == 0 || got > 20 {
		t.Errorf("%d handed over, %+v", got, s)
	}
	f.Close()
	if f.Stats() != s {
		t.Errorf("%+v after the end, %+v before", f.Stats(), s)
	}
}

func atoi(t testing.TB, text string) (n int) {
	t.Helper()
	if _, err := fmt.Sscan(text, &n); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return n
}
