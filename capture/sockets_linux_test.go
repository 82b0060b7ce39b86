package capture

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// TestSockets looks up the sockets of a namespace that the looker is not in.
func TestSockets(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must run this test as root")
		}
		t.Skip("SKIPPED: making namespaces needs root")
	}
	ns, err := NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var s *Sockets
	var ln, ln6 net.Listener
	var c, c6 net.Conn
	err = ns.Enter(func() (err error) {
		if s, err = OpenSockets(); err != nil {
			return err
		}
		if ln, err = net.Listen("tcp4", "0.0.0.0:80"); err != nil { // later than it was opened
			return err
		}
		if ln6, err = net.Listen("tcp", "[::]:81"); err != nil {
			return err
		}
		if c, err = net.Dial("tcp", "127.0.0.1:81"); err != nil {
			return err
		}
		c6, err = net.Dial("tcp", "[::1]:81")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close(); ln.Close(); ln6.Close(); c.Close(); c6.Close() }()
	end := func(a net.Addr) *Endpoint {
		e := EndpointFrom(a.(*net.TCPAddr).AddrPort())
		return &e
	}
	at := func(text string) *Endpoint {
		e := EndpointFrom(netip.MustParseAddrPort(text))
		return &e
	}
	now := Time(time.Now().UnixNano())
	for _, test := range []struct {
		local, remote *Endpoint
		found, listen bool
	}{
		{end(c.LocalAddr()), end(c.RemoteAddr()), true, false},
		{end(c.RemoteAddr()), end(c.LocalAddr()), true, false},
		{end(c6.RemoteAddr()), end(c6.LocalAddr()), true, false},
		{at("127.0.0.1:81"), at("127.0.0.1:9"), true, true},
		{at("127.0.0.1:80"), end(c.LocalAddr()), true, true},
		{at("[::1]:81"), at("[2001:db8::1]:9"), true, true},
		{at("[::1]:80"), at("[2001:db8::1]:9"), false, false},
		{at("127.0.0.1:79"), at("127.0.0.1:9"), false, false},
		{at("127.0.0.1:81"), at("[::1]:9"), false, false},
	} {
		f, ok := s.Find(test.local, test.remote)
		heard := f.Heard > now.Add(-time.Second) && f.Heard < now.Add(time.Second)
		if ok != test.found || f.Listens != test.listen || heard != (ok && !f.Listens) {
			t.Errorf("%v from %v: %+v, %v", test.local, test.remote, f, ok)
		}
	}
	for text, want := range map[string]bool{"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "10.0.0.1:1": false, "[2001:db8::1]:1": false} {
		if s.Has(at(text)) != want {
			t.Errorf("%s is its own: %v", text, !want)
		}
	}
	if !s.Untracked() {
		t.Error("connections are tracked in a namespace without rules")
	}
}
