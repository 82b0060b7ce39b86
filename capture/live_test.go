//go:build linux

package capture

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"whyreset/bench/netns"
	"whyreset/bench/sniff"
)

// space returns a namespace of its own to capture in; without the privilege the
// test is skipped, except in CI.
func space(t *testing.T) *netns.Namespace {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must run this test as root")
		}
		t.Skip("SKIPPED: capturing needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil && os.Getenv("CI") != "true" {
		t.Skip("SKIPPED: namespaces need ip (apt-get install iproute2)")
	}
	ns, err := netns.New("live")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func ipIn(t *testing.T, ns *netns.Namespace, args ...string) {
	t.Helper()
	if err := ns.IP(args...); err != nil {
		t.Fatal(err)
	}
}

func openLive(t *testing.T, cfg LiveConfig) *Live {
	t.Helper()
	l, err := OpenLive(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// drain stops l and returns what it saw.
func drain(t *testing.T, l *Live) []Segment {
	t.Helper()
	l.Stop()
	all, err := collect(l, time.Now().Add(10*time.Second))
	if err != io.EOF {
		t.Fatal(err)
	}
	return all
}

// collect reads until there is an error.
func collect(l *Live, deadline time.Time) (all []Segment, err error) {
	for time.Now().Before(deadline) {
		var s Segment
		switch err := l.Next(&s); {
		case errors.Is(err, ErrTick):
		case err != nil:
			return all, err
		default:
			s.Payload = bytes.Clone(s.Payload)
			all = append(all, s)
		}
	}
	return all, errors.New("too slow")
}

// talk makes a connection inside the namespace, with a request and an answer of n
// bytes, and returns the client's address.
func talk(t *testing.T, server, client *netns.Namespace, addr string, n int) string {
	t.Helper()
	ln, err := server.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 100)
		if _, err := c.Read(b); err == nil {
			c.Write(bytes.Repeat([]byte("x"), n))
		}
	}()
	c, err := client.DialContext(context.Background(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Fatal(err)
	}
	return c.LocalAddr().String()
}

// count returns how many segments there are with SYN, how many payload bytes, and
// how many segments without either side's FIN.
func count(all []Segment) (syns, payload int) {
	for i := range all {
		if all[i].Flags&SYN != 0 {
			syns++
		}
		payload += all[i].Len
	}
	return syns, payload
}

// TestLiveLoopback holds that each packet on the loopback interface is seen once,
// on that interface or on all, and that bulk is whole.
func TestLiveLoopback(t *testing.T) {
	ns := space(t)
	for _, interfaces := range [][]string{{"lo"}, {"any"}, nil, {"lo", "any"}} {
		l := openLive(t, LiveConfig{Places: []Place{{Interfaces: interfaces, Enter: ns.Do}}})
		talk(t, ns, ns, "127.0.0.1:0", 300000)
		all := drain(t, l)
		syns, payload := count(all)
		if want := 300000 + 18; syns != 2 || payload != want {
			t.Errorf("%q: %d SYNs and %d bytes, want 2 and %d", interfaces, syns, payload, want)
		}
		for i := range all {
			if len(all[i].Payload) != all[i].Len || all[i].Time < Time(time.Now().Add(-time.Minute).UnixNano()) {
				t.Errorf("%v has %d bytes", &all[i], len(all[i].Payload))
			}
		}
		if st := l.Stats(); st.Missed > 0 || st.End == 0 || st.Segments != uint64(len(all)) {
			t.Errorf("%+v", st)
		}
	}
}

// bridged makes a client and a server in namespaces of their own, on a bridge in
// ns, and returns them and the server's address.
func bridged(t *testing.T, ns *netns.Namespace) (client, server *netns.Namespace, addr string) {
	t.Helper()
	ipIn(t, ns, "link", "add", "br0", "type", "bridge")
	ipIn(t, ns, "addr", "add", "10.66.0.254/24", "dev", "br0")
	ipIn(t, ns, "link", "set", "br0", "up")
	for i, end := range []**netns.Namespace{&client, &server} {
		*end = space(t)
		name := []string{"veth-c", "veth-s"}[i]
		ipIn(t, ns, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", (*end).Name)
		ipIn(t, ns, "link", "set", name, "master", "br0", "up")
		ipIn(t, *end, "addr", "add", []string{"10.66.0.1/24", "10.66.0.2/24"}[i], "dev", "eth0")
		ipIn(t, *end, "link", "set", "eth0", "up")
	}
	return client, server, "10.66.0.2:8080"
}

// TestLiveBridge holds that what passes veth, bridge and veth counts once on all
// interfaces, and that several containers' packets to each other do.
func TestLiveBridge(t *testing.T) {
	ns := space(t)
	client, server, addr := bridged(t, ns)
	on := func(name string, ns *netns.Namespace, ifaces ...string) Place {
		return Place{Name: name, Interfaces: ifaces, Enter: ns.Do}
	}
	for name, places := range map[string][]Place{
		"any":            {on("", ns)},
		"both veths":     {on("", ns, "veth-c", "veth-s")},
		"bridge":         {on("", ns, "br0")},
		"both ends":      {on("client", client), on("server", server)},
		"ends and host":  {on("client", client), on("server", server), on("", ns)},
		"one end, named": {on("client", client, "eth0")},
	} {
		l := openLive(t, LiveConfig{Places: places, Filter: Filter{Ports: []PortRange{{8080, 8080}}}})
		talk(t, server, client, addr, 50000)
		all := drain(t, l)
		syns, payload := count(all)
		if want := 50000 + 18; syns != 2 || payload != want {
			t.Errorf("%s: %d SYNs and %d bytes, want 2 and %d (%d repeated)", name, syns, payload, want, l.Stats().Repeated)
		}
		if several := name != "bridge" && name != "one end, named"; several != (l.Stats().Repeated > 0) {
			t.Errorf("%s: %d packets were seen again", name, l.Stats().Repeated)
		}
		for i := 1; i < len(all); i++ {
			if len(places) > 1 && all[i].Time < all[i-1].Time {
				t.Errorf("%s: out of order: %v after %v", name, &all[i], &all[i-1])
			}
		}
	}
}

// TestLiveSources has interfaces whose packets begin differently.
func TestLiveSources(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		ns := space(t)
		client, server, _ := bridged(t, ns)
		// A VLAN, and a tunnel, over the bridge.
		for i, end := range []*netns.Namespace{client, server} {
			n := string(rune('1' + i))
			if err := end.IP("link", "add", "link", "eth0", "name", "eth0.7", "type", "vlan", "id", "7"); err != nil {
				t.Logf("SKIPPED VLAN: %v", err)
			} else {
				ipIn(t, end, "addr", "add", "10.67.0."+n+"/24", "dev", "eth0.7")
				ipIn(t, end, "addr", "add", "fd00:67::"+n+"/64", "dev", "eth0.7", "nodad")
				ipIn(t, end, "link", "set", "eth0.7", "up")
			}
			for k, kind := range []string{"gre", "ipip", "vxlan"} {
				args := []string{"link", "add", "tun" + kind, "type", kind, "local", "10.66.0." + n, "remote", "10.66.0." + string(rune('2'-i))}
				if kind == "vxlan" {
					args = append(args, "id", "9", "dstport", "4789", "dev", "eth0")
				} else {
					args = append(args, "dev", "eth0")
				}
				if err := end.IP(args...); err != nil {
					t.Logf("SKIPPED %s: %v", kind, err)
					continue
				}
				net := string(rune('0' + k))
				ipIn(t, end, "addr", "add", "10.7"+net+".0."+n+"/24", "dev", "tun"+kind)
				if kind != "ipip" {
					ipIn(t, end, "addr", "add", "fd00:7"+net+"::"+n+"/64", "dev", "tun"+kind, "nodad")
				}
				ipIn(t, end, "link", "set", "tun"+kind, "up")
			}
		}
		addrs := map[string]string{"eth0.7": "10.67.0.2:8080", "tungre": "10.70.0.2:8080", "tunipip": "10.71.0.2:8080", "tunvxlan": "10.72.0.2:8080"}
		if v6 {
			addrs = map[string]string{"eth0.7": "[fd00:67::2]:8080", "tungre": "[fd00:70::2]:8080", "tunvxlan": "[fd00:72::2]:8080"}
		}
		for iface, addr := range addrs {
			if server.IP("link", "show", iface) != nil {
				continue
			}
			for _, where := range []string{iface, "eth0", "any"} {
				l := openLive(t, LiveConfig{
					Places: []Place{{Interfaces: []string{where}, Enter: server.Do}},
					Filter: Filter{Ports: []PortRange{{8080, 8080}}},
				})
				talk(t, server, client, addr, 5000)
				all := drain(t, l)
				syns, payload := count(all)
				if want := 5000 + 18; syns != 2 || payload < want {
					t.Errorf("%s seen on %s: %d SYNs and %d bytes, want 2 and %d", addr, where, syns, payload, want)
				}
			}
		}
	}
}

// TestLiveFilter holds what the kernel lets through against what tcpdump sees of
// the same traffic with the same filter.
func TestLiveFilter(t *testing.T) {
	ns := space(t)
	if _, err := exec.LookPath("tcpdump"); err != nil && os.Getenv("CI") != "true" {
		t.Skip("SKIPPED: comparing needs tcpdump (apt-get install tcpdump)")
	}
	client, server, _ := bridged(t, ns)
	for i, end := range []*netns.Namespace{client, server} {
		ipIn(t, end, "addr", "add", []string{"fd00::1/64", "fd00::2/64"}[i], "dev", "eth0", "nodad")
	}
	v6 := netip.MustParsePrefix("fd00::2/127")
	for _, c := range []struct {
		filter Filter
		bpf    string
	}{
		{Filter{}, "tcp"},
		{Filter{Ports: []PortRange{{8080, 8080}}}, "tcp port 8080"},
		{Filter{Ports: []PortRange{{8081, 9000}, {7000, 7000}}}, "tcp portrange 8081-9000 or tcp port 7000"},
		{Filter{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.66.0.2/32")}, Ports: []PortRange{{8080, 8080}}}, "tcp port 8080 and host 10.66.0.2"},
		{Filter{Prefixes: []netip.Prefix{v6}}, "tcp and net fd00::2/127"},
		{Filter{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}}, "tcp and net 10.99.0.0/16"},
	} {
		name := filepath.Join(t.TempDir(), "x.pcap")
		dump, err := sniff.Start(server, "eth0", name, "--immediate-mode", "-U", "-B", "32768", c.bpf)
		if err != nil {
			t.Fatal(err)
		}
		l := openLive(t, LiveConfig{Places: []Place{{Interfaces: []string{"eth0"}, Enter: server.Do}}, Filter: c.filter})
		for _, port := range []string{"8080", "8090", "7000", "6999"} {
			talk(t, server, client, "10.66.0.2:"+port, 20000)
			talk(t, server, client, "[fd00::2]:"+port, 20000)
		}
		time.Sleep(50 * time.Millisecond)
		all := drain(t, l)
		if _, err := dump.Stop(); err != nil {
			t.Fatal(err)
		}
		src, err := OpenFiles([]string{name}, nil, Filter{})
		if err != nil {
			t.Fatal(err)
		}
		want, err := readAll(t, src)
		if err != io.EOF || len(want) != len(all) {
			t.Fatalf("%s: tcpdump has %d packets, we %d; %v", c.bpf, len(want), len(all), err)
		}
		for i := range all {
			if all[i].String()[16:] != want[i].String()[16:] || !bytes.Equal(all[i].Payload, want[i].Payload) || all[i].TTL != want[i].TTL || all[i].IPID != want[i].IPID {
				t.Fatalf("%s: packet %d: %v, tcpdump %v", c.bpf, i+1, &all[i], &want[i])
			}
		}
		if st := l.Stats(); st.Packets != uint64(len(all)) {
			t.Errorf("%s: the kernel let %d packets through for %d", c.bpf, st.Packets, len(all))
		}
	}
}

// TestLiveClose holds that Close unblocks Next at once.
func TestLiveClose(t *testing.T) {
	ns := space(t)
	l := openLive(t, LiveConfig{Places: []Place{{Enter: ns.Do}}})
	done := make(chan error, 1)
	go func() {
		_, err := collect(l, time.Now().Add(time.Minute))
		done <- err
	}()
	time.Sleep(150 * time.Millisecond)
	began := time.Now()
	l.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if d := time.Since(began); d > 500*time.Millisecond { // much less, unless the machine is busy
		t.Errorf("Close took %v", d)
	}
	l.Stop() // does no harm
}

// TestLiveMissed overflows a small ring.
func TestLiveMissed(t *testing.T) {
	ns := space(t)
	name := filepath.Join(t.TempDir(), "x.pcapng")
	rec, err := CreateRecording(name, 0, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := openLive(t, LiveConfig{Places: []Place{{Interfaces: []string{"lo"}, Enter: ns.Do}}, Buffer: MinBuffer})
	l.Record(rec)
	talk(t, ns, ns, "127.0.0.1:0", 20<<20)
	all := drain(t, l)
	missed := l.Stats().Missed
	if _, payload := count(all); missed == 0 || payload > 20<<20 {
		t.Errorf("%d missed, %d bytes", missed, payload)
	}
	src, err := OpenFiles([]string{name}, nil, Filter{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	again, err := readAll(t, src)
	if err != io.EOF || len(again) != len(all) || src.Stats().Missed != missed || src.Stats().End != l.Stats().End {
		t.Errorf("recorded %d of %d segments, %v; %+v, live %+v", len(again), len(all), err, src.Stats(), l.Stats())
	}
	for i := range again {
		if !bytes.Equal(again[i].Payload, all[i].Payload) {
			t.Fatalf("payload of %v", &again[i])
		}
		again[i].Payload, all[i].Payload = nil, nil
		if again[i].String() != all[i].String() || again[i].Frame != all[i].Frame || again[i].Time != all[i].Time || again[i].TTL != all[i].TTL {
			t.Fatalf("%v was recorded as %v", &all[i], &again[i])
		}
	}
}

// TestLiveLinks takes interfaces down, up, and away.
func TestLiveLinks(t *testing.T) {
	ns := space(t)
	ipIn(t, ns, "link", "add", "d0", "type", "veth", "peer", "name", "d9")
	if _, err := OpenLive(LiveConfig{Places: []Place{{Interfaces: []string{"d0"}, Enter: ns.Do}}}); err == nil || err.Error() != "interface d0 is down" {
		t.Errorf("down: %v", err)
	}
	if _, err := OpenLive(LiveConfig{Places: []Place{{Interfaces: []string{"d1"}, Enter: ns.Do}}}); err == nil || !strings.Contains(err.Error(), "any, lo, d9, d0") {
		t.Errorf("missing: %v", err)
	}
	ipIn(t, ns, "link", "set", "d0", "up")
	for _, interfaces := range [][]string{{"d0"}, {"d0", "lo"}} {
		l := openLive(t, LiveConfig{Places: []Place{{Interfaces: interfaces, Enter: ns.Do}}})
		expect := func(want string) error {
			t.Helper()
			for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
				var s Segment
				err := l.Next(&s)
				if got := strings.Join(l.Notices(), "|"); got != "" && got != want {
					t.Errorf("%q: got %q, want %q", interfaces, got, want)
				} else if got == want {
					return err
				}
				if err != nil && !errors.Is(err, ErrTick) {
					t.Fatal(err)
				}
			}
			t.Errorf("%q: no %q", interfaces, want)
			return nil
		}
		ipIn(t, ns, "link", "set", "d0", "down")
		expect("interface d0 is down: waiting for it")
		ipIn(t, ns, "link", "set", "d0", "up")
		expect("interface d0 is up again")
		ipIn(t, ns, "link", "del", "d0")
		err := expect("interface d0 was removed: nothing more is captured on it")
		if len(interfaces) == 1 && !errors.Is(err, ErrGone) || len(interfaces) == 2 && !errors.Is(err, ErrTick) {
			t.Errorf("%q: %v", interfaces, err)
		}
		l.Close()
		ipIn(t, ns, "link", "add", "d0", "type", "veth", "peer", "name", "d9")
		ipIn(t, ns, "link", "set", "d0", "up")
	}
}

// TestLiveComes sees an interface that comes later, on all interfaces.
func TestLiveComes(t *testing.T) {
	ns := space(t)
	l := openLive(t, LiveConfig{Places: []Place{{Enter: ns.Do}}})
	client, server, addr := bridged(t, ns)
	talk(t, server, client, addr, 10)
	if syns, payload := count(drain(t, l)); syns != 2 || payload != 28 {
		t.Errorf("%d SYNs, %d bytes", syns, payload)
	}
}

// TestLiveQuiet holds that a packet on a quiet link is there within 100 ms, and
// that the clock goes on behind it.
func TestLiveQuiet(t *testing.T) {
	ns := space(t)
	l := openLive(t, LiveConfig{Places: []Place{{Interfaces: []string{"lo"}, Enter: ns.Do}}})
	prompt := 0
	for range 5 {
		var longest time.Duration
		talk(t, ns, ns, "127.0.0.1:0", 10)
		var last Time
		for l.Reached() <= last || last == 0 {
			var s Segment
			switch err := l.Next(&s); {
			case err == nil:
				longest = max(longest, time.Since(s.Time.Std()))
				if s.Time < l.Reached() {
					t.Errorf("a packet from %v before the clock", l.Reached().Sub(s.Time))
				}
				last = s.Time
			case !errors.Is(err, ErrTick):
				t.Fatal(err)
			}
		}
		if d := time.Since(last.Std()); d > 700*time.Millisecond {
			t.Errorf("the clock took %v", d)
		}
		if longest < 100*time.Millisecond {
			prompt++
		}
	}
	if prompt < 3 { // the machine may be busy now and then
		t.Errorf("packets came within 100 ms in %d rounds of 5 only", prompt)
	}
}
