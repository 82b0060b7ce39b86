package container

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// id returns an id that begins with s.
func id(s string) string { return s + strings.Repeat("0", 64-len(s)) }

func write(t *testing.T, text string, path ...string) {
	t.Helper()
	name := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// serve has an engine answer on a socket.
func serve(t *testing.T, handler http.HandlerFunc) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine")
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: handler}
	go srv.Serve(ln)
	t.Cleanup(func() {
		srv.Close()
		os.RemoveAll(dir)
	})
	return socket
}

// TestMatch holds which names mean which containers, and which of them win.
func TestMatch(t *testing.T) {
	all := []*Container{
		{ID: id("aa1"), Name: "web", State: "running"},
		{ID: id("aa2"), Name: "web-2", State: "running"},
		{ID: id("bb1"), Name: "shop-db-1", State: "running", others: []string{"db"}},
		{ID: id("bb2"), Name: "db-old", State: "exited"},
		{ID: id("cc1"), State: "paused"},
		{ID: "webid", State: "running"},
	}
	for name, want := range map[string]string{
		"web": "web", id("aa1"): "web", "aa1": "web", "aa": "web web-2", "web-": "web-2", "we": "webid",
		"db": "shop-db-1", "db-": "", "db-old": "", "bb": "shop-db-1", "shop": "shop-db-1", "c": "cc1000000000", "x": "",
	} {
		found, ended := match(all, name)
		var got []string
		for _, c := range found {
			got = append(got, c.Title())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", name, got, want)
		}
		if (ended != nil && found == nil) != strings.HasPrefix(name, "db-") {
			t.Errorf("%s: not running: %v", name, ended)
		}
	}
}

// TestEngine speaks Docker's API, with an engine that is well and with others.
func TestEngine(t *testing.T) {
	pid := os.Getpid()
	good := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/containers/json":
			fmt.Fprintf(w, `[{"Id":%q,"Names":["/other/alias","/web"],"State":"running","Labels":{"a":"b"}},
				{"Id":%q,"Names":["/k8s_app_pod-1_prod_uid_0"],"State":"running","Labels":{"io.kubernetes.pod.name":"pod-1","io.kubernetes.pod.namespace":"prod","io.kubernetes.container.name":"app"}},
				{"Id":"../../info","Names":["/evil"],"State":"running"},
				{"Id":%q,"Names":["/old"],"State":"exited"}]`, id("a"), id("b"), id("c"))
		case "/containers/" + id("a") + "/json", "/containers/" + id("b") + "/json":
			fmt.Fprintf(w, `{"State":{"Pid":%d}}`, pid)
		default:
			t.Errorf("asked for %s", r.URL)
		}
	})
	h := &Host{Sockets: []string{good}, Proc: "/proc"}
	for _, name := range []string{"web", "a0", "app", "pod-1", "pod-1/app", "prod/pod-1/app", "k8s_app_pod-1_prod_uid_0"} {
		if c, err := h.Find(t.Context(), name); err != nil || c.PID != pid || c.Engine != "docker" {
			t.Errorf("%s: %v %v", name, c, err)
		}
	}
	if _, err := h.Find(t.Context(), "old"); err == nil || err.Error() != "container old is not running but exited (no such container)" {
		t.Error(err)
	}
	if _, err := h.Find(t.Context(), "evil"); err == nil || !strings.Contains(err.Error(), "running: docker web (a00000000000), docker k8s_app_pod-1_prod_uid_0 (b00000000000)") {
		t.Error(err)
	}
	// The test is no container's process.
	c, err := h.Find(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Confirm(t.Context(), c); err == nil || !strings.Contains(err.Error(), "virtual machine") {
		t.Error(err)
	}

	podman := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "Libpod/4.3.1 (linux)")
		fmt.Fprint(w, "[]")
	})
	hangs := serve(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	drips := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			fmt.Fprint(w, " ")
			w.(http.Flusher).Flush()
			time.Sleep(10 * time.Millisecond)
		}
	})
	floods := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b := []byte(strings.Repeat("[", 1<<20))
		for r.Context().Err() == nil {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})
	refuses := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	moved := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://example.com/", http.StatusFound)
	})
	other := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>") })
	h = &Host{Sockets: []string{podman, hangs, drips, floods, refuses, moved, other, "/nonexistent/sock"}, Proc: t.TempDir()}
	began := time.Now()
	_, err = h.Find(t.Context(), "web")
	if d := time.Since(began); d > timeout+time.Second {
		t.Errorf("it took %v", d)
	}
	if err == nil {
		t.Fatal("found")
	}
	for _, want := range []string{
		`no such container as "web"; no engine tells of a running one`, hangs + ": no answer within 2s", drips + ": no answer within 2s",
		floods + ": ", refuses + ": it answers 403 Forbidden", moved + ": it answers 302 Found", other + ": it does not answer as an engine",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "nonexistent") || strings.Contains(err.Error(), podman) {
		t.Error(err)
	}
}

