//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"whyreset/bench/netns"
)

// races has idlerace lose requests for good: ten clients meet the idle timeout ten times a second.
var races = []string{"-addr", "127.0.0.1:9000", "-idle-timeout", "100ms", "-pause", "100ms", "-jitter", "1ms", "-seek", "-clients", "10", "-n", "1000000"}

// build returns a static binary of idlerace, in a directory of its own.
func buildRaces(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "app")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", name, "./bench/idlerace")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return name
}

// here returns a command that runs whyreset where the test is, with env added.
func here(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	name, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

// refused runs whyreset and returns what it says against it.
func refused(t *testing.T, env []string, args ...string) string {
	t.Helper()
	cmd := here(t, env, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	began := time.Now()
	cmd.Run()
	if status := cmd.ProcessState.ExitCode(); status != exitError {
		t.Errorf("%q: status %d", args, status)
	}
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("%q took %v", args, d)
	}
	return stderr.String()
}

// awaitRace returns when an idle race was found.
func (r *running) awaitRace(t *testing.T) {
	t.Helper()
	for timeout := time.After(20 * time.Second); ; {
		select {
		case l, ok := <-r.lines:
			if !ok {
				<-r.ended
				t.Fatalf("it ended: %s", r.stderr)
			}
			var x struct {
				Family string
				Lost   bool
			}
			if err := json.Unmarshal([]byte(l.text), &x); err != nil {
				t.Fatal(err)
			}
			if x.Lost && x.Family == "idle-race" {
				return
			}
		case <-timeout:
			r.interrupt()
			_, lines, stderr := r.wait()
			t.Fatalf("no idle race was found: %v %s", lines, stderr)
		}
	}
}

// ends checks that the run ends by itself, in order, and says why.
func (r *running) endsWith(t *testing.T, said ...string) {
	t.Helper()
	status, lines, stderr := r.wait()
	if status != exitOK || len(lines) == 0 || !strings.Contains(lines[len(lines)-1].text, `"type":"summary","schema":1,"complete":true`) {
		t.Errorf("status %d, %v", status, lines)
	}
	for _, s := range said {
		if !strings.Contains(stderr, "whyreset: "+s+"\n") {
			t.Errorf("no %q in %s", s, stderr)
		}
	}
}

// TestLiveNetns watches a namespace by its name and by a path, until it is
// removed.
func TestLiveNetns(t *testing.T) {
	needRoot(t)
	app := buildRaces(t)
	for _, where := range []string{"%s", "/run/netns/%s"} {
		ns := newSpace(t)
		where = fmt.Sprintf(where, ns.Name)
		r := start(t, here(t, nil, "--netns", where, "-o", "json"))
		cmd := ns.Command(t.Context(), app, races...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		r.awaitRace(t)
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
		cmd.Wait()
		r.endsWith(t, "network namespace "+where+" has ended")
	}
}

// TestLivePid watches two processes at once, until both have ended.
func TestLivePid(t *testing.T) {
	a, b := newSpace(t), newSpace(t)
	app := buildRaces(t)
	var pids []string
	var apps []*exec.Cmd
	for _, ns := range []*netns.Namespace{a, b, b} {
		args := races
		if len(apps) == 2 { // in the same namespace as another
			args = []string{"-only", "server", "-addr", "127.0.0.1:9001"}
		}
		cmd := ns.Command(t.Context(), app, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		apps = append(apps, cmd)
		pids = append(pids, strconv.Itoa(cmd.Process.Pid))
	}
	time.Sleep(300 * time.Millisecond) // ip becomes the program
	r := start(t, here(t, nil, "-o", "json", "--pid", pids[0], "--pid", pids[1], "--pid", pids[2]))
	for _, cmd := range apps {
		r.awaitRace(t)
		cmd.Process.Kill()
		cmd.Wait()
		if cmd != apps[2] {
			time.Sleep(500 * time.Millisecond)
		}
		if cmd == apps[1] {
			break // nothing more is lost, but the third still runs
		}
	}
	select {
	case <-r.ended:
		t.Errorf("it ended before the last process did: %s", r.stderr)
	default:
	}
	apps[2].Process.Kill()
	apps[2].Wait()
	r.endsWith(t, "process "+pids[0]+" has ended", "process "+pids[1]+" and process "+pids[2]+" has ended")
}

// TestLivePlacesRefused asks for what there is not.
func TestLivePlacesRefused(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	hangs := filepath.Join(dir, "hangs.sock")
	ln, err := net.Listen("unix", hangs) // and nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	gone := exec.Command("true")
	if err := gone.Start(); err != nil {
		t.Fatal(err)
	}
	defer gone.Wait()
	time.Sleep(100 * time.Millisecond) // it has ended, and nobody has asked how
	for _, test := range []struct{ args, want string }{
		{"--netns no-such-namespace", `there is no network namespace "no-such-namespace"`},
		{"--netns " + dir, dir + " is not a network namespace, but a directory"},
		{"--netns " + fifo, fifo + " is not a network namespace, but a special file"},
		{"--netns places_test.go/x", "network namespace of places_test.go/x: not a directory"},
		{"--netns ./places_test.go", "./places_test.go is not a network namespace, but an ordinary file"},
		{"--netns /proc/self/ns/mnt", "/proc/self/ns/mnt is not a network namespace, but another kind of namespace"},
		{"--netns /proc/self/status", "/proc/self/status is not a network namespace, but an ordinary file"},
		{"--pid 4194304", "there is no process 4194304"},
		{fmt.Sprint("--pid ", gone.Process.Pid), fmt.Sprintf("process %d has ended", gone.Process.Pid)},
		{"--container no-such-container", `no such container as "no-such-container"`},
	} {
		said := refused(t, []string{"DOCKER_HOST=unix://" + hangs}, strings.Fields(test.args)...)
		if !strings.HasPrefix(said, "whyreset: "+test.want) {
			t.Errorf("%s: %s", test.args, said)
		}
		if strings.HasPrefix(test.args, "--container") && !strings.Contains(said, hangs+": no answer within 2s") {
			t.Errorf("%s: %s", test.args, said)
		}
	}
	for _, args := range []string{"--pid x", "--pid 0", "--netns=", "--container=", "--pid 1 places_test.go"} {
		if status, _, said := whyreset(t, nil, strings.Fields(args)...); status != exitUsage {
			t.Errorf("%s: status %d, %s", args, status, said)
		}
	}
}

// TestLiveOwnNamespace is told that it watches what it would without the flag.
func TestLiveOwnNamespace(t *testing.T) {
	ns := newSpace(t)
	r := startLive(t, ns, "--netns", "/proc/self/ns/net", "--duration", "100ms")
	_, _, said := r.wait()
	if !strings.Contains(said, "has no network of its own: watching the host's") {
		t.Error(said)
	}
}

// An engine runs containers for a test.
type testEngine struct {
	env  []string // tells whyreset where it is
	run  func(name string, app []string, host bool) (id string)
	stop func(name string)
}

// watchContainers holds what is promised of --container against an engine.
func watchContainers(t *testing.T, name string, e testEngine) {
	t.Helper()
	app := append([]string{"/app"}, races...)
	e.run("race-a", app, false)
	r := start(t, here(t, e.env, "--container", "race-a", "-o", "json"))
	r.awaitRace(t)
	e.stop("race-a")
	r.endsWith(t, "container race-a has ended")

	id := e.run("race-a", app, false)
	e.run("race-b", app, false)
	said := refused(t, e.env, "--container", "race")
	if !strings.Contains(said, `"race" may be any of `) || !strings.Contains(said, name+" race-a (") || !strings.Contains(said, name+" race-b (") {
		t.Errorf("ambiguous: %s", said)
	}
	said = refused(t, e.env, "--container", "rice")
	if !strings.Contains(said, `no such container as "rice"; running: `) || !strings.Contains(said, name+" race-a (") {
		t.Errorf("unknown: %s", said)
	}
	// By the beginning of the id, of which nobody may tell but the kernel.
	if len(id) == 64 {
		for _, env := range [][]string{e.env, nil} {
			r := start(t, here(t, env, "--container", id[:10], "-o", "json", "--duration", "200ms"))
			if status, _, said := r.wait(); status != exitOK {
				t.Errorf("by id: status %d, %s", status, said)
			}
		}
	}
	// All there are. Two at once. That one ends is no reason to stop.
	r = start(t, here(t, e.env, "--container", "race-a", "--container", "race-b", "-o", "json"))
	r.awaitRace(t)
	all := start(t, here(t, e.env, "--all-containers", "-o", "json"))
	all.awaitRace(t)
	all.interrupt()
	if _, _, said := all.wait(); name != "containerd" && (!strings.Contains(said, "all interfaces of container race-a") || !strings.Contains(said, "all interfaces of container race-b")) {
		t.Errorf("all containers: %s", said)
	}
	e.stop("race-a")
	time.Sleep(500 * time.Millisecond)
	for len(r.lines) > 0 {
		<-r.lines
	}
	r.awaitRace(t)
	e.stop("race-b")
	r.endsWith(t, "container race-a has ended", "container race-b has ended")
	if said := refused(t, e.env, "--container", "race-b"); !strings.Contains(said, "race-b") {
		t.Errorf("ended: %s", said)
	}

	tellContainers(t, name, e)
	if name == "containerd" {
		return
	}
	e.run("race-h", []string{"/app", "-only", "server", "-addr", "127.0.0.1:0"}, true)
	r = start(t, here(t, e.env, "--container", "race-h", "-p", "9", "--duration", "200ms"))
	if status, _, said := r.wait(); status != exitOK || !strings.Contains(said, "container race-h has no network of its own: watching the host's") {
		t.Errorf("host network: status %d, %s", status, said)
	}
	e.stop("race-h")
}

// needEngine skips a test whose programs are not installed, except in CI.
func needEngine(t *testing.T, programs ...string) {
	t.Helper()
	needRoot(t)
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("CI must have %s: make tools", p)
			}
			t.Skipf("SKIPPED: needs %s (make tools)", p)
		}
	}
}

