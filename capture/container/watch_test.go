//go:build linux

package container

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"whyreset/capture"
)

// A fakeHost has containers that are a process in a network namespace each, and
// an engine that knows some of them.
type fakeHost struct {
	t      *testing.T
	host   *Host
	mu     sync.Mutex
	known  map[string]fakeContainer // to the engine, by id
	events chan string
}

type fakeContainer struct {
	name string
	pid  int
	cmd  *exec.Cmd
}

func newFakeHost(t *testing.T) *fakeHost {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must run this test as root")
		}
		t.Skip("SKIPPED: namespaces need root")
	}
	f := &fakeHost{t: t, known: map[string]fakeContainer{}, events: make(chan string, 16)}
	f.host = &Host{Proc: t.TempDir(), Sockets: []string{filepath.Join(shortDir(t), "s")}}
	for _, pid := range []string{"self", "1"} {
		f.process(pid, "/init.scope", "/proc/self/ns/net")
	}
	return f
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// process has /proc tell of a process.
func (f *fakeHost) process(pid, group, ns string) {
	f.t.Helper()
	link, err := os.Readlink(ns)
	if err != nil {
		f.t.Fatal(err)
	}
	write(f.t, "0::"+group+"\n", f.host.Proc, pid, "cgroup")
	if err := os.MkdirAll(filepath.Join(f.host.Proc, pid, "ns"), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Symlink(link, filepath.Join(f.host.Proc, pid, "ns/net")); err != nil {
		f.t.Fatal(err)
	}
}

// run starts a process in a namespace, new or that of another container.
func (f *fakeHost) run(group string, in int) fakeContainer {
	f.t.Helper()
	var ns *capture.Namespace
	var err error
	if in == 0 {
		ns, err = capture.NewNamespace()
	} else {
		ns, err = capture.OpenProcessNamespace(in)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	defer ns.Close()
	cmd := exec.Command("sleep", "60")
	if err := ns.Enter(cmd.Start); err != nil {
		f.t.Fatal(err)
	}
	c := fakeContainer{pid: cmd.Process.Pid, cmd: cmd}
	f.t.Cleanup(func() { f.end(c) })
	f.process(strconv.Itoa(c.pid), group, fmt.Sprintf("/proc/%d/ns/net", c.pid))
	return c
}

func (f *fakeHost) end(c fakeContainer) {
	c.cmd.Process.Kill()
	c.cmd.Wait()
	os.RemoveAll(filepath.Join(f.host.Proc, strconv.Itoa(c.pid)))
}

// serve has the engine answer until the function that is returned is called.
func (f *fakeHost) serve() (stop func()) {
	f.t.Helper()
	os.Remove(f.host.Sockets[0])
	ln, err := net.Listen("unix", f.host.Sockets[0])
	if err != nil {
		f.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(f.answer)}
	go srv.Serve(ln)
	f.t.Cleanup(func() { srv.Close() })
	return func() { srv.Close() }
}

func (f *fakeHost) answer(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/containers/"), "/json")
	switch {
	case r.URL.Path == "/containers/json":
		list := []map[string]any{}
		for id, c := range f.known {
			list = append(list, map[string]any{"Id": id, "Names": []string{"/" + c.name}, "State": "running"})
		}
		json.NewEncoder(w).Encode(list)
	case f.known[id].pid != 0:
		fmt.Fprintf(w, `{"State":{"Pid":%d}}`, f.known[id].pid)
	case r.URL.Path == "/events" && strings.Contains(r.URL.Query().Get("filters"), `"container"`):
		f.mu.Unlock()
		defer f.mu.Lock()
		w.(http.Flusher).Flush()
		for {
			select {
			case <-r.Context().Done():
				return
			case e := <-f.events:
				fmt.Fprint(w, e)
				w.(http.Flusher).Flush()
			}
		}
	default:
		http.NotFound(w, r)
	}
}

// knows tells the engine of a container.
func (f *fakeHost) knows(id, name string, c fakeContainer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.name = name
	f.known[id] = c
}

func (f *fakeHost) next(changes <-chan Change) Change {
	f.t.Helper()
	select {
	case c, ok := <-changes:
		if !ok {
			f.t.Fatal("the watch ended")
		}
		return c
	case <-time.After(5 * time.Second):
		f.t.Fatal("nothing changes")
	}
	return Change{}
}

// TestWatch has containers come and go, and an engine too.
func TestWatch(t *testing.T) {
	f := newFakeHost(t)
	before := f.run("/docker/"+id("a"), 0)
	f.knows(id("a"), "before", before)
	f.run("/system.slice/browser.service", 0) // which is no container
	stop := f.serve()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := f.host.Watch(ctx)
	a := f.next(changes)
	if !a.Started || a.Container.Name != "before" || a.Container.Engine != "docker" || a.Container.ID != id("a") || a.Container.PID != before.pid || a.Space.Ended() {
		t.Fatalf("at the start: %+v", a)
	}

	// The engine tells at once, and of what it started on another machine too.
	time.Sleep(300 * time.Millisecond)
	told := f.run("/docker/"+id("b"), 0)
	f.knows(id("b"), "told", told)
	began := time.Now()
	for _, e := range []string{"", "{", id("9"), id("b")} {
		if isID(e) {
			e = fmt.Sprintf(`{"Type":"container","Action":"start","Actor":{"ID":%q,"Attributes":{"name":"told"}}}`, e)
		}
		f.events <- e + "\n"
	}
	if b := f.next(changes); !b.Started || b.Container.Name != "told" || time.Since(began) > 900*time.Millisecond {
		t.Errorf("after %v: %+v", time.Since(began), b)
	}

	// Without it they are found all the same, by name once it is back.
	stop()
	alone := f.run("/kubepods/pod1/cri-containerd-"+id("c")+".scope", 0)
	c := f.next(changes)
	if !c.Started || c.Container.ID != id("c") || c.Container.Name != "" {
		t.Errorf("without an engine: %+v", c)
	}
	f.serve()
	back := f.run("/system.slice/docker-"+id("d")+".scope", 0)
	f.knows(id("d"), "back", back)
	if d := f.next(changes); d.Container.Name != "back" {
		t.Errorf("with an engine again: %+v", d)
	}

	// A namespace ends with the last of those who share it.
	second := f.run("/kubepods/pod1/cri-containerd-"+id("e")+".scope", alone.pid)
	time.Sleep(1200 * time.Millisecond)
	f.end(alone)
	select {
	case x := <-changes:
		t.Errorf("too early: %+v", x)
	case <-time.After(1500 * time.Millisecond):
	}
	f.end(second)
	if x := f.next(changes); x.Started || x.Space != c.Space || x.Container.ID != id("c") {
		t.Errorf("at the end: %+v", x)
	}
	c.Space.Close()
	cancel()
	for range changes {
		t.Error("a change after the end")
	}
}

// TestNames holds which container a process is in, and that nobody is waited for.
func TestNames(t *testing.T) {
	asked := make(chan struct{})
	socket := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/containers/json" {
			<-asked
			fmt.Fprintf(w, `[{"Id":%q,"Names":["/web"],"State":"running"}]`, id("a"))
		}
	})
	h := &Host{Sockets: []string{socket}, Proc: t.TempDir()}
	write(t, fmt.Sprintf("5:pids:/docker/%s\n0::/\n", id("a")), h.Proc, "7", "cgroup")
	n := h.Names(t.Context())
	began := time.Now()
	p := capture.Process{Cgroup: "/system.slice/docker-" + id("a") + ".scope"}
	if n.Fill(&p) || p.Container != id("a") || p.Name != "" {
		t.Errorf("before the answer: %+v", p)
	}
	for _, none := range []capture.Process{{}, {PID: 8}, {Cgroup: "/user.slice/x-" + strings.Repeat("z", 64)}, {PID: 7, Cgroup: "/system.slice"}} {
		if was := none; !n.Fill(&none) || none != was {
			t.Errorf("in no container: %+v", none)
		}
	}
	if time.Since(began) > 100*time.Millisecond {
		t.Errorf("it took %v", time.Since(began))
	}
	close(asked)
	for deadline := time.Now().Add(Timeout); !n.Fill(&p) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	inner := capture.Process{Cgroup: "/docker/" + id("a") + "/kubepods/" + id("b")}
	old := capture.Process{PID: 7, Cgroup: "/"}
	n.Fill(&inner)
	n.Fill(&old)
	for _, q := range []capture.Process{p, inner, old} {
		if q.Container != id("a") || q.Name != "web" {
			t.Errorf("after the answer: %+v", q)
		}
	}
	// One that no engine knows is asked for once.
	stray := capture.Process{Cgroup: "/" + id("c")}
	for deadline := time.Now().Add(Timeout); !n.Fill(&stray) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if !n.Fill(&stray) || stray.Container != id("c") || stray.Name != "" {
		t.Errorf("a stray one: %+v", stray)
	}
}
