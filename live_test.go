//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"whyreset/bench/netns"
	"whyreset/bench/trial"
	"whyreset/bench/wire"
)

// programDir is removed at the end.
var programDir string

// program is the path of whyreset, built once, when it is first asked for.
var program = sync.OnceValues(func() (string, error) {
	name := filepath.Join(programDir, "whyreset")
	build := exec.Command("go", "build", "-o", name, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return name, nil
})

func TestMain(m *testing.M) {
	var err error
	if programDir, err = os.MkdirTemp("", "whyreset"); err != nil {
		panic(err)
	}
	status := m.Run()
	os.RemoveAll(programDir)
	os.Exit(status)
}

// needRoot skips a test that makes namespaces, except in CI.
func needRoot(t *testing.T) {
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
}

// A running whyreset captures live.
type running struct {
	t      *testing.T
	cmd    *exec.Cmd
	lines  chan arrived  // of standard output, closed at its end
	stderr *bytes.Buffer // complete once wait has returned
	ended  chan struct{} // standard error is at its end
}

type arrived struct {
	text string
	at   time.Time
}

// startLive runs the program in a namespace and returns when it captures.
func startLive(t *testing.T, ns *netns.Namespace, args ...string) *running {
	t.Helper()
	name, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return start(t, ns.Command(t.Context(), name, args...))
}

// start runs a command that is the program and returns when it captures.
func start(t *testing.T, cmd *exec.Cmd) *running {
	t.Helper()
	r := &running{t: t, cmd: cmd, lines: make(chan arrived, 1<<16), stderr: new(bytes.Buffer), ended: make(chan struct{})}
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.lines)
		for sc := bufio.NewScanner(stdout); sc.Scan(); {
			r.lines <- arrived{sc.Text(), time.Now()}
		}
	}()
	listening := make(chan bool, 1)
	go func() {
		defer close(r.ended)
		for sc := bufio.NewScanner(stderr); sc.Scan(); {
			r.stderr.WriteString(sc.Text() + "\n")
			if strings.Contains(sc.Text(), "listening on") || strings.Contains(sc.Text(), "recording in the kernel") {
				listening <- true
			}
		}
	}()
	select {
	case <-listening:
	case <-r.ended:
		t.Fatalf("%q: %s", cmd.Args, r.stderr)
	case <-time.After(20 * time.Second):
		t.Fatalf("%q does not begin to listen", cmd.Args)
	}
	return r
}

// wait returns the exit status and what was printed.
func (r *running) wait() (status int, lines []arrived, stderr string) {
	r.t.Helper()
	timeout := time.After(20 * time.Second)
	for open := true; open; {
		select {
		case l, ok := <-r.lines:
			if open = ok; ok {
				lines = append(lines, l)
			}
		case <-timeout:
			r.cmd.Process.Kill()
			r.t.Fatal("the program does not end")
		}
	}
	<-r.ended
	r.cmd.Wait()
	return r.cmd.ProcessState.ExitCode(), lines, r.stderr.String()
}

func (r *running) interrupt() { r.cmd.Process.Signal(os.Interrupt) }

// makeTraffic has clients meet a server's idle timeout, and provokes what else
// can go wrong, over a wire with a delay.
func makeTraffic(t *testing.T, w *wire.Wire, port string) {
	t.Helper()
	ln, err := w.Server.Listen("tcp", "10.77.0.2:"+port)
	if err != nil {
		t.Fatal(err)
	}
	log := trial.NewLog(io.Discard)
	srv := trial.Serve(ln, 200*time.Millisecond, log)
	defer srv.Close()
	clients := make([]*trial.Client, 6)
	for i := range clients {
		if clients[i], err = trial.NewClient("http://10.77.0.2:"+port, trial.Faulty, w.Client.DialContext, log); err != nil {
			t.Fatal(err)
		}
		defer clients[i].Close()
	}
	id := 1000
	for _, f := range trial.Faults() {
		id++
		clients[0].Do(t.Context(), trial.Request{ID: id, Method: "POST", Fault: f})
	}
	trial.Run(t.Context(), clients, 12, 1, "POST", trial.Schedule{Pause: 190 * time.Millisecond, Jitter: 15 * time.Millisecond}, func(int, trial.Outcome) {})
}

