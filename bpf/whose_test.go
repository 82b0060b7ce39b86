//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"whyreset/capture"
)

// groupOf returns the inode number of a cgroup.
func groupOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// recordGroups opens a recorder of control groups in a namespace.
func recordGroups(t *testing.T, ns *capture.Namespace, groups ...uint64) *Recorder {
	t.Helper()
	return recordGroupsAs(t, ns, RecorderConfig{Cgroups: groups})
}

func recordGroupsAs(t *testing.T, ns *capture.Namespace, cfg RecorderConfig) *Recorder {
	t.Helper()
	cfg.Places = []capture.Place{{Enter: ns.Enter}}
	rec, err := OpenRecorder(cfg)
	if errors.Is(err, ErrNoTCX) {
		t.Skipf("SKIPPED: %v", err) // which it must say, and not do without
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rec.Close() })
	return rec
}

// Of all connections, those are recorded that have a socket of a control group, or of
// one below it, at either end.
func TestCgroupRecorder(t *testing.T) {
	needRoot(t)
	inner, above := testGroup(t)
	if inner == "" {
		t.Skip("SKIPPED: there is no cgroup2 hierarchy")
	}
	ns, _ := newNamespace(t)
	actors := map[string]*actor{}
	for _, name := range []string{"in", "in too", "out", "out too"} {
		a := newActor(t, ns, name, nil)
		if strings.HasPrefix(name, "in") {
			join(t, inner, a)
		}
		actors[name] = a
	}
	ends := map[string]capture.Flags{"closed": capture.ACK, "reset": capture.RST | capture.ACK, "open": capture.ACK, "refused": capture.RST | capture.ACK}
	empty := groupOf(t, newGroup(t))
	for _, c := range []struct {
		name           string
		server, client string
		groups         []uint64
		ours           bool
	}{
		{"the server's", "in", "out", []uint64{above}, true},
		{"the client's", "out", "in", []uint64{empty, above}, true},
		{"that of both", "in", "in too", []uint64{groupOf(t, inner)}, true},
		{"another", "out", "out too", []uint64{above, empty}, false},
		{"the root", "out", "out too", []uint64{groupOf(t, groupRoot())}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec := recordGroups(t, ns, c.groups...)
			server, client := actors[c.server], actors[c.client]
			want := map[uint16]capture.Flags{} // how it ends, by the server's port
			kept := 0
			for _, address := range []string{"127.0.0.1", "[::1]"} {
				for how, end := range ends {
					port := server.do("listen %s:0 1", address)
					client.target = address + ":" + port
					if how == "refused" {
						server.do("unlisten")
						if _, err := client.try("connect %s", target); err == nil {
							t.Fatal("somebody listens")
						}
					} else {
						talk(server, client, how)
						server.do("unlisten")
					}
					ours := c.ours && (how != "refused" || c.server != "in" || c.client == "in too")
					if ours {
						want[uint16(atoi(t, port))] = end
					}
					if how == "open" || ours && how != "closed" { // a reset may not be taken
						kept++
					}
				}
			}
			all := slices.Concat(tickOnce(t, rec), tickOnce(t, rec))
			if got := rec.Stats().Recorder.Kept; got != uint64(kept) {
				t.Errorf("%d connections are kept, not %d", got, kept)
			}
			rec.Loads()
			if err := rec.readLoads(); err != nil {
				t.Fatal(err)
			}
			for _, l := range rec.Loads() {
				if _, ok := want[l.Server.Port]; !ok {
					t.Errorf("others are counted: %+v", l)
				}
			}
			got := map[uint16]capture.Flags{}
			for _, s := range append(all, drain(t, rec)...) {
				t.Log(s.String())
				port := s.Dst.Port
				if _, ok := want[port]; !ok {
					port = s.Src.Port
				}
				if _, ok := got[port]; !ok && s.Flags != capture.SYN {
					t.Errorf("it begins with %v", s.String())
				}
				got[port] = s.Flags &^ capture.PSH
			}
			s := rec.Stats()
			if !maps.Equal(got, want) || s.Missed+s.Recorder.Evicted > 0 || (s.Filtered == 0) != (c.ours && len(want) == 8) {
				t.Errorf("it ends with %v, not %v; %+v, %+v", got, want, s, *s.Recorder)
			}
		})
	}
}

// A connection that began before is whose the next segment says: what happened to it
// until then goes up at that, and an end at once.
func TestCgroupLateRecorder(t *testing.T) {
	needRoot(t)
	inner, above := testGroup(t)
	if inner == "" {
		t.Skip("SKIPPED: there is no cgroup2 hierarchy")
	}
	ns, _ := newNamespace(t)
	server, client := newActor(t, ns, "server", nil), newActor(t, ns, "client", nil)
	join(t, inner, server)
	for _, c := range []struct {
		group    uint64
		speaks   bool // before it ends
		up, ends uint64
	}{{above, true, 1, 0}, {above, false, 0, 1}, {groupOf(t, newGroup(t)), true, 0, 0}, {groupOf(t, newGroup(t)), false, 0, 0}} {
		client.target = "127.0.0.1:" + server.do("listen 127.0.0.1:0 1")
		client.do("connect %s", target)
		server.do("accept")
		rec := recordGroups(t, ns, c.group)
		if c.speaks { // what has to be followed, as the client sends it
			client.do("write %q", "nothing known")
			server.do("await")
			server.do("read")
			server.do("write %q", "nothing either")
		} else {
			server.do("shutdown")
		}
		tickOnce(t, rec)
		tickOnce(t, rec)
		if s := rec.Stats(); s.Recorder.Records != c.up || s.Recorder.Segments < c.ends || c.up+c.ends == 0 && s.Recorder.Segments > 0 {
			t.Errorf("%+v: %+v, %+v", c, s, *s.Recorder)
		}
		for _, a := range []*actor{client, server} {
			a.do("close")
		}
		server.do("unlisten")
		rec.Close()
	}
}

