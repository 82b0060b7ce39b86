//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"whyreset/bench/netns"
	"whyreset/bench/wire"
	"whyreset/capture"
)

// A silenceFinding is what is said of a connection.
type silenceFinding struct {
	Type, Verdict, Confidence string
	ClosedBy                  string `json:"closed_by"`
	Request                   struct{ Target string }
	Candidates                []string
	Evidence                  []struct{ Text string }
}

// accuses reports whether something else than the ends is said to have sent a reset.
func (f *silenceFinding) accuses() bool {
	return f.Verdict == "injected-reset" || f.Verdict == "firewall-reject" || f.ClosedBy == "middlebox" || slices.Contains(f.Candidates, "injected-reset") && f.Verdict == "ambiguous"
}

func (r *running) findings(t *testing.T) []silenceFinding {
	t.Helper()
	r.interrupt()
	_, lines, stderr := r.wait()
	if strings.Contains(stderr, "warning") {
		t.Log(stderr)
	}
	var all []silenceFinding
	for _, l := range lines {
		var f silenceFinding
		if err := json.Unmarshal([]byte(l.text), &f); err != nil {
			t.Fatalf("%v: %s", err, l.text)
		}
		if f.Verdict != "" {
			all = append(all, f)
		}
	}
	return all
}

// needSilences skips a test where the kernel does not tell of every reset.
func needSilences(t *testing.T) {
	t.Helper()
	needFacts(t)
	if _, err := exec.LookPath("nft"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must run this test where there is nft")
		}
		t.Skip("SKIPPED: it needs nft (apt-get install nftables)")
	}
	src, err := openFactsBeside(capture.Filter{}, []uint64{1})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if !src.Whole() {
		t.Skip("SKIPPED: this kernel does not tell of resets without a socket (Linux 6.10)")
	}
}

// A silenceLab is a client and a server with a wire between them.
type silenceLab struct {
	*wire.Wire
	t *testing.T
}

func newSilenceLab(t *testing.T) silenceLab {
	t.Helper()
	needSilences(t)
	w, err := wire.New(wire.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return silenceLab{w, t}
}

// rules loads rules into a namespace.
func (l silenceLab) rules(ns *netns.Namespace, text string) {
	l.t.Helper()
	cmd := ns.Command(l.t.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader("flush ruleset\n" + text)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("%v: %s", err, out)
	}
}

const silenceAddress = "10.77.0.2:8080"

// serveSilences answers requests on connections of which it hands out the server's end.
func serveSilences(t *testing.T, ns *netns.Namespace, address string, reset bool) <-chan *net.TCPConn {
	t.Helper()
	ln, err := ns.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	conns := make(chan *net.TCPConn, 1000)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns <- c.(*net.TCPConn)
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					silent := false
					for line := ""; line != "\r\n"; silent = silent || strings.Contains(line, "/forged") {
						if line, err = r.ReadString('\n'); err != nil {
							return
						}
						if reset && strings.Contains(line, "/second") {
							c.(*net.TCPConn).SetLinger(0)
							return
						}
					}
					if !silent {
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
					}
				}
			}()
		}
	}()
	return conns
}

// ask connects, and asks for /first.
func (l silenceLab) ask(address string) net.Conn {
	l.t.Helper()
	c, err := l.Client.DialContext(l.t.Context(), "tcp", address)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	l.request(c, "/first")
	if _, err := c.Read(make([]byte, 1000)); err != nil {
		l.t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	return c
}

func (l silenceLab) request(c net.Conn, target string) {
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", target)
}

// refused connects, and is refused. The port is that of the client's end.
func (l silenceLab) refused() {
	l.t.Helper()
	err := l.Client.Do(func() error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{Port: 30000}}
		c, err := d.DialContext(l.t.Context(), "tcp", silenceAddress)
		if err == nil {
			c.Close()
		}
		return err
	})
	if !errors.Is(err, unix.ECONNREFUSED) {
		l.t.Errorf("it was to be refused: %v", err)
	}
}

// gone waits for the reset of c.
func (l silenceLab) gone(c net.Conn) {
	l.t.Helper()
	c.SetReadDeadline(time.Now().Add(3 * time.Second))
	if _, err := c.Read(make([]byte, 1000)); err == nil || !strings.Contains(err.Error(), "reset") {
		l.t.Errorf("it was to be reset: %v", err)
	}
}

const rejecting = `table inet w {
	chain in {
		type filter hook input priority 0; policy accept;
		%s tcp dport 8080 reject with tcp reset
	}
}
`

// silenceModes are the ways in which packets are seen.
var silenceModes = []string{"--ebpf=packets", "--buffer=64MB"}

// watch watches the server's end.
func (l silenceLab) watch(mode string, more ...string) *running {
	l.t.Helper()
	args := append([]string{"--netns", l.Server.Name, "-p", "8080", "-o", "json", "--user", "nobody", mode}, more...)
	r := start(l.t, here(l.t, nil, args...))
	time.Sleep(300 * time.Millisecond)
	return r
}

