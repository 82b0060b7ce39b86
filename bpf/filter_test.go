//go:build linux

package bpf

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"whyreset/capture"
)

// TestFilters holds each filter, changing it while it goes on.
func TestFilters(t *testing.T) {
	needRoot(t)
	ns, inode := newNamespace(t)
	_, elsewhere := newNamespace(t)
	f := openFor(t, FactsConfig{Namespaces: []uint64{inode}})
	group, ours := testGroup(t)
	server, client := newActor(t, ns, "server", nil), newActor(t, ns, "client", nil)
	port := uint16(atoi(t, server.do("listen 127.0.0.1:0 1")))
	server.target, client.target = fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("127.0.0.1:%d", port)
	prefix := netip.MustParsePrefix
	here := []uint64{inode}
	if group != "" {
		if err := os.WriteFile(group+"/cgroup.procs", fmt.Append(nil, client.pid()), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name           string
		config         FactsConfig
		server, client bool // which end is told of
	}{
		{"nothing", FactsConfig{Namespaces: here}, true, true},
		{"the port", FactsConfig{Namespaces: here, Filter: capture.Filter{Ports: []capture.PortRange{{First: port, Last: port}}}}, true, true},
		{"another port", FactsConfig{Namespaces: here, Filter: capture.Filter{Ports: []capture.PortRange{{First: 1, Last: 10}}}}, false, false},
		{"an address", FactsConfig{Namespaces: here, Filter: capture.Filter{Prefixes: []netip.Prefix{prefix("127.0.0.0/8"), prefix("::1/128")}}}, true, true},
		{"another address", FactsConfig{Namespaces: here, Filter: capture.Filter{Prefixes: []netip.Prefix{prefix("10.0.0.0/8"), prefix("fd00::/8")}}}, false, false},
		{"another namespace", FactsConfig{Namespaces: []uint64{elsewhere}}, false, false},
		{"the server's process", FactsConfig{Namespaces: here, Processes: []int{server.pid()}}, true, false},
		{"the client's process", FactsConfig{Namespaces: here, Processes: []int{client.pid()}}, false, true},
		{"the client's cgroup", FactsConfig{Namespaces: here, Cgroups: []uint64{ours}}, false, true},
		{"the server's process and the client's cgroup", FactsConfig{Namespaces: here, Processes: []int{server.pid()}, Cgroups: []uint64{ours}}, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if len(c.config.Cgroups) > 0 && group == "" {
				t.Skip("SKIPPED: there is no cgroup2 hierarchy")
			}
			if err := f.SetFilter(c.config); err != nil {
				t.Fatal(err)
			}
			client.do("connect %s", target)
			server.do("accept")
			client.do("write %q", request)
			server.do("await")
			server.do("close")
			client.do("await")
			client.do("close")
			var told []string
			for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
				if err := f.Read(20*time.Millisecond, func(x *capture.SocketFact) {
					told = append(told, fmt.Sprint(x.Kind, " ", x.Owner.Command))
					if group != "" && x.Owner.PID == client.pid() && x.Owner.Cgroup == "" {
						t.Errorf("the client's cgroup is not told: %+v", x.Owner)
					}
				}); err != nil {
					t.Fatal(err)
				}
			}
			var want []string
			if c.server {
				want = append(want, "reset-sent server")
			}
			if c.client {
				want = append(want, "reset-received client")
			}
			slices.Sort(told)
			slices.Sort(want)
			if !slices.Equal(told, want) {
				t.Errorf("told of %q, want %q", told, want)
			}
		})
	}
}

// testGroup makes a cgroup below another, and returns its path and the inode number
// of the upper one.
func testGroup(t *testing.T) (path string, above uint64) {
	t.Helper()
	root := groupRoot()
	if root == "" {
		return "", 0
	}
	upper, err := os.MkdirTemp(root, "whyreset-test-")
	if err != nil {
		t.Fatal(err)
	}
	path = upper + "/inner"
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Whoever is inside has been killed; the kernel takes its time.
		for range 100 {
			if os.Remove(path) == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err := os.Remove(upper); err != nil {
			t.Error(err)
		}
	})
	var st unix.Stat_t
	if err := unix.Stat(upper, &st); err != nil {
		t.Fatal(err)
	}
	return path, st.Ino
}
