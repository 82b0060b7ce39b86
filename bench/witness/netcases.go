//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"whyreset/bench/wire"
)

// More ports of the server, each for one kind of connection that has no request
// that could be told by its id.
const (
	closedPort   = 9001 + iota // nothing listens
	rejectPort                 // a rule answers the SYN
	filterPort                 // a rule drops the SYN
	overflowPort               // the accept queue is full
	backlogPort                // the listener goes away
	lastPort                   // after all of them
)

// networkCases are about what is between the two programs, and about connections
// that never came to a request.
func networkCases() []witnessCase {
	const d = 20 * time.Millisecond
	ports := fmt.Sprintf("tcp portrange %d-%d or icmp", port, lastPort)
	all := []witnessCase{
		{name: "wire-forged-rst", delay: d, ci: true, keep: true, act: forgedCase},
		{name: "wire-nat", delay: d, ci: true, keep: true, act: natCase},
		{name: "wire-dead", delay: d, keep: true, act: deadCase},
		{name: "wire-gap", delay: d, ci: true, keep: true, act: gapCase},
		{name: "firewall", delay: d, needs: []string{"nft"}, filter: ports, ci: true, keep: true, act: firewallCase},
		{name: "connect", delay: d, filter: ports, ci: true, keep: true, act: connectCase},
		{name: "overflow-abort", delay: d, filter: ports, ci: true, keep: true, act: overflowCase("1")},
		{name: "overflow-drop", delay: d, filter: ports, keep: true, act: overflowCase("0")},
		{name: "backlog", delay: d, filter: ports, ci: true, keep: true, act: backlogCase},
		{name: "reject-accept-haproxy", delay: d, server: "haproxy", keep: true, act: acceptCase},
		{name: "upgrade-go", delay: d, ci: true, keep: true, act: upgradeCase(serverKinds()[0])},
		{name: "upgrade-node", delay: d, server: "node", keep: true, act: upgradeCase(kindOf("node"))},
	}
	for _, k := range serverKinds() {
		if k.name == "gunicorn-sync" {
			continue
		}
		all = append(all, witnessCase{name: "mismatch-" + k.name, delay: d, server: k.name, ci: k.command == "", keep: true, act: mismatchCase(k)})
		if k.tls {
			all = append(all, witnessCase{name: "mismatch-" + k.name + "-tls", delay: d, tls: "1.3", server: k.name, ci: k.command == "", keep: true, act: mismatchCase(k)})
		}
	}
	return all
}

func kindOf(name string) serverKind {
	for _, k := range serverKinds() {
		if k.name == name {
			return k
		}
	}
	return serverKind{}
}

// A last remembers the last segment of each connection, as the wire sees them.
type last struct {
	mu    sync.Mutex
	flows map[wire.Flow]*numbers
}

// numbers are the next sequence numbers of both ends of a connection.
type numbers struct{ client, server uint32 }

