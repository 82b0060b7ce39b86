//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"whyreset/bench/netns"
	"whyreset/bpf"
)

// unread has a server close every connection with its request unread, for good.
var unread = []string{"-addr", "127.0.0.1:9002", "-unread", "-pause", "100ms", "-n", "1000000"}

// needFacts skips a test where the kernel tells nothing, except in CI.
func needFacts(t *testing.T) {
	t.Helper()
	needRoot(t)
	f, err := bpf.OpenFacts(bpf.FactsConfig{})
	if err == nil {
		f.Close()
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("CI must run this test where eBPF may be used: %v", err)
	}
	t.Skipf("SKIPPED: %v", err)
}

// A told event is a line of --ebpf=facts -o json.
type told struct {
	Type, Event, Retry string
	Local              struct {
		Address string
		Port    int
		Role    string
		Process struct {
			PID         int
			Command     string
			ContainerID string `json:"container_id"`
			Name        string `json:"container_name"`
			Cgroup      string
		}
	}
	Kernel struct {
		Reason string `json:"reset_reason"`
		Active bool
		Unread *int `json:"unread_bytes"`
	}
	Request struct{ Method, Target string }
	Netns   uint64 `json:"netns_inode"`
}

// awaitFact returns the next close with data unread that is told of.
func (r *running) awaitFact(t *testing.T) told {
	t.Helper()
	for timeout := time.After(20 * time.Second); ; {
		select {
		case l, ok := <-r.lines:
			var x told
			if !ok {
				<-r.ended
				t.Fatalf("it ended: %s", r.stderr)
			}
			if err := json.Unmarshal([]byte(l.text), &x); err != nil {
				t.Fatalf("%v: %s", err, l.text)
			}
			if x.Type == "fact" && x.Kernel.Unread != nil && *x.Kernel.Unread > 0 && x.Event == "reset-sent" {
				return x
			}
		case <-timeout:
			r.interrupt()
			_, lines, stderr := r.wait()
			t.Fatalf("nothing was told: %v %s", lines, stderr)
		}
	}
}