// TestStore reads the state of Podman and CRI-O.
func TestStore(t *testing.T) {
	dir := t.TempDir()
	s := Store{Graph: dir + "/graph", Run: dir + "/run"}
	if _, err := s.list(t.Context()); !os.IsNotExist(err) {
		t.Error(err)
	}
	pid := fmt.Sprint(os.Getpid())
	write(t, fmt.Sprintf(`[{"id":%q,"names":["web"],"metadata":"{\"image-name\":\"x\",\"name\":\"web\"}"},
		{"id":%q,"names":["k8s_app_pod-1_prod_uid_0"],"metadata":"{\"pod-name\":\"pod-1\",\"metadata-name\":\"app\"}"},
		{"id":"../..","names":["evil"]},{"id":%q,"names":["old"]},{"id":%q,"names":["stale"],"metadata":"nonsense"}]`,
		id("a"), id("b"), id("c"), id("d")), s.Graph, "vfs-containers/containers.json")
	write(t, fmt.Sprintf(`[{"id":%q,"names":["brief"]}]`, id("e")), s.Graph, "vfs-containers/volatile-containers.json")
	for _, x := range []string{"a", "b", "e"} {
		write(t, pid+"\n", s.Run, "vfs-containers", id(x), "userdata/pidfile")
	}
	write(t, "4194304", s.Run, "vfs-containers", id("d"), "userdata/pidfile")
	all, err := s.list(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range all {
		got = append(got, c.Engine+" "+c.Name+" "+c.State)
	}
	want := []string{"podman web running", "cri-o app running", "podman old exited", "podman stale exited", "podman brief running"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	// A user's store is what that user likes it to be.
	name := filepath.Join(s.Graph, "vfs-containers/containers.json")
	os.Remove(name)
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.list(t.Context()); err == nil || !strings.Contains(err.Error(), "not an ordinary file") {
		t.Error(err)
	}
	os.Remove(name)
	if err := os.Symlink("/dev/zero", name); err != nil {
		t.Fatal(err)
	}
	if _, err := s.list(t.Context()); err == nil {
		t.Error("read /dev/zero")
	}
}

// TestConfigure reads storage.conf.
func TestConfigure(t *testing.T) {
	name := filepath.Join(t.TempDir(), "storage.conf")
	write(t, "[storage]\n# graphroot = \"/no\"\n  graphroot = \"/g\"\nrunroot='/r'\n[storage.options]\ngraphroot_x = \"/no\"\n", name)
	s := Store{Graph: "/a", Run: "/b"}
	s.configure(name)
	s.configure(name + ".none")
	if s != (Store{"/g", "/r"}) {
		t.Error(s)
	}
}

// TestTasks reads the state of containerd.
func TestTasks(t *testing.T) {
	dir := t.TempDir()
	pid := fmt.Sprint(os.Getpid())
	at := filepath.Join(dir, containerdTasks)
	write(t, pid, at, "default/mine/init.pid")
	write(t, pid, at, "k8s.io", id("a"), "init.pid")
	write(t, `{"ociVersion":"1.0","annotations":{"io.kubernetes.cri.container-name":"app","io.kubernetes.cri.sandbox-name":"pod-1","io.kubernetes.cri.sandbox-namespace":"prod"}}`, at, "k8s.io", id("a"), "config.json")
	write(t, pid, at, "k8s.io", id("b"), "init.pid")
	write(t, `{"annotations":{"io.kubernetes.cri.container-type":"sandbox","io.kubernetes.cri.sandbox-name":"pod-1","io.kubernetes.cri.sandbox-namespace":"prod"}}`, at, "k8s.io", id("b"), "config.json")
	write(t, "", at, "default/begins/init.pid")
	h := &Host{Containerd: []string{dir}, Proc: "/proc"}
	for name, want := range map[string]string{
		"mine": "containerd mine (pid " + pid + ")", "app": "containerd pod-1/app (a00000000000, pid " + pid + ")",
		"prod/pod-1/app": "containerd pod-1/app (a00000000000, pid " + pid + ")",
		"pod-1":          "containerd pod-1 (b00000000000, pid " + pid + ")",
	} {
		// Both containers of the pod have one network.
		if c, err := h.Find(t.Context(), name); err != nil || c.String() != want {
			t.Errorf("%s: %v %v, want %s", name, c, err, want)
		}
	}
	if _, err := h.Find(t.Context(), "begins"); err == nil || !strings.Contains(err.Error(), "not running") {
		t.Error(err)
	}
}

// TestGroups finds containers in control groups of both versions, and their first
// processes.
func TestGroups(t *testing.T) {
	proc := t.TempDir()
	stat := func(start int) string {
		return "1 (a) b c) S " + strings.Repeat("0 ", 18) + fmt.Sprint(start) + " 0 0\n"
	}
	for pid, p := range map[string]struct {
		cgroup string
		start  int
	}{
		"10":   {"0::/system.slice/docker-" + id("a") + ".scope\n", 500},
		"9":    {"0::/system.slice/docker-" + id("a") + ".scope/inner\n", 700}, // numbers have begun again
		"20":   {"12:pids:/kubepods.slice/pod1.slice/crio-" + id("b") + ".scope\n1:name=systemd:/\n", 100},
		"21":   {"0::/kubepods.slice/kubepods-pod2.slice:cri-containerd:" + id("c") + "\n", 100},
		"22":   {"0::/machine.slice/libpod-" + id("d") + ".scope/container\n", 100},
		"23":   {"0::/machine.slice/libpod-conmon-" + id("d") + ".scope\n", 50},
		"24":   {"9:pids:/docker/" + id("e") + "\n", 100},
		"30":   {"0::/user.slice/session-1.scope\n", 10},
		"self": {"0::/docker/" + id("f") + "\n", 10},
	} {
		write(t, p.cgroup, proc, pid, "cgroup")
		write(t, stat(p.start), proc, pid, "stat")
	}
	h := &Host{Proc: proc}
	for name, pid := range map[string]int{"a0": 10, "b": 20, "c": 21, "d": 22, id("e"): 24} {
		c, err := h.Find(t.Context(), name)
		if err != nil || c.PID != pid {
			t.Errorf("%s: %v %v", name, c, err)
		} else if err := h.Confirm(t.Context(), c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := h.Find(t.Context(), "f"); err == nil {
		t.Error("found self")
	}
	if err := h.Confirm(t.Context(), &Container{ID: id("a"), PID: 11}); err != ErrChanged {
		t.Error(err)
	}
	// Podman without control groups: what is mounted tells.
	os.RemoveAll(filepath.Join(proc, "24"))
	h.Proc = t.TempDir()
	write(t, "0::/\n", h.Proc, "5/cgroup")
	write(t, "1 2 0:1 / /x rw - tmpfs shm rw\n", h.Proc, "5/mountinfo")
	write(t, "0::/\n", h.Proc, "6/cgroup")
	write(t, "1 2 0:1 /containers/overlay-containers/"+id("a")+"/userdata/hosts /etc/hosts rw - tmpfs tmpfs rw\n", h.Proc, "6/mountinfo")
	write(t, "1 2 0:1 / /var/lib/docker/containers/"+id("b")+"/mounts/shm rw - tmpfs shm rw\n", h.Proc, "1/mountinfo")
	if c, err := h.Find(t.Context(), "a0"); err != nil || c.PID != 6 || h.Confirm(t.Context(), c) != nil {
		t.Errorf("%v %v", c, err)
	}
	if c, err := h.Find(t.Context(), "b0"); err == nil {
		t.Errorf("the host's mounts: %v", c)
	}
}

// TestAmbiguous has containers in different namespaces.
func TestAmbiguous(t *testing.T) {
	dir := t.TempDir()
	proc := t.TempDir()
	at := filepath.Join(dir, containerdTasks)
	for i := range 15 {
		name := fmt.Sprintf("web-%02d", i)
		write(t, fmt.Sprint(os.Getpid()), at, "default", name, "init.pid")
	}
	h := &Host{Containerd: []string{dir}, Proc: proc}
	_, err := h.Find(context.Background(), "web")
	if err == nil || !strings.HasPrefix(err.Error(), `"web" may be any of containerd web-00 (pid `) || !strings.HasSuffix(err.Error(), ", and 5 more") {
		t.Error(err)
	}
}

func FuzzProc(f *testing.F) {
	f.Add("12:pids:/docker/" + id("e") + "\n0::/\n")
	f.Add("1 2 0:1 / /x rw - tmpfs shm rw\n")
	f.Add("1 (a) S 0")
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range groupsIn(text) {
			if name == "" || strings.ContainsAny(name, "/:") {
				t.Errorf("group %q", name)
			}
		}
		rootsIn(text)
		beganIn(text)
	})
}

// TestIDIn holds how engines name control groups.
func TestIDIn(t *testing.T) {
	for groups, want := range map[string]string{
		"0::/system.slice/docker-" + id("a") + ".scope\n":                                 id("a"),
		"0::/machine.slice/libpod-" + id("b") + ".scope/container\n":                      id("b"),
		"0::/machine.slice/libpod-conmon-" + id("b") + ".scope\n":                         "",
		"0::/kubepods.slice/kubepods-pod2.slice:cri-containerd:" + id("c") + "\n":         id("c"),
		"12:pids:/kubepods.slice/pod1.slice/crio-" + id("d") + ".scope\n0::/\n":           id("d"),
		"9:pids:/docker/" + id("e") + "\n":                                                id("e"),
		"0::/docker/" + id("e") + "/kubelet.slice/cri-containerd-" + id("f") + ".scope\n": id("f"),
		"0::/system.slice/nginx.service":                                                  "",
		"":                                                                                "",
	} {
		if got := IDIn(groups); got != want {
			t.Errorf("%q: %q, want %q", groups, got, want)
		}
	}
}
