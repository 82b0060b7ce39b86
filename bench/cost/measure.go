//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"whyreset/bench/netns"
)

// A sample is one run of wrk.
type sample struct {
	perRequest float64 // nanoseconds, of all processors
	own        float64 // the watching program's part of it
	rate       float64 // requests per second
	requests   float64
	counted    *counted  // nil if nobody counts
	programs   []program // only while the kernel accounts for them
	others     float64   // share of all processor time that went to programs that have nothing to do with it
}

// serve runs nginx in the namespace until stop is called.
func serve(ctx context.Context, ns *netns.Namespace, dir, sizes string) (stop func(), err error) {
	for size := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, size), bytes.Repeat([]byte("x"), n), 0o644); err != nil {
			return nil, err
		}
	}
	conf := fmt.Sprintf(`daemon off; worker_processes 2; error_log %[1]s/error.log; pid %[1]s/pid;
events { worker_connections 4096; }
http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; open_file_cache max=10;
server { listen 127.0.0.1:8080; root %[1]s; } }
`, dir)
	name := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(name, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	cmd := ns.Command(ctx, "nginx", "-c", name)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	}
	for range 100 {
		if c, err := ns.DialContext(ctx, "tcp", "127.0.0.1:8080"); err == nil {
			return stop, c.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	stop()
	return nil, fmt.Errorf("nginx does not answer: %s", &stderr)
}

var (
	requests = regexp.MustCompile(`(\d+) requests in`)
	broken   = regexp.MustCompile(`(?m)^ *(Non-2xx.*|Socket errors.*)$`)
)

// settle is how long a program is given, half of it before wrk, and half after it to
// do what is left to do, which is measured with the rest.
const settle = 300 * time.Millisecond

// A firstLine keeps what is written, and tells when there is a line of it.
type firstLine struct {
	mu    sync.Mutex
	all   bytes.Buffer
	there chan struct{}
	told  bool
}

func (l *firstLine) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.told && bytes.IndexByte(b, '\n') >= 0 {
		l.told = true
		close(l.there)
	}
	return l.all.Write(b)
}

func (l *firstLine) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// measure runs wrk while w watches, again if other programs had the processors for
// long.
func (b *bench) measure(ctx context.Context, w *watcher, connections, size string) (s sample, err error) {
	for range 10 {
		s, err = b.once(ctx, w, connections, size)
		if err != nil || s.others <= mostOthers {
			return s, err
		}
		b.repeated++
	}
	b.disturbed++
	return s, nil
}

// mostOthers is the share of the processors' time that others may have.
const mostOthers = 0.005

// once runs wrk while w watches.
func (b *bench) once(ctx context.Context, w *watcher, connections, size string) (s sample, err error) {
	known, err := programsBefore(b)
	if err != nil {
		return s, err
	}
	if w.attach != nil {
		detach, err := w.attach(b.ns)
		if err != nil {
			return s, err
		}
		defer detach()
	}
	var stdout bytes.Buffer
	stderr := &firstLine{there: make(chan struct{})}
	var cmd *exec.Cmd
	if w.args != nil {
		cmd = b.ns.Command(ctx, w.args[0], w.args[1:]...)
		cmd.Stdout, cmd.Stderr = &stdout, stderr
		if err := cmd.Start(); err != nil {
			return s, err
		}
		select { // each of them says so once it listens
		case <-stderr.there:
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			cmd.Wait()
			return s, fmt.Errorf("does not begin: %s", stderr)
		}
		time.Sleep(settle / 2)
	}
	time.Sleep(settle / 2)
	ran := processes()
	before, err := busy()
	if err != nil {
		return s, err
	}
	out, err := b.ns.Command(ctx, "wrk", "-t", b.threads, "-c", connections, "-d", strconv.Itoa(int(b.duration/time.Second)), "http://127.0.0.1:8080/"+size).CombinedOutput()
	if err != nil {
		return s, fmt.Errorf("wrk: %w: %s", err, out)
	}
	time.Sleep(settle / 2)
	after, err := busy()
	if err != nil {
		return s, err
	}
	run := processes()
	s.others = float64(usedByOthers(ran, run)) / float64(after-before)
	m := requests.FindSubmatch(out)
	if m == nil || broken.Match(out) {
		return s, fmt.Errorf("wrk: %s", out)
	}
	s.requests, err = strconv.ParseFloat(string(m[1]), 64)
	if err != nil || s.requests == 0 {
		return s, fmt.Errorf("wrk: %s", out)
	}
	s.perRequest = float64(after-before) / s.requests
	s.rate = s.requests / b.duration.Seconds()
	if s.programs, err = programsSince(b, known); err != nil {
		return s, err
	}
	if cmd == nil {
		return s, nil
	}
	// Not what it takes to begin: loading programs is seconds' worth of requests.
	s.own = float64(run[cmd.Process.Pid].used-ran[cmd.Process.Pid].used) / s.requests
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		return s, fmt.Errorf("%w: %s", err, stderr)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return s, err
	}
	c, err := w.counts(stdout.String(), stderr.String())
	s.counted = &c
	return s, err
}

// busy returns the time that all processors together were neither idle nor
// stolen by the machine underneath.
func busy() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	fields := strings.Fields(line)
	var ticks int64
	for _, i := range []int{1, 2, 3, 6, 7} { // user, nice, system, irq, softirq
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}