// TestSilence has resets that the server's kernel did not send: its host's packet
// filter did, of an established connection, with and without connection tracking, and
// of one that opens; and somebody who forges them.
func TestSilence(t *testing.T) {
	for _, mode := range silenceModes {
		for _, tracking := range []string{"", "ct state { new, established }"} {
			l := newSilenceLab(t)
			conns := serveSilences(t, l.Server, silenceAddress, false)
			r := l.watch(mode)
			rejected := l.ask(silenceAddress)
			<-conns
			forged := l.ask(silenceAddress)
			l.request(forged, "/forged")
			time.Sleep(100 * time.Millisecond)
			forge(t, l.Server, <-conns)
			l.gone(forged)
			l.rules(l.Server, fmt.Sprintf(rejecting, tracking))
			l.request(rejected, "/second")
			l.gone(rejected)
			time.Sleep(time.Second)
			l.rules(l.Server, fmt.Sprintf(rejecting, "tcp sport 30000"))
			if tracking == "" {
				l.refused()
				l.ask(silenceAddress).Close()
			}
			time.Sleep(3 * time.Second)
			seen := map[string]silenceFinding{}
			for _, f := range r.findings(t) {
				seen[f.Request.Target] = f
			}
			said := func(f silenceFinding, text string) bool {
				return slices.ContainsFunc(f.Evidence, func(e struct{ Text string }) bool { return strings.Contains(e.Text, text) })
			}
			if f := seen["/second"]; f.Verdict != "firewall-reject" || f.ClosedBy != "middlebox" || !said(f, "tells of every reset that its TCP sends, and sent none like this one") {
				t.Errorf("%s %s: rejected: %+v", mode, tracking, f)
			}
			if f := seen["/forged"]; f.Verdict != "injected-reset" || f.ClosedBy != "middlebox" || !said(f, "tells of every reset that its TCP sends, and sent none like this one") {
				t.Errorf("%s %s: forged: %+v", mode, tracking, f)
			}
			if f := seen[""]; tracking == "" && (f.Verdict != "firewall-reject" || !said(f, "and sent none")) {
				t.Errorf("%s: SYN rejected: %+v", mode, f)
			}
			t.Logf("%s %s: %+v", mode, tracking, seen)
		}
	}
}