// watch has the wire remember sequence numbers.
func (l *last) watch(w *wire.Wire) {
	l.flows = map[wire.Flow]*numbers{}
	for _, to := range []wire.Side{wire.Client, wire.Server} {
		link := w.Link(to)
		link.Filter = func(p *wire.Packet) wire.Fate {
			if p.TCP == nil {
				return wire.Pass
			}
			next := p.TCP.Seq + uint32(len(p.TCP.Payload))
			if p.TCP.SYN || p.TCP.FIN {
				next++
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			f := wire.Flow{Client: p.Src, Server: p.Dst}
			if p.Toward == wire.Client {
				f = wire.Flow{Client: p.Dst, Server: p.Src}
			}
			if l.flows[f] == nil {
				l.flows[f] = &numbers{}
			}
			if p.Toward == wire.Server {
				l.flows[f].client = next
			} else {
				l.flows[f].server = next
			}
			return wire.Pass
		}
		w.SetLink(to, link)
	}
}

// each calls f with every connection so far.
func (l *last) each(f func(wire.Flow, numbers)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for flow, n := range l.flows {
		f(flow, *n)
	}
}

// forgedCase resets connections from the middle of the wire while the server
// works on a request, toward the client or toward both ends.
func forgedCase(r *run) error {
	if _, err := r.serve(serverKinds()[0], options{}); err != nil {
		return err
	}
	var l last
	l.watch(r.wire)
	if err := r.captureAll(); err != nil {
		return err
	}
	var procs []*proc
	for _, c := range clients("", "go", "http", "httpclient") {
		var conns [][]step
		for i := range 6 {
			q := step{Cause: "forged-rst", Method: []string{"GET", "POST"}[i%2]}
			if i%2 == 1 {
				q.Body = 40
			}
			if i < 3 {
				conns = append(conns, r.converse(r.step(q, c.name, "slow1200")))
				continue
			}
			q.Pause = 0.15
			conns = append(conns, r.converse(r.step(step{}, c.name, ""), r.step(q, c.name, "slow1200")))
		}
		p, err := r.call(c, 0.2, conns)
		if err != nil {
			return err
		}
		procs = append(procs, p)
	}
	time.Sleep(900 * time.Millisecond) // even the slowest interpreter has sent by now
	var err error
	both := false
	l.each(func(f wire.Flow, n numbers) {
		both = !both
		rst, e := wire.Forge(wire.Header{Src: f.Server, Dst: f.Client, TTL: 243, IPID: 0x4242}, layers.TCP{RST: true, ACK: true, Seq: n.server, Ack: n.client, Window: 1024}, nil)
		err = errors.Join(err, e)
		r.wire.Inject(wire.Client, rst, 0)
		if both {
			rst, e = wire.Forge(wire.Header{Src: f.Client, Dst: f.Server, TTL: 243, IPID: 0x4243}, layers.TCP{RST: true, ACK: true, Seq: n.client, Ack: n.server, Window: 1024}, nil)
			err = errors.Join(err, e)
			r.wire.Inject(wire.Server, rst, 0)
		}
	})
	return errors.Join(err, waitAll(procs, 20*time.Second))
}

// natCase has a box on the way forget connections while they are idle.
func natCase(r *run) error {
	if _, err := r.serve(serverKinds()[0], options{idle: 20}); err != nil {
		return err
	}
	var l last
	l.watch(r.wire)
	if err := r.captureAll(); err != nil {
		return err
	}
	var conns [][]op
	for i, cause := range []string{"nat-reset", "nat-silent", "nat-reset", "nat-silent", "nat-reset", "nat-silent"} {
		id1, first := r.text("", "raw", "", "GET", "", "")
		id2, second := r.text(cause, "raw", "", "POST", "Content-Length: 3\r\n", "abc")
		// The order of the connections says which is which.
		conns = append(conns, []op{{Pause: 0.1 * float64(i), Send: first, IDs: []string{id1}, Read: 5, Want: 1},
			{Pause: 2.5 - 0.1*float64(i), Send: second, IDs: []string{id2}, Read: 5, Finish: "fin"}})
	}
	p, err := r.raw(conns)
	if err != nil {
		return err
	}
	time.Sleep(1500 * time.Millisecond)
	causes := map[int]string{}
	for _, e := range events(r.file("app.log")) {
		if e.What == "begin" {
			q := r.steps[nextOf(r, e.ID)]
			causes[e.Peer] = q.Cause
		}
	}
	l.each(func(f wire.Flow, _ numbers) {
		switch causes[int(f.Client.Port())] {
		case "nat-reset":
			r.wire.Forget(f, wire.Amnesia{Reset: true, TTL: 255})
		case "nat-silent":
			r.wire.Forget(f, wire.Amnesia{})
		}
	})
	return p.wait(20 * time.Second)
}

// nextOf returns the request that follows another in its conversation.
func nextOf(r *run, id string) string {
	for next, prev := range r.prev {
		if prev == id {
			return next
		}
	}
	return ""
}

// deadCase cuts the wire while the server works on requests, for long enough
// that it retransmits its responses several times.
func deadCase(r *run) error {
	if _, err := r.serve(serverKinds()[0], options{idle: 20}); err != nil {
		return err
	}
	if err := r.captureAll(); err != nil {
		return err
	}
	var procs []*proc
	for _, c := range clients("", "go", "httpclient") {
		var conns [][]step
		for range 3 {
			conns = append(conns, r.converse(r.step(step{}, c.name, ""), r.step(step{Cause: "path-dead", Method: "POST", Body: 30, Pause: 0.1, Timeout: 8}, c.name, "slow1500")))
		}
		p, err := r.call(c, 0.1, conns)
		if err != nil {
			return err
		}
		procs = append(procs, p)
	}
	time.Sleep(1200 * time.Millisecond)
	for _, to := range []wire.Side{wire.Client, wire.Server} {
		link := r.wire.Link(to)
		link.Drop = 1
		r.wire.SetLink(to, link)
	}
	return waitAll(procs, 20*time.Second)
}

// gapCase loses requests on the way to the server until its idle timer has fired,
// although they were sent well before; then their copies come through.
func gapCase(r *run) error {
	if _, err := r.serve(serverKinds()[0], options{idle: 2}); err != nil {
		return err
	}
	if err := r.captureAll(); err != nil {
		return err
	}
	var conns [][]op
	for range 3 {
		id1, first := r.text("", "raw", "", "GET", "", "")
		id2, second := r.text("path-gap", "raw", "", "POST", "Content-Length: 3\r\n", "abc")
		conns = append(conns, []op{{Send: first, IDs: []string{id1}, Read: 5, Want: 1}, {Pause: 1, Send: second, IDs: []string{id2}, Read: 6, Finish: "fin"}})
	}
	p, err := r.raw(conns)
	if err != nil {
		return err
	}
	drop := func(share float64) {
		link := r.wire.Link(wire.Server)
		link.Drop = share
		r.wire.SetLink(wire.Server, link)
	}
	time.Sleep(700 * time.Millisecond)
	drop(1)
	time.Sleep(2 * time.Second)
	drop(0)
	return p.wait(20 * time.Second)
}

// nft loads rules into the server's namespace.
func (r *run) nft(rules string) error {
	file, err := r.write("rules.nft", rules)
	if err != nil {
		return err
	}
	if out, err := r.server.Command(context.Background(), "nft", "-f", file).CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// firewallCase has the server's own host reject segments of connections that are
// established, and SYNs.
func firewallCase(r *run) error {
	if _, err := r.serve(serverKinds()[0], options{idle: 20}); err != nil {
		return err
	}
	if err := r.capture(fmt.Sprintf("tcp portrange %d-%d or icmp", port, lastPort)); err != nil {
		return err
	}
	var conns [][]op
	for range 3 {
		id1, first := r.text("", "raw", "", "GET", "", "")
		id2, second := r.text("reject-idle", "raw", "", "POST", "Content-Length: 3\r\n", "abc")
		conns = append(conns, []op{{Send: first, IDs: []string{id1}, Read: 5, Want: 1}, {Pause: 1.5, Send: second, IDs: []string{id2}, Read: 3, Finish: "fin"}})
	}
	for range 3 {
		// A request whose body goes on after the rule has come.
		id, text := r.text("reject-busy", "raw", "", "POST", "Content-Length: 20\r\n", "0123456789")
		conns = append(conns, []op{{Send: text, IDs: []string{id}}, {Pause: 1.5, Send: "0123456789", Read: 3, Finish: "fin"}})
	}
	p, err := r.raw(conns)
	if err != nil {
		return err
	}
	time.Sleep(800 * time.Millisecond)
	if err := r.nft(fmt.Sprintf(`table inet w {
	chain in {
		type filter hook input priority 0; policy accept;
		tcp dport { %d, %d } reject with tcp reset
		tcp dport %d drop
	}
}
`, port, rejectPort, filterPort)); err != nil {
		return err
	}
	err = errors.Join(r.dials("reject-syn", rejectPort, 3, time.Second, nil), r.dials("filtered", filterPort, 2, 4*time.Second, nil))
	return errors.Join(err, p.wait(20*time.Second))
}

// dials connects to a port of the server several times, at once. talk is what to
// do with a connection; nil expects that there is none.
func (r *run) dials(cause string, to, n int, patience time.Duration, talk func(net.Conn) error) error {
	if err := checkCause(cause); err != nil {
		return err
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	said := map[string]int{}
	for range n {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			c, err := r.client.DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", r.addr, to))
			if err == nil {
				if talk != nil {
					c.SetDeadline(time.Now().Add(patience))
					err = talk(c)
				}
				c.Close()
			}
			word := "no error"
			if err != nil {
				word = err.Error()
				word = word[strings.LastIndex(word, ": ")+1:]
			}
			mu.Lock()
			said[strings.TrimSpace(word)]++
			mu.Unlock()
		})
	}
	wg.Wait()
	r.header.Conns = append(r.header.Conns, connTruth{Cause: cause, Port: to, Least: n, Note: fmt.Sprintf("the client: %v", said)})
	return nil
}

// connectCase connects to a port where nothing listens.
func connectCase(r *run) error {
	if err := r.capture(fmt.Sprintf("tcp portrange %d-%d or icmp", port, lastPort)); err != nil {
		return err
	}
	return r.dials("refused", closedPort, 4, time.Second, nil)
}

// listenShort listens in the server's namespace with an accept queue of the
// given length, and accepts nothing.
func (r *run) listenShort(to, backlog int) (fd int, err error) {
	err = r.server.Do(func() error {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		ap := netip.MustParseAddr(r.addr).As4()
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: to, Addr: ap}); err != nil {
			return err
		}
		return unix.Listen(fd, backlog)
	})
	return fd, err
}

