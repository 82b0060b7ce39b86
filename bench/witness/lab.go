//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"whyreset/bench/netns"
	"whyreset/bench/sniff"
	"whyreset/bench/wire"
)

// A lab is where one case happens: two namespaces and the wire between them, or
// one namespace and its loopback, with a capture at each end.
type lab struct {
	dir            string // logs, configurations and captures
	delay          time.Duration
	client, server *netns.Namespace
	wire           *wire.Wire // nil on loopback
	addr           string     // the server's
	taps           []tap
	sniffers       []*sniff.Sniffer
	judged         string // the program that is
	ways           []way  // how it runs live, beside the captures
	observers      []*observer
	certs          certs

	mu    sync.Mutex
	procs []*proc
}

// A tap is one place to capture.
type tap struct {
	ns          *netns.Namespace
	iface, file string
}

// certs are the files of the self-signed certificate of this run of the bench.
type certs struct{ cert, key, both string }

// hops is how many routers the wire pretends to be, so that TTLs tell its ends apart.
const hops = 3

func newLab(dir string, delay time.Duration, c certs) (*lab, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	os.Chmod(dir, 0o777) // Apache's children write here as somebody else
	l := &lab{dir: dir, delay: delay, certs: c}
	if delay == 0 {
		ns, err := netns.New("witness")
		if err != nil {
			return nil, err
		}
		l.client, l.server, l.addr = ns, ns, "127.0.0.1"
		l.taps = []tap{{ns, "lo", "lo.pcap"}}
		return l, nil
	}
	w, err := wire.New(wire.Config{ToServer: wire.Link{Delay: delay}, ToClient: wire.Link{Delay: delay}, Hops: hops})
	if err != nil {
		return nil, err
	}
	l.wire, l.client, l.server, l.addr = w, w.Client, w.Server, "10.77.0.2"
	l.taps = []tap{{w.Client, wire.Device, "client.pcap"}, {w.Server, wire.Device, "server.pcap"}}
	return l, nil
}

// file returns the path of a file of this case.
func (l *lab) file(name string) string { return filepath.Join(l.dir, name) }

// capture begins to capture the traffic of a port at both ends.
func (l *lab) capture(filter string) error {
	if err := l.observe(filter); err != nil {
		return err
	}
	for _, t := range l.taps {
		// In immediate mode each slot of the ring has room for a whole snap length:
		// no more than the MTU, or the buffer holds few packets.
		snap := "2048"
		if l.wire == nil {
			snap = "66000"
		}
		s, err := sniff.Start(t.ns, t.iface, l.file(t.file), "--immediate-mode", "-U", "-s", snap, "-B", "65536", filter)
		if err != nil {
			return err
		}
		l.sniffers = append(l.sniffers, s)
	}
	return nil
}

func (l *lab) stopCapture() error {
	var err error
	for _, s := range l.sniffers {
		_, e := s.Stop()
		err = errors.Join(err, e)
	}
	l.sniffers = nil
	for _, o := range l.observers {
		err = errors.Join(err, o.stop(l))
	}
	l.observers = nil
	return err
}

// close ends everything that runs in the lab.
func (l *lab) close() error {
	for _, s := range l.sniffers {
		s.Stop()
	}
	for _, o := range l.observers {
		o.cancel()
		<-o.said
		o.cmd.Wait()
	}
	l.mu.Lock()
	procs := l.procs
	l.mu.Unlock()
	for _, p := range procs {
		p.kill()
	}
	if l.wire != nil {
		return l.wire.Close()
	}
	return l.client.Close()
}

// stall is how long this program may be kept from running before what applications
// logged says too little about when things happened.
const stall = 150 * time.Millisecond

// watch measures for how long the machine keeps this program from running, until
// the returned function is called, which says so if it was too long.
func watch() func() error {
	done := make(chan struct{})
	worst := make(chan time.Duration, 1)
	go func() {
		var most time.Duration
		for {
			start := time.Now()
			select {
			case <-done:
				worst <- most
				return
			case <-time.After(10 * time.Millisecond):
				most = max(most, time.Since(start)-10*time.Millisecond)
			}
		}
	}()
	return func() error {
		close(done)
		if w := <-worst; w > stall {
			return fmt.Errorf("the machine stood still for %v", w)
		}
		return nil
	}
}

// A proc is a program in the lab, in a process group of its own.
type proc struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	once sync.Once
}

// start runs a program whose output, of both kinds, goes to a file of the case.
func (l *lab) start(ns *netns.Namespace, log string, stdin io.Reader, name string, args ...string) (*proc, error) {
	f, err := os.OpenFile(l.file(log), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd := ns.Command(context.Background(), name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = append(os.Environ(), "HOME="+l.dir, "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1")
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &proc{cmd: cmd, log: l.file(log), done: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	l.mu.Lock()
	l.procs = append(l.procs, p)
	l.mu.Unlock()
	return p, nil
}

// kill ends the program and its children with SIGKILL.
func (p *proc) kill() {
	p.once.Do(func() {
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
	})
}

func (p *proc) signal(s syscall.Signal) { syscall.Kill(p.cmd.Process.Pid, s) }

// wait waits for the program's end, and says what it said if it takes too long.
func (p *proc) wait(limit time.Duration) error {
	select {
	case <-p.done:
		return nil
	case <-time.After(limit):
		p.kill()
		return fmt.Errorf("%s did not end within %v", filepath.Base(p.log), limit)
	}
}

// listening waits until a socket listens on the port in the program's namespace.
func (p *proc) listening(port int) error {
	want := []byte(fmt.Sprintf(":%04X 00000000:0000 0A ", port))
	for range 500 {
		select {
		case <-p.done:
			return fmt.Errorf("%s: the server ended: %s", filepath.Base(p.log), p.tail())
		default:
		}
		table, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", p.cmd.Process.Pid))
		if bytes.Contains(table, want) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("%s: nothing listens on port %d: %s", filepath.Base(p.log), port, p.tail())
}

// tail returns the end of what the program said.
func (p *proc) tail() string {
	b, _ := os.ReadFile(p.log)
	b = bytes.TrimSpace(b)
	return strings.ToValidUTF8(string(b[max(0, len(b)-300):]), "?")
}

// write makes a file of the case.
func (l *lab) write(name, text string) (string, error) {
	if err := os.MkdirAll(filepath.Dir(l.file(name)), 0o777); err != nil {
		return "", err
	}
	return l.file(name), os.WriteFile(l.file(name), []byte(text), 0o666)
}