// join moves an actor into a cgroup.
func join(t *testing.T, group string, a *actor) {
	t.Helper()
	if err := os.WriteFile(group+"/cgroup.procs", fmt.Append(nil, a.pid()), 0); err != nil {
		t.Fatal(err)
	}
}

// talk has a client ask, and be answered or not.
func talk(server, client *actor, how string) {
	client.do("connect %s", target)
	server.do("accept")
	client.do("write %q", request)
	server.do("await")
	if how == "reset" { // with the request unread
		server.do("close")
		client.do("await")
		client.do("close")
		return
	}
	server.do("read")
	server.do("write %q", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	client.do("await")
	client.do("read")
	client.do("write %q", request)
	server.do("await")
	server.do("read")
	if how == "closed" {
		server.do("shutdown")
		client.do("await")
		client.do("close")
		server.do("await")
		server.do("close")
	}
	time.Sleep(20 * time.Millisecond)
}

// On other interfaces, a connection is whose its end on this host is; and that of a
// container where it comes out of it.
func TestCgroupVethRecorder(t *testing.T) {
	needRoot(t)
	needProgram(t, "ip")
	inner, above := testGroup(t)
	if inner == "" {
		t.Skip("SKIPPED: there is no cgroup2 hierarchy")
	}
	near, _ := newNamespace(t)
	far, _ := newNamespace(t)
	server, client := newActor(t, near, "server", nil), newActor(t, far, "client", nil)
	inside(t, near, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", fmt.Sprint(client.pid()))
	for _, end := range []struct {
		ns            *capture.Namespace
		name, address string
	}{{near, "v0", "10.9.0.1/24"}, {far, "v1", "10.9.0.2/24"}} {
		inside(t, end.ns, "ip", "addr", "add", end.address, "dev", end.name)
		inside(t, end.ns, "ip", "link", "set", end.name, "up")
	}
	join(t, inner, server)
	for _, c := range []struct {
		name  string
		ns    *capture.Namespace
		group uint64
		ours  bool
	}{{"the server's", near, above, true}, {"another", near, groupOf(t, newGroup(t)), false}, {"the server's, from the client", far, above, true}} {
		for _, how := range []string{"closed", "reset", "open"} {
			t.Run(c.name+" "+how, func(t *testing.T) {
				rec := recordGroups(t, c.ns, c.group)
				client.target = "10.9.0.1:" + server.do("listen 10.9.0.1:0 1")
				talk(server, client, how)
				all := append(tickOnce(t, rec), drain(t, rec)...)
				if s := rec.Stats(); (len(all) > 0) != c.ours || c.ours && (all[0].Flags != capture.SYN || s.Filtered > 0) {
					t.Errorf("%+v", s)
					for i := range all {
						t.Log(all[i].String())
					}
				}
				if how == "open" {
					client.do("close")
					server.do("close")
				}
				server.do("unlisten")
			})
		}
	}
}

// Segments that somebody makes up, and what the kernel answers where there is no socket,
// are nobody's, though they leave sockets too.
func TestCgroupNobodyRecorder(t *testing.T) {
	needRoot(t)
	root := groupRoot()
	if root == "" {
		t.Skip("SKIPPED: there is no cgroup2 hierarchy")
	}
	ns, _ := newNamespace(t)
	rec := recordGroups(t, ns, groupOf(t, root))
	inject(t, ns, 1000, 1001, 1, 1, request)
	all := append(tickOnce(t, rec), drain(t, rec)...)
	if s := rec.Stats(); len(all) > 0 || s.Filtered != 2 || s.Recorder.Kept > 0 {
		t.Errorf("%d segments, %+v, %+v", len(all), s, *s.Recorder)
	}
}

// newGroup makes a cgroup with nobody in it.
func newGroup(t *testing.T) string {
	path, _ := testGroup(t)
	return path
}

// Where the table fills, the connections of others go first, and are not missed.
func TestCgroupFullRecorder(t *testing.T) {
	r := newRoom(t, "127.0.0.1:0", "x")
	group := newGroup(t)
	if group == "" {
		t.Skip("SKIPPED: there is no cgroup2 hierarchy")
	}
	rec := recordGroupsAs(t, r.ns, RecorderConfig{Connections: 16, Cgroups: []uint64{groupOf(t, group)}})
	for range 15 {
		r.dial(1)
	}
	for range 11 { // until it looks at how full the table is
		tickOnce(t, rec)
	}
	if s := rec.Stats().Recorder; s.Kept >= 15 || s.Evicted+s.Full > 0 {
		t.Errorf("%+v", *s)
	}
	if all := drain(t, rec); len(all) > 0 {
		t.Errorf("%d segments came", len(all))
	}
}