// overflowCase overflows an accept queue: with SYNs that arrive together while
// there is still room, and with more when there is none.
func overflowCase(abort string) func(r *run) error {
	return func(r *run) error {
		if err := r.server.Do(func() error {
			if err := os.WriteFile("/proc/sys/net/ipv4/tcp_abort_on_overflow", []byte(abort), 0o644); err != nil {
				return err
			}
			return os.WriteFile("/proc/sys/net/ipv4/tcp_syncookies", []byte("0"), 0o644)
		}); err != nil {
			return err
		}
		fd, err := r.listenShort(overflowPort, 4)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := r.capture(fmt.Sprintf("tcp portrange %d-%d or icmp", port, lastPort)); err != nil {
			return err
		}
		cause := map[string]string{"0": "overflow-drop", "1": "overflow-abort"}[abort]
		// The queue holds five connections. Three fill it but for two; of the SYNs that
		// then come together some are taken, as there is room for each of them alone,
		// and the last acknowledgements find the queue full. Those that wait in it
		// until the client gives up are no overflow: the kernel says which they are.
		var wg sync.WaitGroup
		var mu sync.Mutex
		ports := map[int]string{}
		var failed atomic.Int32
		for i := range 9 {
			if i == 3 {
				time.Sleep(300 * time.Millisecond)
			}
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				c, err := r.client.DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", r.addr, overflowPort))
				if err != nil {
					failed.Add(1)
					return
				}
				defer c.Close()
				at := c.LocalAddr().(*net.TCPAddr).Port
				fmt.Fprintf(c, "GET /w/%s/overflow HTTP/1.1\r\nHost: w\r\n\r\n", r.header.Case)
				c.SetReadDeadline(time.Now().Add(4 * time.Second))
				_, err = c.Read(make([]byte, 1))
				mu.Lock()
				ports[at] = fmt.Sprint(err)
				mu.Unlock()
			})
		}
		wg.Wait()
		inQueue := map[int]bool{}
		for {
			if err := unix.SetNonblock(fd, true); err != nil {
				return err
			}
			c, from, err := unix.Accept(fd)
			if err != nil {
				break
			}
			unix.Close(c)
			if a, ok := from.(*unix.SockaddrInet4); ok {
				inQueue[a.Port] = true
			}
		}
		for at, said := range ports {
			if !inQueue[at] {
				r.header.Conns = append(r.header.Conns, connTruth{Cause: cause, Port: overflowPort, Client: at, Least: 1, Note: "the client: " + said + "; the server never had it"})
			} else {
				r.header.Conns = append(r.header.Conns, connTruth{Cause: "not-accepted", Port: overflowPort, Client: at, Note: "the client: " + said + "; in the accept queue"})
			}
		}
		// Those that never had a connection have no port that the client knows.
		r.header.Conns = append(r.header.Conns, connTruth{Cause: "overflow-syn", Port: overflowPort, Least: int(failed.Load()), Note: "no connection within 5 s"})
		return nil
	}
}