// TestLiveFacts has a server reset connections in one namespace while nobody asks
// for those of another, and ends with the namespace.
func TestLiveFacts(t *testing.T) {
	needFacts(t)
	app := buildRaces(t)
	a, b := newSpace(t), newSpace(t)
	var pids []int
	for _, ns := range []*netns.Namespace{a, b} {
		cmd := ns.Command(t.Context(), app, unread...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		pids = append(pids, cmd.Process.Pid)
	}
	r := start(t, here(t, nil, "--ebpf=facts", "--netns", a.Name, "-o", "json"))
	for range 3 {
		x := r.awaitFact(t)
		if p := x.Local.Process; p.PID != pids[0] || p.Command != "app" || p.ContainerID != "" || p.Name != "" ||
			x.Local.Port != 9002 || !x.Kernel.Active || x.Netns == 0 {
			t.Errorf("%+v, want process %d", x, pids[0])
		}
	}
	r.cmd.Process.Signal(syscall.SIGUSR1)
	time.Sleep(300 * time.Millisecond)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	r.endsWith(t, "network namespace "+a.Name+" has ended", "so far:")

	// By process and by port; in text.
	for _, test := range []struct {
		args string
		want int
	}{{fmt.Sprintf("--pid %d", pids[1]), 1}, {fmt.Sprintf("--pid %d -p 9003", pids[1]), 0}, {fmt.Sprintf("--netns %s --pid %d", b.Name, os.Getpid()), 1}, {fmt.Sprintf("--netns %s --pid 1 --host 10.0.0.0/8", b.Name), 0}} {
		r := start(t, here(t, nil, append([]string{"--ebpf=facts", "--duration", "1s"}, strings.Fields(test.args)...)...))
		status, lines, stderr := r.wait()
		line := regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{6}  127\.0\.0\.1:9002 → 127\.0\.0\.1:\d+  .*[0-9]+ bytes received and not read; by app, pid ` + strconv.Itoa(pids[1]) + `;`)
		n := 0
		for _, l := range lines {
			if line.MatchString(l.text) {
				n++
			}
		}
		if status != exitOK || (n > 0) != (test.want > 0) {
			t.Errorf("%s: status %d, %d lines: %v %s", test.args, status, n, lines, stderr)
		}
	}
}

// tellContainers has the kernel tell of a container's sockets, by its own name, by
// its network and, where it has none, by its processes.
func tellContainers(t *testing.T, name string, e testEngine) {
	t.Helper()
	needFacts(t)
	id := e.run("race-u", append([]string{"/app"}, unread...), false)
	for _, args := range [][]string{{"--container", "race-u"}, nil} {
		r := start(t, here(t, e.env, append([]string{"--ebpf=facts", "-o", "json", "-p", "9002"}, args...)...))
		x := r.awaitFact(t)
		p := x.Local.Process
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID))
		if err != nil || string(comm) != "app\n" || p.Command != "app" {
			t.Errorf("%s: %v, %+v", name, err, x)
		}
		if len(id) == 64 && (p.ContainerID != id || p.Name != "race-u") {
			t.Errorf("%s: told of %+v, want race-u (%s)", name, p, id)
		}
		if args == nil {
			r.interrupt()
			r.endsWith(t)
			continue
		}
		e.stop("race-u")
		r.endsWith(t, "container race-u has ended")
		e.run("race-u", append([]string{"/app"}, unread...), false)
		id = ""
	}
	e.stop("race-u")
	if name == "containerd" {
		return
	}
	e.run("race-v", append([]string{"/app"}, unread...), true)
	r := start(t, here(t, e.env, "--ebpf=facts", "-o", "json", "--container", "race-v"))
	if x := r.awaitFact(t); x.Local.Process.Command != "app" || x.Local.Port != 9002 {
		t.Errorf("%s, in the host's network: %+v", name, x)
	}
	e.stop("race-v")
	r.endsWith(t, "container race-v has ended")
}

// TestLiveFactsRefused asks for what there is not.
func TestLiveFactsRefused(t *testing.T) {
	needFacts(t)
	root, err := cgroupRoot()
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	for args, want := range map[string]string{
		"--cgroup no-such-group":                          "there is no cgroup no-such-group below " + root,
		"--cgroup /no/such":                               "there is no cgroup /no/such below " + root,
		"--cgroup " + filepath.Join(root, "cgroup.procs"): "cgroup " + filepath.Join(root, "cgroup.procs") + ": that is a file of a cgroup",
		"--pid 4194304":                                   "there is no process 4194304",
		"--container no-such-container":                   `no such container as "no-such-container"`,
	} {
		if said := refused(t, nil, append([]string{"--ebpf=facts"}, strings.Fields(args)...)...); !strings.HasPrefix(said, "whyreset: "+want) {
			t.Errorf("%s: %s", args, said)
		}
	}
	if _, err := program(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(programDir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := here(t, nil, "--ebpf=facts")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, _ := cmd.CombinedOutput()
	if status := cmd.ProcessState.ExitCode(); status != exitError || !strings.Contains(string(out), "whyreset: eBPF cannot be used: ") || !strings.Contains(string(out), "CAP_BPF") ||
		!strings.Contains(string(out), "without eBPF, whyreset -i any explains packets") {
		t.Errorf("status %d, %s", status, out)
	}
}

// TestLiveBeside has packets and facts of two namespaces, in which everything has the
// same addresses: each finding names the process that it is of, and what packets
// leave open, that the request was not read, makes it safe to send again. It goes on when all privileges have been given up.
func TestLiveBeside(t *testing.T) {
	needFacts(t)
	app := buildRaces(t)
	pids := map[string]int{}
	args := []string{"-o", "json", "--user", "nobody"}
	for range 2 {
		ns := newSpace(t)
		cmd := ns.Command(t.Context(), app, unread...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		pids[ns.Name] = cmd.Process.Pid
		args = append(args, "--netns", ns.Name)
	}
	r := start(t, here(t, nil, args...))
	seen := map[string]int{}
	for timeout := time.After(20 * time.Second); len(seen) < 2; {
		var l arrived
		select {
		case l = <-r.lines:
		case <-timeout:
			t.Fatalf("findings came of %v only", seen)
		}
		var x struct {
			Lost   bool
			Retry  string
			Server struct {
				Netns   string
				Process struct {
					PID     int
					Command string
				}
			}
			Kernel struct {
				End    string
				Reason string `json:"reset_reason"`
				Unread int    `json:"unread_bytes"`
			}
		}
		if err := json.Unmarshal([]byte(l.text), &x); err != nil {
			t.Fatal(err)
		}
		if !x.Lost || len(seen) == 0 && x.Kernel.End == "" {
			continue // its connection may have begun before
		}
		if p := x.Server.Process; p.PID != pids[x.Server.Netns] || p.Command != "app" || x.Kernel.Unread == 0 || x.Retry != "safe" || x.Kernel.End != "server" {
			t.Errorf("want process %d: %s", pids[x.Server.Netns], l.text)
		}
		seen[x.Server.Netns]++
	}
	r.interrupt()
	if _, _, stderr := r.wait(); !strings.Contains(stderr, ", with the kernel's facts\n") || strings.Contains(stderr, "warning") {
		t.Error(stderr)
	}
	ns := newSpace(t)
	r = startLive(t, ns, "-i", "lo", "--duration", "100ms", "--ebpf=no")
	if _, _, stderr := r.wait(); stderr != "whyreset: listening on lo\n" {
		t.Error(stderr)
	}
}

// TestAllContainers watches what runs at the start, which may be nothing.
func TestAllContainers(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	env := []string{"DOCKER_HOST=unix://" + dir + "/none", "CONTAINERS_STORAGE_CONF=" + dir + "/none"}
	cmd := here(t, env, "--all-containers", "--duration", "100ms")
	out, _ := cmd.CombinedOutput()
	if status := cmd.ProcessState.ExitCode(); status != exitOK && !strings.Contains(string(out), "no container with a network of its own is running") {
		t.Errorf("status %d, %s", status, out)
	}
}
