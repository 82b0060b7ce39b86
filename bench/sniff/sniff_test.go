//go:build linux

package sniff

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"whyreset/bench/netns"
)

func TestSniff(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must run this test as root")
		}
		t.Skip("SKIPPED: capturing needs root")
	}
	for _, program := range []string{"ip", "tcpdump"} {
		if _, err := exec.LookPath(program); err != nil && os.Getenv("CI") != "true" {
			t.Skip("SKIPPED: capturing needs " + program + " (apt-get install iproute2 tcpdump)")
		}
	}
	ns, err := netns.New("sniff")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	file := filepath.Join(t.TempDir(), "x.pcap")
	s, err := Start(ns, "lo", file, "--immediate-mode", "-U", "tcp")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := ns.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := ns.DialContext(context.Background(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	// The port is the namespace's, not this one's.
	if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		c.Close()
		t.Error("the listener is in this namespace")
	}
	c.Close()
	ln.Close()
	count, err := s.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || count.Captured < 4 || info.Size() < 300 {
		t.Errorf("captured %d packets, file %v, %v", count.Captured, info, err)
	}
	if _, err := Start(ns, "nosuch0", file); err == nil {
		t.Error("want an error for an interface that does not exist")
	}
}