// backlogCase closes a listener while connections with requests wait in its queue.
func backlogCase(r *run) error {
	fd, err := r.listenShort(backlogPort, 20)
	if err != nil {
		return err
	}
	if err := r.capture(fmt.Sprintf("tcp portrange %d-%d or icmp", port, lastPort)); err != nil {
		unix.Close(fd)
		return err
	}
	time.AfterFunc(700*time.Millisecond, func() { unix.Close(fd) })
	return r.dials("backlog", backlogPort, 4, 3*time.Second, func(c net.Conn) error {
		fmt.Fprintf(c, "POST /w/%s/backlog HTTP/1.1\r\nHost: w\r\nContent-Length: 3\r\n\r\nabc", r.header.Case)
		_, err := c.Read(make([]byte, 1))
		return err
	})
}

// mismatchCase speaks the wrong protocol to a server, or the right one wrongly.
func mismatchCase(k serverKind) func(r *run) error {
	return func(r *run) error {
		if _, err := r.serve(k, options{idle: 3}); err != nil {
			return err
		}
		if err := r.captureAll(); err != nil {
			return err
		}
		request := fmt.Sprintf("GET /w/%s/mismatch HTTP/1.1\r\nHost: w\r\n\r\n", r.header.Case)
		plain := func(first string) func(net.Conn) error {
			return func(c net.Conn) error {
				io.WriteString(c, first)
				_, err := io.ReadAll(c)
				return err
			}
		}
		hello := func(conf *tls.Config) func(net.Conn) error {
			return func(c net.Conn) error { return tls.Client(c, conf).Handshake() }
		}
		if r.header.TLS != "" {
			return errors.Join(r.told("http-to-tls", 3, plain(request)),
				r.told("bad-certificate", 2, hello(&tls.Config{ServerName: "witness"})),
				r.told("bad-certificate", 2, hello(&tls.Config{ServerName: "witness", MaxVersion: tls.VersionTLS12})),
				r.told("tls-version", 2, hello(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10})))
		}
		var err error
		if k.name != "haproxy" && k.name != "lighttpd" { // which speak HTTP/2 to whoever begins so
			err = r.told("h2-to-http1", 3, plain("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
		}
		return errors.Join(err, r.told("tls-to-http", 3, hello(&tls.Config{InsecureSkipVerify: true})),
			r.told("proxy-protocol", 2, plain("PROXY TCP4 10.0.0.1 10.0.0.2 1000 80\r\n"+request)))
	}
}

// A counted connection counts what it has received.
type counted struct {
	net.Conn
	n int
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n += n
	return n, err
}

// told makes connections one after the other and tells the truth by their ports.
func (r *run) told(cause string, n int, talk func(net.Conn) error) error {
	if err := checkCause(cause); err != nil {
		return err
	}
	for range n {
		c, err := r.client.DialContext(context.Background(), "tcp", fmt.Sprintf("%s:%d", r.addr, port))
		if err != nil {
			return err
		}
		c.SetDeadline(time.Now().Add(3500 * time.Millisecond))
		counting := &counted{Conn: c}
		err = talk(counting)
		c.Close()
		r.header.Conns = append(r.header.Conns, connTruth{Cause: cause, Port: port, Client: c.LocalAddr().(*net.TCPAddr).Port, Least: 1,
			Silent: counting.n == 0, Note: fmt.Sprintf("the client received %d bytes: %v", counting.n, err)})
	}
	return nil
}

// acceptCase has HAProxy close connections as it accepts them.
func acceptCase(r *run) error {
	if _, err := r.serve(kindOf("haproxy"), options{extra: " tcp-request connection reject"}); err != nil {
		return err
	}
	if err := r.captureAll(); err != nil {
		return err
	}
	return r.told("reject-accept", 4, func(c net.Conn) error {
		fmt.Fprintf(c, "GET /w/%s/accept HTTP/1.1\r\nHost: w\r\n\r\n", r.header.Case)
		_, err := io.ReadAll(c)
		return err
	})
}

// upgradeCase leaves HTTP, and then either end closes.
func upgradeCase(k serverKind) func(r *run) error {
	return func(r *run) error {
		if _, err := r.serve(k, options{}); err != nil {
			return err
		}
		if err := r.captureAll(); err != nil {
			return err
		}
		upgrade := fmt.Sprintf("GET /w/%s/upgrade?do=upgrade HTTP/1.1\r\nHost: w\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", r.header.Case)
		// A masked text frame, of which the mask is zero.
		const text = "\x81\x85\x00\x00\x00\x00hello"
		return errors.Join(r.told("upgrade", 3, func(c net.Conn) error {
			io.WriteString(c, upgrade)
			c.Read(make([]byte, 500))
			io.WriteString(c, text)
			_, err := io.ReadAll(c)
			return err
		}), r.told("upgrade", 2, func(c net.Conn) error {
			io.WriteString(c, upgrade)
			c.Read(make([]byte, 500))
			return c.(*counted).Conn.(*net.TCPConn).SetLinger(0)
		}))
	}
}
