//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"whyreset/bench/netns"
)

// A way of watching is how the program runs live, beside the captures that its
// findings are held against.
type way struct {
	flag, about string
	name        string // of its column, and in names of files
	args        func(ns *netns.Namespace, iface string) []string
}

var ways = []way{
	{"ebpf", "also run whyreset --ebpf live at both ends, and judge what it finds beside the captures", "--ebpf", func(ns *netns.Namespace, iface string) []string {
		return []string{"--ebpf", "--netns", ns.Name, "-i", iface}
	}},
	{"live", "also run whyreset -i live at both ends, which has the kernel's facts as well", "-i", func(ns *netns.Namespace, iface string) []string {
		return []string{"--netns", ns.Name, "-i", iface}
	}},
	{"plain", "also run whyreset -i --ebpf=no live at both ends, which must find the same as in the captures", "-i --ebpf=no", func(ns *netns.Namespace, iface string) []string {
		return []string{"--netns", ns.Name, "-i", iface, "--ebpf=no"}
	}},
}

// beside returns the name of what was found in one way where a capture was made.
func (w *way) beside(capture string) string {
	return strings.TrimSuffix(capture, ".pcap") + "." + w.flag + ".jsonl"
}

// An observer is the program, running live at one end of a case.
type observer struct {
	way    way
	tap    tap
	cmd    *exec.Cmd
	cancel context.CancelFunc
	stdout bytes.Buffer
	said   chan string // all of standard error, when it has ended
}

// portsOf finds the ports in a filter for captures.
var portsOf = regexp.MustCompile(`port(?:range)? ([0-9-]+)`)

// listens matches what the program says once it sees all that happens.
var listens = regexp.MustCompile(`: (?:listening on|recording in the kernel)`)

// observe runs the program at both ends until stopCapture.
func (l *lab) observe(filter string) error {
	m := portsOf.FindStringSubmatch(filter)
	if m == nil {
		return fmt.Errorf("no ports in %q", filter)
	}
	for _, w := range l.ways {
		for _, t := range l.taps {
			o := &observer{way: w, tap: t, said: make(chan string, 1)}
			if err := o.start(l.judged, m[1]); err != nil {
				return err
			}
			l.observers = append(l.observers, o)
		}
	}
	return nil
}

// start returns once the program listens.
func (o *observer) start(program, ports string) error {
	ctx, cancel := context.WithCancel(context.Background())
	o.cancel = cancel
	o.cmd = exec.CommandContext(ctx, program, append(o.way.args(o.tap.ns, o.tap.iface), "-p", ports, "-o", "json", "--all")...)
	o.cmd.Cancel = func() error { return o.cmd.Process.Signal(os.Interrupt) }
	o.cmd.WaitDelay = 10 * time.Second
	o.cmd.Stdout = &o.stdout
	stderr, err := o.cmd.StderrPipe()
	if err != nil {
		cancel()
		return err
	}
	if err := o.cmd.Start(); err != nil {
		cancel()
		return err
	}
	listening := make(chan struct{})
	go func() {
		var b strings.Builder
		ready := false
		for sc := bufio.NewScanner(stderr); sc.Scan(); {
			if !ready && listens.MatchString(sc.Text()) {
				ready = true
				close(listening)
			}
			b.WriteString(sc.Text() + "\n")
		}
		o.said <- b.String()
	}()
	select {
	case <-listening:
		return nil
	case said := <-o.said:
		cancel()
		return fmt.Errorf("%s: %w: %s", strings.Join(o.cmd.Args, " "), errors.Join(o.cmd.Wait()), strings.TrimSpace(said))
	case <-time.After(20 * time.Second):
		cancel()
		<-o.said
		o.cmd.Wait()
		return fmt.Errorf("%s does not begin to listen", strings.Join(o.cmd.Args, " "))
	}
}

// stop ends the program and keeps what it found beside the capture of its end.
func (o *observer) stop(l *lab) error {
	o.cancel()
	said := <-o.said
	o.cmd.Wait() // reports the interrupt
	out := bytes.TrimSpace(o.stdout.Bytes())
	if i := bytes.LastIndexByte(out, '\n'); !bytes.HasPrefix(out[i+1:], []byte(`{"type":"summary"`)) {
		return fmt.Errorf("%s gave no summary: %s", strings.Join(o.cmd.Args, " "), strings.TrimSpace(said))
	}
	_, err := l.write(o.way.beside(o.tap.file), string(out)+"\n")
	return err
}
