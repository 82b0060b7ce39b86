//go:build linux

package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"whyreset/capture"
)

// A room is a namespace with a server that answers requests on every connection
// until it is told to close them.
type room struct {
	t      testing.TB
	ns     *capture.Namespace
	server net.Listener
	port   uint16
	body   string
}

func newRoom(t testing.TB, address, body string) *room {
	t.Helper()
	needRoot(t)
	r := &room{t: t, body: body}
	r.ns, _ = newNamespace(t)
	if err := r.ns.Enter(func() (err error) {
		r.server, err = net.Listen("tcp", address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.server.Close() })
	r.port = uint16(r.server.Addr().(*net.TCPAddr).Port)
	go func() {
		for {
			c, err := r.server.Accept()
			if err != nil {
				return
			}
			go r.serve(c)
		}
	}()
	return r
}

func (r *room) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(in)
		if err != nil || req.URL.Path == "/end" {
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(r.body), r.body)
	}
}

// dial opens a connection, and asks n times.
func (r *room) dial(n int) net.Conn {
	r.t.Helper()
	var c net.Conn
	if err := r.ns.Enter(func() (err error) {
		c, err = net.Dial("tcp", r.server.Addr().String())
		return err
	}); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	in := bufio.NewReader(c)
	for i := range n {
		fmt.Fprintf(c, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			r.t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			r.t.Fatal(err)
		}
	}
	return c
}

// record opens a recorder in the room.
func (r *room) record(cfg RecorderConfig) *Recorder {
	r.t.Helper()
	cfg.Places = []capture.Place{{Enter: r.ns.Enter}}
	rec, err := OpenRecorder(cfg)
	if cfg.Hook == TCX && err != nil && strings.Contains(err.Error(), "not supported") {
		r.t.Skipf("this kernel has no TCX (Linux 6.6): %v", err)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { rec.Close() })
	return rec
}

// drain stops the recorder and returns all that it yields.
func drain(t testing.TB, rec *Recorder) (all []capture.Segment) {
	t.Helper()
	rec.Stop()
	for {
		var s capture.Segment
		switch err := rec.Next(&s); {
		case err == nil:
			s.Payload = append([]byte(nil), s.Payload...)
			all = append(all, s)
		case errors.Is(err, capture.ErrTick):
		case errors.Is(err, io.EOF):
			return all
		default:
			t.Fatal(err)
		}
	}
}

// tickOnce has the recorder do what it does now and then.
func tickOnce(t testing.TB, rec *Recorder) (all []capture.Segment) {
	t.Helper()
	for {
		var s capture.Segment
		if err := rec.Next(&s); errors.Is(err, capture.ErrTick) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
}

// A request costs no event; what came before the latest is said.
func TestRecorder(t *testing.T) {
	for _, hook := range []Hook{TCX, SocketFilter} {
		for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
			for _, size := range []int{2, 100_000} {
				t.Run(fmt.Sprintf("%s %s %d", hook, address, size), func(t *testing.T) {
					r := newRoom(t, address, strings.Repeat("x", size))
					rec := r.record(RecorderConfig{Hook: hook, Filter: capture.Filter{Ports: []capture.PortRange{{First: r.port, Last: r.port}}}})
					const requests = 100
					c := r.dial(requests)
					tickOnce(t, rec)
					tickOnce(t, rec)
					if s := rec.Stats().Recorder; s.Records+s.Segments != 0 || s.Kept != 1 {
						t.Errorf("while it is open: %+v", *s)
					}
					fmt.Fprint(c, "GET /end HTTP/1.1\r\nHost: a\r\n\r\n")
					if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
						t.Fatal("the server did not close")
					}
					c.Close()
					time.Sleep(20 * time.Millisecond)
					all := drain(t, rec)
					seen, fins, last := 0, 0, ""
					for i := range all {
						s := &all[i]
						if e := s.Elided; e != nil && e.Before {
							seen += e.Exchanges
							if !e.Whole || e.Bytes == 0 || e.Client < 0 {
								t.Errorf("%+v", *e)
							}
						}
						if strings.HasPrefix(string(s.Payload), "GET ") {
							last = strings.Fields(string(s.Payload))[1]
							seen++
						}
						if s.Has(capture.FIN) {
							fins++
						}
					}
					if all[0].Flags != capture.SYN || all[1].Flags != capture.SYN|capture.ACK || seen != requests+1 || fins != 2 || last != "/end" {
						t.Errorf("%d requests, the last %s, and %d FINs:", seen, last, fins)
						for i := range all {
							t.Log(all[i].String(), all[i].Elided)
						}
					}
					if s := rec.Stats(); s.Recorder.Records != 1 || s.Missed != 0 || s.Undecodable != 0 || s.Recorder.Kept != 0 {
						t.Errorf("%+v, %+v", s, *s.Recorder)
					}
				})
			}
		}
	}
}

func TestRecorderLoads(t *testing.T) {
	r := newRoom(t, "127.0.0.1:0", "x")
	rec := r.record(RecorderConfig{})
	c := r.dial(3)
	time.Sleep(250 * time.Millisecond)
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if _, err := c.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if err := rec.readLoads(); err != nil {
		t.Fatal(err)
	}
	loads := rec.Loads()
	if len(loads) != 1 {
		t.Fatalf("%+v", loads)
	}
	l := loads[0]
	counted := uint64(0)
	for _, n := range l.Idle {
		counted += n.Count
	}
	long := l.Idle[len(l.Idle)-1]
	if l.Server.Port != r.port || l.Open != 1 || l.Reuses != 3 || counted != 3 || l.Longest < 250*time.Millisecond ||
		long.From > l.Longest || long.To < l.Longest {
		t.Errorf("%+v", l)
	}
}