// daemon runs a program until the end of the test, and waits until it listens.
func daemon(t *testing.T, dir, socket string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(15 * time.Second):
			cmd.Process.Kill()
			t.Errorf("%s did not end", args[0])
		}
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s", text[max(0, len(text)-3000):])
		}
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return
		}
		select {
		case <-ended:
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("%s ended: %s", args[0], text)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen on %s", args[0], socket)
		}
	}
}

// must runs a program to its end and returns what it printed.
func must(t *testing.T, env []string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v: %s", args, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// TestLiveZones has the same addresses in two namespaces: they are of different
// servers, live and replayed.
func TestLiveZones(t *testing.T) {
	a, b := newSpace(t), newSpace(t)
	file := filepath.Join(t.TempDir(), "both.pcapng")
	r := start(t, here(t, nil, "--netns", a.Name, "--netns", b.Name, "-o", "json", "--all", "-w", file, "--duration", "1500ms", "--ebpf=no"))
	for _, ns := range []*netns.Namespace{a, b, a} {
		abort(t, ns, "127.0.0.1:8080")
	}
	status, lines, stderr := r.wait()
	if status != exitOK {
		t.Errorf("status %d, %s", status, stderr)
	}
	var live strings.Builder
	for _, l := range lines {
		live.WriteString(l.text + "\n")
	}
	for _, ns := range []struct{ name, lost string }{{a.Name, "2"}, {b.Name, "1"}} {
		server := `"server":{"address":"127.0.0.1","port":8080,"netns":"` + ns.name + `"}`
		if !strings.Contains(live.String(), server+`,"lost":`+ns.lost) {
			t.Errorf("%s: %s", ns.name, live.String())
		}
	}
	status, replay, stderr := whyreset(t, nil, "-o", "json", "--all", file)
	counted := regexp.MustCompile(`("packets":\d+,"bytes":)\d+`) // the file's packets have a header more
	if x, y := counted.ReplaceAllString(live.String(), "$1"), counted.ReplaceAllString(replay, "$1"); status != exitOK || x != y {
		t.Errorf("status %d, %s: live\n%s\nreplay\n%s", status, stderr, x, y)
	}
	if _, text, _ := whyreset(t, nil, file); !strings.Contains(text, " → 127.0.0.1:8080 in "+b.Name+"  ") || !strings.Contains(text, "  127.0.0.1:8080 in "+a.Name+"\n") {
		t.Error(text)
	}
}

// TestLivePlacesPrivileges has nobody ask for what is not nobody's.
func TestLivePlacesPrivileges(t *testing.T) {
	ns := newSpace(t)
	if _, err := program(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(programDir, 0o755); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		fmt.Sprint("--pid ", os.Getpid()): fmt.Sprintf("network namespace of process %d: entering it is not permitted", os.Getpid()),
		"--netns " + ns.Name:              "network namespace " + ns.Name + ": entering it is not permitted",
		"--netns /proc/self/ns/net":       "capturing is not permitted",
	} {
		cmd := here(t, nil, strings.Fields(args)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, _ := cmd.CombinedOutput()
		if status := cmd.ProcessState.ExitCode(); status != exitError || !strings.Contains(string(out), "whyreset: "+want+"\n") ||
			!strings.Contains(string(out), "whyreset: hint: it needs CAP_NET_RAW, CAP_SYS_ADMIN and, for what is another user's, CAP_SYS_PTRACE: sudo "+cmd.Path+"\n") {
			t.Errorf("%s: status %d, %s", args, status, out)
		}
	}
}