// forge sends a reset in the name of the socket of c, from its host.
func forge(t *testing.T, ns *netns.Namespace, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var numbers [2]uint32 // what it sends next, and what it expects
	var failed error
	raw.Control(func(fd uintptr) {
		set := func(option, value int) {
			if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, option, value); err != nil && failed == nil {
				failed = err
			}
		}
		set(unix.TCP_REPAIR, 1)
		for i, queue := range []int{2, 1} { // TCP_SEND_QUEUE, TCP_RECV_QUEUE
			set(unix.TCP_REPAIR_QUEUE, queue)
			n, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
			if err != nil {
				failed = err
			}
			numbers[i] = uint32(n)
		}
		set(unix.TCP_REPAIR, -1) // TCP_REPAIR_OFF_NO_WP
	})
	if failed != nil {
		t.Fatal(failed)
	}
	local, remote := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
	err = ns.Do(func() error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		return unix.Sendto(s, resetSegment(local, remote, numbers), 0, &unix.SockaddrInet4{Addr: remote.Addr().Unmap().As4()})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// resetSegment returns a RST that acknowledges, in the form of an aborted connection.
func resetSegment(from, to netip.AddrPort, numbers [2]uint32) []byte {
	h := binary.BigEndian.AppendUint16(nil, from.Port())
	h = binary.BigEndian.AppendUint16(h, to.Port())
	h = binary.BigEndian.AppendUint32(h, numbers[0])
	h = binary.BigEndian.AppendUint32(h, numbers[1])
	h = append(h, 5<<4, 0x14, 0, 0, 0, 0, 0, 0)
	a, b := from.Addr().Unmap().As4(), to.Addr().Unmap().As4()
	var sum uint32
	for _, p := range [][]byte{a[:], b[:], {0, unix.IPPROTO_TCP, 0, byte(len(h))}, h} {
		for i := 0; i < len(p); i += 2 {
			sum += uint32(p[i])<<8 | uint32(p[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(h[16:], ^uint16(sum))
	return h
}

// TestSilenceOfOthers has the resets of other hosts and sockets come in the name of
// the server's address: nothing but its own sockets may speak for it.
func TestSilenceOfOthers(t *testing.T) {
	for _, mode := range silenceModes {
		l := newSilenceLab(t)
		other := newSpace(t)
		for _, x := range []struct {
			ns   *netns.Namespace
			args string
		}{
			{l.Server, "link add other type veth peer name eth0 netns " + other.Name},
			{l.Server, "addr add 10.78.0.1/24 dev other"}, {l.Server, "link set other up"},
			{other, "addr add 10.78.0.2/24 dev eth0"}, {other, "link set eth0 up"}, {other, "route add default via 10.78.0.1"},
		} {
			if err := x.ns.IP(strings.Fields(x.args)...); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Server.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }); err != nil {
			t.Fatal(err)
		}
		// The server listens too, and a rule sends its clients elsewhere: to the
		// other, which resets; to a port of it which refuses; to a port of the
		// server's own, of which the kernel does not tell here.
		serveSilences(t, l.Server, silenceAddress, false)
		serveSilences(t, other, "10.78.0.2:8080", true)
		r := l.watch(mode)
		l.ask(silenceAddress).Close() // so that the kernel has told of the port's socket
		for _, to := range []string{"redirect to :9", "dnat to 10.78.0.2:9", "dnat to 10.78.0.2:8080"} {
			refuses, match := strings.HasSuffix(to, ":9"), ""
			if refuses { // the others it accepts as before
				match = "tcp sport 30000 "
			}
			l.rules(l.Server, `table ip w {
	chain pre {
		type nat hook prerouting priority -100;
		tcp dport 8080 `+match+to+`
	}
}
`)
			if refuses {
				l.refused()
				l.ask(silenceAddress).Close()
				continue
			}
			for range 3 {
				c := l.ask(silenceAddress)
				l.request(c, "/second")
				l.gone(c)
			}
		}
		time.Sleep(3 * time.Second)
		all := r.findings(t)
		if len(all) < 5 {
			t.Errorf("%s: %d findings", mode, len(all))
		}
		for _, f := range all {
			if f.accuses() {
				t.Errorf("%s: %+v", mode, f)
			}
		}
	}
}

// TestSilenceUnderLoad has a server reset connections in all ways there are, many at
// once: what its kernel sends is never said to be somebody else's.
func TestSilenceUnderLoad(t *testing.T) {
	for _, mode := range silenceModes {
		l := newSilenceLab(t)
		r := l.watch(mode)
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		var clients sync.WaitGroup
		var resets atomic.Int64
		for range 200 {
			clients.Go(func() {
				for ctx.Err() == nil {
					c, err := l.Client.DialContext(ctx, "tcp", silenceAddress)
					if err != nil {
						time.Sleep(10 * time.Millisecond)
						continue
					}
					c.SetDeadline(time.Now().Add(2 * time.Second))
					for range 3 {
						l.request(c, "/load")
						if _, err = c.Read(make([]byte, 1000)); err != nil {
							break
						}
						time.Sleep(5 * time.Millisecond)
					}
					if err != nil && strings.Contains(err.Error(), "reset") {
						resets.Add(1)
					}
					c.Close()
				}
			})
		}
		app, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		// Servers come and are killed, with their listeners and what waits there.
		for ctx.Err() == nil {
			cmd := l.Server.Command(t.Context(), app, "-test.run=^TestSilenceServer$")
			cmd.Env = append(os.Environ(), "SILENCE_SERVER=1")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(1500 * time.Millisecond)
			cmd.Process.Kill()
			cmd.Wait()
		}
		cancel()
		clients.Wait()
		time.Sleep(3 * time.Second)
		all := r.findings(t)
		verdicts := map[string]int{}
		for _, f := range all {
			if verdicts[f.Verdict]++; f.accuses() {
				t.Errorf("%s: %+v", mode, f)
			}
		}
		t.Logf("%s: %d resets, %d findings: %v", mode, resets.Load(), len(all), verdicts)
		if resets.Load() < 200 || len(all) < 100 {
			t.Errorf("%s: %d resets, %d findings", mode, resets.Load(), len(all))
		}
	}
}

// TestSilenceServer is no test: the one above runs it as a server that ends its
// connections in one bad way after the other.
func TestSilenceServer(t *testing.T) {
	if os.Getenv("SILENCE_SERVER") == "" {
		t.Skip("a server for another test")
	}
	ln, err := net.Listen("tcp", silenceAddress)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if n%50 == 49 { // what waits in its queue is reset
			time.Sleep(20 * time.Millisecond)
			ln.Close()
			if ln, err = net.Listen("tcp", silenceAddress); err != nil {
				t.Fatal(err)
			}
		}
		go func() {
			defer c.Close()
			for i := range 4 {
				if n%5 == 0 && i == 1 {
					time.Sleep(8 * time.Millisecond) // the request is there, and left unread
					return
				}
				b := make([]byte, 1000)
				if _, err := c.Read(b); err != nil {
					return
				}
				switch {
				case n%5 == 1 && i == 1:
					c.(*net.TCPConn).SetLinger(0)
					return
				case n%5 == 2 && i == 1: // the next request meets a closed socket
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
					return
				case n%5 == 3 && i == 2: // killed while it answers
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
					c.(*net.TCPConn).SetLinger(0)
					return
				}
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
		}()
	}
}