func newWire(t *testing.T, delay time.Duration) *wire.Wire {
	t.Helper()
	needRoot(t)
	w, err := wire.New(wire.Config{ToServer: wire.Link{Delay: delay}, ToClient: wire.Link{Delay: delay}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// TestLiveEqualsReplay records what it explains: explained again from the file, it
// is the same. And each finding came within a second of what proves it.
func TestLiveEqualsReplay(t *testing.T) {
	w := newWire(t, 20*time.Millisecond)
	for _, at := range []struct {
		ns            *netns.Namespace
		iface, format string
	}{{w.Client, wire.Device, "json"}, {w.Server, "any", "text"}} {
		file := filepath.Join(t.TempDir(), "x.pcapng")
		// A file has no room for what only a kernel knows.
		r := startLive(t, at.ns, "-i", at.iface, "-p", "9000", "-o", at.format, "--all", "-w", file, "--ebpf=no")
		makeTraffic(t, w, "9000")
		time.Sleep(1200 * time.Millisecond)
		r.interrupt()
		status, lines, stderr := r.wait()
		if status != exitOK || strings.Count(stderr, "\n") != 1 {
			t.Errorf("status %d, stderr %s", status, stderr)
		}
		var live strings.Builder
		lost := 0
		for _, l := range lines {
			live.WriteString(l.text + "\n")
			var x struct {
				Type, Confidence string
				Time             time.Time
				Lost             bool
			}
			if at.format != "json" || json.Unmarshal([]byte(l.text), &x) != nil || x.Type != "finding" {
				continue
			}
			if x.Lost {
				lost++
			}
			// What follows a reset is certain after two seconds, what the client did next
			// another one or two later, and findings keep their order; others may wait
			// for a timer.
			if d := l.at.Sub(x.Time); d > 4500*time.Millisecond && x.Lost && x.Confidence == "proven" {
				t.Errorf("a finding came %v after the end: %s", d, l.text)
			}
		}
		if at.format == "json" && lost < 5 {
			t.Errorf("only %d requests were lost", lost)
		}
		status, replay, errs := whyreset(t, nil, "-o", at.format, "--all", file)
		if status != exitOK || errs != "" {
			t.Errorf("replay: status %d, %s", status, errs)
		}
		// The file's packets have a header of 20 bytes more.
		bytes := regexp.MustCompile(`("packets":\d+,"bytes":)\d+`)
		a := strings.Split(bytes.ReplaceAllString(live.String(), "$1"), "\n")
		b := strings.Split(bytes.ReplaceAllString(replay, "$1"), "\n")
		for i := range min(len(a), len(b)) {
			if a[i] != b[i] {
				t.Fatalf("%s on %s: line %d differs: live\n%s\nreplay\n%s", at.format, at.iface, i+1, a[i], b[i])
			}
		}
		if len(a) != len(b) {
			t.Errorf("%s on %s: %d lines live, %d replayed", at.format, at.iface, len(a), len(b))
		}
	}
}

// abort has a server reset the connection on a request.
func abort(t *testing.T, ns *netns.Namespace, addr string) {
	t.Helper()
	ln, err := ns.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		b := make([]byte, 1000)
		c.Read(b)
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}()
	c, err := ns.DialContext(context.Background(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("POST /pay HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"))
	c.Read(make([]byte, 10))
}

func newSpace(t *testing.T) *netns.Namespace {
	t.Helper()
	needRoot(t)
	ns, err := netns.New("main")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// TestLiveQuietLink has one aborted request and nothing after it: it is reported
// all the same, once, when two seconds have shown what follows the reset; and the
// summary comes on demand.
func TestLiveQuietLink(t *testing.T) {
	ns := newSpace(t)
	for _, iface := range []string{"lo", "any"} {
		r := startLive(t, ns, "-i", iface, "-o", "json")
		began := time.Now()
		abort(t, ns, "127.0.0.1:8080")
		select {
		case l := <-r.lines:
			if d := l.at.Sub(began); d > 4500*time.Millisecond || !strings.Contains(l.text, "server-abort") {
				t.Errorf("after %v: %s", d, l.text)
			}
		case <-time.After(10 * time.Second):
			t.Error("no finding")
		}
		r.cmd.Process.Signal(syscall.SIGUSR1)
		time.Sleep(400 * time.Millisecond)
		r.cmd.Process.Signal(syscall.SIGTERM)
		status, lines, stderr := r.wait()
		if status != exitOK || len(lines) != 1 || !strings.Contains(lines[0].text, `"complete":true`) {
			t.Errorf("status %d, %v", status, lines)
		}
		if !strings.Contains(stderr, "whyreset: so far") || !strings.Contains(stderr, "1 of 1 request was lost on 1 of 1 connection") {
			t.Errorf("stderr %s", stderr)
		}
	}
}

// TestLiveEnds ends by itself, after a time and after a number of packets.
func TestLiveEnds(t *testing.T) {
	ns := newSpace(t)
	r := startLive(t, ns, "-i", "lo", "--duration", "300ms", "-o", "json")
	began := time.Now()
	if status, lines, stderr := r.wait(); status != exitOK || len(lines) != 1 || time.Since(began) > 2*time.Second {
		t.Errorf("status %d after %v: %v %s", status, time.Since(began), lines, stderr)
	}
	r = startLive(t, ns, "-i", "lo", "--count", "5", "-o", "json", "--fail-on", "lost")
	abort(t, ns, "127.0.0.1:8080")
	if status, lines, _ := r.wait(); len(lines) == 0 || !strings.Contains(lines[len(lines)-1].text, `"segments":5,`) {
		t.Errorf("status %d, %v", status, lines)
	}
}

// TestLivePrivileges looks at what the program keeps.
func TestLivePrivileges(t *testing.T) {
	ns := newSpace(t)
	dir := t.TempDir()
	os.Chmod(filepath.Dir(dir), 0o755)
	for _, args := range [][]string{nil, {"--user", "nobody"}} {
		file := filepath.Join(dir, "x.pcapng")
		os.Remove(file)
		r := startLive(t, ns, append([]string{"-i", "any", "-w", file, "--ring", "2,1MB", "-o", "json"}, args...)...)
		// ip has replaced itself by the program. Every thread counts.
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", r.cmd.Process.Pid))
		if len(tasks) < 2 {
			t.Errorf("%d threads", len(tasks))
		}
		for _, name := range tasks {
			b, err := os.ReadFile(name)
			if err != nil {
				continue
			}
			for _, want := range []string{`CapInh:\s0+\n`, `CapPrm:\s0+\n`, `CapEff:\s0+\n`, `CapBnd:\s0+\n`, `CapAmb:\s0+\n`, `NoNewPrivs:\s1\n`} {
				if !regexp.MustCompile(want).Match(b) {
					t.Errorf("%s lacks %s:\n%s", name, want, b)
				}
			}
			if args != nil && !regexp.MustCompile(`Uid:\s65534\s65534\s65534`).Match(b) {
				t.Errorf("not nobody: %s", b)
			}
		}
		// It goes on to see, and to write.
		abort(t, ns, "127.0.0.1:8080")
		time.Sleep(time.Second)
		r.interrupt()
		status, lines, stderr := r.wait()
		if status != exitOK || len(lines) != 2 {
			t.Errorf("status %d, %v, %s", status, lines, stderr)
		}
		st, err := os.Stat(file + ".0001")
		if err != nil {
			t.Fatal(err)
		}
		if uid := st.Sys().(*syscall.Stat_t).Uid; args != nil && uid != 65534 || st.Mode().Perm() != 0o600 {
			t.Errorf("the file is %d's, %v", uid, st.Mode())
		}
		if status, out, errs := whyreset(t, nil, "-o", "json", file+".0001", file+".0002"); status != exitOK || strings.Count(out, "\n") != 2 {
			t.Errorf("replay: status %d, %s %s", status, out, errs)
		}
		os.Remove(file + ".0001")
		os.Remove(file + ".0002")
	}
}

// TestLiveRing fills a ring several times over.
func TestLiveRing(t *testing.T) {
	ns := newSpace(t)
	file := filepath.Join(t.TempDir(), "x")
	r := startLive(t, ns, "-i", "lo", "-q", "-o", "json", "-w", file, "--ring", "3,100kB")
	for range 300 {
		abort(t, ns, "127.0.0.1:8080")
	}
	time.Sleep(300 * time.Millisecond)
	r.interrupt()
	if status, _, stderr := r.wait(); status != exitOK {
		t.Errorf("status %d, %s", status, stderr)
	}
	var total int64
	names, _ := filepath.Glob(file + ".*")
	for _, name := range names {
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		total += st.Size()
		if st.Size() > 110<<10 {
			t.Errorf("%s has %d bytes", name, st.Size())
		}
	}
	status, out, errs := whyreset(t, nil, append([]string{"-q", "-o", "json"}, names...)...)
	if len(names) != 3 || total < 200<<10 || status != exitOK || errs != "" {
		t.Errorf("%d files of %d bytes, status %d, %s %s", len(names), total, status, out, errs)
	}
}

// TestLiveBadEnds has what is written to fail.
func TestLiveBadEnds(t *testing.T) {
	ns := newSpace(t)
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(small, 0)
	file := filepath.Join(small, "x.pcapng")
	r := startLive(t, ns, "-i", "lo", "-w", file, "-o", "json")
	for range 100 {
		abort(t, ns, "127.0.0.1:8080")
	}
	status, lines, stderr := r.wait()
	if status != exitError || !strings.Contains(stderr, "whyreset: write "+file+": no space left on device\n") || len(lines) == 0 ||
		!strings.Contains(lines[len(lines)-1].text, `"complete":false`) {
		t.Errorf("status %d, %v, %s", status, lines, stderr)
	}

	// Nobody reads the findings any more: the program notices without one.
	name, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := ns.Command(t.Context(), name, "-i", "lo")
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	reader.Close()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("closed pipe: %v", err)
		}
	case <-time.After(5 * time.Second):
		cmd.Process.Kill()
		t.Error("the program does not notice that nobody reads")
	}
}

// TestLiveRefused has what cannot begin.
func TestLiveRefused(t *testing.T) {
	ns := newSpace(t)
	if err := ns.IP("link", "add", "v0", "type", "veth", "peer", "name", "v1"); err != nil {
		t.Fatal(err)
	}
	name, err := program()
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(filepath.Dir(name), 0o755)
	unused := filepath.Join(t.TempDir(), "x.pcapng")
	for _, c := range []struct {
		prefix, args []string
		status       int
		want         string
	}{
		{nil, []string{"-i", "eht0"}, exitError, `whyreset: there is no interface "eht0"; those that exist: any, lo, v1, v0` + "\n"},
		{nil, []string{"-i", "v0"}, exitError, "whyreset: interface v0 is down\n"},
		{nil, []string{"-i", "lo", "-w", "/dev/full"}, exitError, "whyreset: write /dev/full: no space left on device\n"},
		{nil, []string{"-i", "lo", "-w", "/nowhere/x"}, exitError, "whyreset: write /nowhere/x: no such file or directory\n"},
		{[]string{"setpriv", "--reuid", "nobody", "--clear-groups"}, []string{"-i", "lo", "-w", unused}, exitError,
			"whyreset: capturing is not permitted\nwhyreset: hint: it needs CAP_NET_RAW: sudo " + name + ", or once: sudo setcap cap_net_raw=ep " + name + "\n"},
		{nil, []string{"-i", "lo", "--user", "nobodyatall"}, exitUsage, "whyreset: --user: there is no user \"nobodyatall\"\n"},
	} {
		args := append(append(append([]string{}, c.prefix...), name), c.args...)
		if _, err := exec.LookPath(args[0]); err != nil && os.Getenv("CI") != "true" {
			t.Logf("SKIPPED: %v", err)
			continue
		}
		cmd := ns.Command(t.Context(), args[0], args[1:]...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != c.status || stderr.String() != c.want {
			t.Errorf("%q: %v, %q, want %d, %q", c.args, err, stderr.String(), c.status, c.want)
		}
	}
	if _, err := os.Stat(unused); err == nil {
		t.Error("a file was left behind")
	}
}

// TestLiveUsage has what is not asked properly.
func TestLiveUsage(t *testing.T) {
	for _, args := range [][]string{
		{"-i", "lo", "x.pcap"}, {"-w", "x", "y.pcap"}, {"-i", ""}, {"-i", "lo", "--duration", "-1s"}, {"-i", "lo", "--count", "0"},
		{"-i", "lo", "--buffer", "12"}, {"-i", "lo", "--buffer", "many"}, {"-i", "lo", "--snap", "20"}, {"-i", "lo", "-w", "-"},
		{"-i", "lo", "--ring", "3,1MB"}, {"-i", "lo", "-w", "x", "--ring", "1,1MB"}, {"-i", "lo", "-w", "x", "--ring", "3"},
		{"-i", "lo", "-w", "x", "--ring", "3,1"}, {"help", "me"}, {"--ring", "3,1MB"},
	} {
		if status, out, errs := whyreset(t, nil, args...); status != exitUsage || out != "" || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: status %d, %q, %q", args, status, out, errs)
		}
	}
	status, out, _ := whyreset(t, nil, "help", "live")
	if status != exitOK || strings.Count(out, "\n") > 23 {
		t.Errorf("status %d, %d lines", status, strings.Count(out, "\n"))
	}
	for _, want := range []string{"with --ebpf 32MB", "no -w, --ring, --count", "with --ebpf of a message, up to 1024"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	for line := range strings.Lines(out) {
		if len(line) > 81 {
			t.Errorf("too wide: %q", line)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"4096": 4096, "64kB": 64 << 10, "64MB": 64 << 20, "1g": 1 << 30, "2MiB": 2 << 20, " 3 kb ": 3 << 10} {
		if n, err := parseSize(text); n != want || err != nil {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	for _, text := range []string{"", "MB", "-1", "1TB", "1e3", "9999999999GB", "1kk"} {
		if n, err := parseSize(text); err == nil {
			t.Errorf("%q: %d", text, n)
		}
	}
}

// A pipe that nobody reads would keep the program from starting, and from ending.
func TestLiveWriteToPipe(t *testing.T) {
	needRoot(t)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := whyreset(t, nil, "-i", "lo", "-w", pipe, "--duration", "5s"); status != exitError || !strings.Contains(stderr, "is a pipe, not a file") {
		t.Errorf("status %d, %s", status, stderr)
	}
}

// What was created for a run that cannot go on is not left behind.
func TestLiveUserNotPermitted(t *testing.T) {
	needRoot(t)
	file := filepath.Join(t.TempDir(), "x.pcapng")
	name, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("setpriv", "--bounding-set", "-setuid", "--inh-caps", "-setuid",
		name, "-i", "lo", "--user", "nobody", "-w", file, "--duration", "5s")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "become nobody: operation not permitted") || !strings.Contains(string(out), "CAP_SETUID") {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file was left behind: %v", err)
	}
}