// What does not fit is counted.
func TestRecorderFull(t *testing.T) {
	r := newRoom(t, "127.0.0.1:0", "x")
	rec := r.record(RecorderConfig{Connections: 16})
	const first = 15
	for range first {
		r.dial(1)
	}
	for range 11 { // until it looks at how full the table is
		tickOnce(t, rec)
	}
	s := rec.Stats().Recorder
	if s.Evicted == 0 || s.Kept+s.Evicted != first || s.Full != 0 {
		t.Errorf("%+v", *s)
	}
	for range 14 {
		r.dial(1)
	}
	tickOnce(t, rec)
	if s := rec.Stats(); s.Recorder.Full == 0 || s.Missed != 0 {
		t.Errorf("%+v", *s.Recorder)
	}
}

func TestRecorderRingFull(t *testing.T) {
	r := newRoom(t, "127.0.0.1:0", "x")
	rec := r.record(RecorderConfig{Ring: os.Getpagesize() * 4})
	for range 20 {
		r.dial(1).Close()
	}
	time.Sleep(20 * time.Millisecond)
	drain(t, rec)
	if s := rec.Stats(); s.Recorder.Lost == 0 || s.Missed < s.Recorder.Lost {
		t.Errorf("%+v", *s.Recorder)
	}
}

func TestRecorderFilter(t *testing.T) {
	r := newRoom(t, "127.0.0.1:0", "x")
	other := capture.Filter{Ports: []capture.PortRange{{First: 1, Last: 2}}}
	rec := r.record(RecorderConfig{Filter: other})
	see := func(f capture.Filter, want bool) {
		t.Helper()
		if err := rec.SetFilter(f); err != nil {
			t.Fatal(err)
		}
		tickOnce(t, rec)
		before := rec.Stats().Segments
		r.dial(1).Close()
		time.Sleep(120 * time.Millisecond)
		tickOnce(t, rec)
		if got := rec.Stats().Segments > before; got != want {
			t.Errorf("%+v: seen %t", f, got)
		}
	}
	prefix := func(text string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(text)} }
	see(other, false)
	see(capture.Filter{Ports: []capture.PortRange{{First: r.port, Last: r.port}}}, true)
	see(capture.Filter{Prefixes: prefix("10.0.0.0/8")}, false)
	see(capture.Filter{Prefixes: prefix("127.0.0.0/8")}, true)
	see(capture.Filter{Ports: []capture.PortRange{{First: r.port, Last: r.port}}, Prefixes: prefix("::/1")}, true) // mapped
	see(capture.Filter{Ports: []capture.PortRange{{First: r.port, Last: r.port}}, Prefixes: prefix("2000::/3")}, false)
	see(capture.Filter{}, true)
}

// Interfaces that come are watched, too.
func TestRecorderInterfaces(t *testing.T) {
	needRoot(t)
	needProgram(t, "ip")
	r := newRoom(t, "127.0.0.1:0", "x")
	for _, hook := range []Hook{AnyHook, SocketFilter} {
		rec := r.record(RecorderConfig{Hook: hook})
		name := fmt.Sprintf("veth%d", hook)
		inside(t, r.ns, "ip", "link", "add", name, "type", "veth", "peer", name+"p")
		inside(t, r.ns, "ip", "link", "set", name, "up")
		inside(t, r.ns, "ip", "link", "set", name+"p", "up")
		inside(t, r.ns, "ip", "addr", "add", fmt.Sprintf("10.9.%d.1/24", hook), "dev", name)
		for range 11 {
			tickOnce(t, rec)
		}
		before := rec.Stats().Packets
		inside(t, r.ns, "ip", "neigh", "add", fmt.Sprintf("10.9.%d.2", hook), "lladdr", "02:00:00:00:00:01", "dev", name)
		if err := r.ns.Enter(func() error {
			d := net.Dialer{Timeout: 50 * time.Millisecond}
			if c, err := d.Dial("tcp", fmt.Sprintf("10.9.%d.2:80", hook)); err == nil {
				c.Close()
				return errors.New("somebody answered")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		tickOnce(t, rec)
		tickOnce(t, rec)
		if s := rec.Stats(); s.Packets == before {
			t.Errorf("%s: %+v", hook, s)
		}
		found := false
		for _, s := range drain(t, rec) {
			found = found || s.Flags == capture.SYN && s.Dst.Port == 80
		}
		if !found {
			t.Errorf("%s: the SYN was not recorded", hook)
		}
		rec.Close()
	}
}

// A connection that was reset does not stay in the kernel.
func TestRecorderResets(t *testing.T) {
	r := newRoom(t, "127.0.0.1:0", "x")
	rec := r.record(RecorderConfig{})
	for range 5 {
		c := r.dial(1).(*net.TCPConn)
		if err := c.SetLinger(0); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	tickOnce(t, rec)
	if s := rec.Stats().Recorder; s.Kept != 5 {
		t.Fatalf("%+v", *s)
	}
	for begin := time.Now(); rec.Stats().Recorder.Kept > 0; tickOnce(t, rec) {
		if time.Since(begin) > 2*resetStays {
			t.Fatalf("%+v", *rec.Stats().Recorder)
		}
	}
	if err := rec.readLoads(); err != nil {
		t.Fatal(err)
	}
	if l := rec.Loads(); rec.Stats().Recorder.Evicted != 0 || l[len(l)-1].Open != 0 {
		t.Errorf("%+v, %+v", *rec.Stats().Recorder, l)
	}
}
