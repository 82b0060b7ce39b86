//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"whyreset/bench/netns"
	"whyreset/bpf"
)

// newCgroup makes a control group, and one below it.
func newCgroup(t *testing.T) (group, below string) {
	t.Helper()
	root, err := cgroupRoot()
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	group = filepath.Join(root, fmt.Sprintf("whyreset-test-%d", os.Getpid()))
	below = filepath.Join(group, "workers")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Skipf("SKIPPED: no cgroup can be made: %v", err)
	}
	t.Cleanup(func() {
		if err := removeCgroups(below, group); err != nil {
			t.Error(err)
		}
	})
	return group, below
}

// removeCgroups waits until the kernel is done with those who were inside.
func removeCgroups(dirs ...string) (err error) {
	for _, dir := range dirs {
		for range 100 {
			if err = os.Remove(dir); !errors.Is(err, syscall.EBUSY) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// startIn starts a program in a namespace and, unless dir is "", in a control group.
func startIn(t *testing.T, ns *netns.Namespace, dir, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := ns.Command(t.Context(), name, args...)
	if dir != "" {
		d, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(d.Fd())}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// TestLiveFactsCgroup has the kernel tell of the processes of a control group and of
// those below it.
func TestLiveFactsCgroup(t *testing.T) {
	needFacts(t)
	group, below := newCgroup(t)
	ns, app := newSpace(t), buildRaces(t)
	inside := startIn(t, ns, below, app, unread...)
	startIn(t, ns, "", app, slices.Concat(unread, []string{"-addr", "127.0.0.1:9003"})...)
	for _, name := range []string{group, "/" + filepath.Base(group), filepath.Base(group)} {
		r := start(t, here(t, nil, "--ebpf=facts", "-o", "json", "--cgroup", name))
		for range 3 {
			if x := r.awaitFact(t); x.Local.Port != 9002 || x.Local.Process.PID != inside.Process.Pid || x.Local.Process.Cgroup != "/"+filepath.Base(group)+"/workers" {
				t.Errorf("%s: %+v", name, x)
			}
		}
		r.interrupt()
		r.endsWith(t)
	}
}

// needTCX skips a test where the recorder cannot know whose sockets packets leave.
func needTCX(t *testing.T) {
	t.Helper()
	needFacts(t)
	rec, err := bpf.OpenRecorder(bpf.RecorderConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer rec.Close()
	if rec.Hook() != bpf.TCX {
		t.Skip("SKIPPED: this kernel has no TCX (Linux 6.6)")
	}
}

// TestLiveRecordCgroup has requests lost on loopback by a server, by a client and by
// both in one process: what is in a control group is told of, at whichever end, and
// nothing else; until the group is removed.
func TestLiveRecordCgroup(t *testing.T) {
	needTCX(t)
	group, below := newCgroup(t)
	ns, app := newSpace(t), buildRaces(t)
	type part struct{ only, dir string }
	var inside []*exec.Cmd
	for port, parts := range map[string][]part{
		"9001": {{"server", below}, {"client", ""}},
		"9002": {{"server", ""}, {"client", below}},
		"9003": {{"", ""}},
		"9004": {{"server", ""}, {"client", ""}},
	} {
		for _, p := range parts {
			cmd := startIn(t, ns, p.dir, app, slices.Concat(races, []string{"-addr", "127.0.0.1:" + port, "-only", p.only})...)
			if p.dir != "" {
				inside = append(inside, cmd)
			}
			time.Sleep(100 * time.Millisecond) // the server listens
		}
	}
	if said := refused(t, nil, "--ebpf", "--cgroup", "no-such-group"); !strings.HasPrefix(said, "whyreset: there is no cgroup no-such-group below ") {
		t.Error(said)
	}
	name := filepath.Base(group)
	r := start(t, here(t, nil, "--ebpf", "-o", "json", "--netns", ns.Name, "--cgroup", name))
	seen := map[int]int{}
	for timeout := time.After(20 * time.Second); seen[9001] < 5 || seen[9002] < 5; {
		select {
		case l := <-r.lines:
			var x struct {
				Lost   bool
				Server struct{ Port int }
			}
			if err := json.Unmarshal([]byte(l.text), &x); err != nil {
				t.Fatal(err)
			}
			if x.Server.Port > 9002 {
				t.Errorf("that is none of the group's: %s", l.text)
			}
			if x.Lost {
				seen[x.Server.Port]++
			}
		case <-timeout:
			t.Fatalf("findings came of %v only", seen)
		}
	}
	for _, cmd := range inside {
		cmd.Process.Kill()
		cmd.Wait()
	}
	if err := removeCgroups(below, group); err != nil {
		t.Fatal(err)
	}
	status, lines, stderr := r.wait()
	if status != exitOK || !strings.Contains(stderr, "\nwhyreset: cgroup "+name+" has ended\n") || !strings.Contains(stderr, ", of sockets of cgroup "+name+"\n") {
		t.Errorf("status %d, %s", status, stderr)
	}
	for i, l := range lines {
		if strings.Contains(l.text, `"port":9003`) || strings.Contains(l.text, `"port":9004`) || i == len(lines)-1 && !strings.Contains(l.text, `"complete":true`) {
			t.Errorf("at its end: %s", l.text)
		}
	}
}
