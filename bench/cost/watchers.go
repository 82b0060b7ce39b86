//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"whyreset/bench/netns"
)

// A watcher is something that is attached while requests are served.
type watcher struct {
	name string
	args []string // the program; nil if there is none
	// attach, if not nil, is called before the run, and what it returns after it.
	attach func(*netns.Namespace) (detach func() error, err error)
	// counts, if not nil, says what the program has counted.
	counts func(stdout, stderr string) (counted, error)
}

// Counted is what a watcher says of itself when it ends.
type counted struct {
	missed int64 // packets
	sentUp int64 // records from the kernel; -1 if it does not say
}

// watchers returns all that can be held against nothing.
func watchers(whyreset string) []*watcher {
	return []*watcher{
		{name: "nothing, again"},
		{name: "empty", attach: attachEmpty},
		{name: "ebpf", args: []string{whyreset, "--ebpf", "-p", "8080", "-o", "json"}, counts: countedBySummary},
		{name: "ebpf=facts", args: []string{whyreset, "--ebpf=facts", "-o", "json"}, counts: countedBySummary},
		{name: "tcpdump", args: []string{"tcpdump", "-Z", "root", "-i", "lo", "-B", "65536", "-w", "/dev/null", "tcp port 8080"}, counts: countedByTcpdump},
		{name: "-i", args: []string{whyreset, "-i", "lo", "-p", "8080", "-o", "json"}, counts: countedBySummary},
		{name: "-i --ebpf=no", args: []string{whyreset, "-i", "lo", "--ebpf=no", "-p", "8080", "-o", "json"}, counts: countedBySummary},
	}
}

// loopback is the index of the loopback interface in every namespace.
const loopback = 1

// passOn is TCX_NEXT: the packet goes on to the next program, or up.
const passOn = -1

// attachEmpty attaches a program that does nothing to the way in of the loopback
// interface, where the recorder's is.
func attachEmpty(ns *netns.Namespace) (func() error, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "empty", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, passOn), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load an empty program: %w", err)
	}
	var l link.Link
	err = ns.Do(func() error {
		l, err = link.AttachTCX(link.TCXOptions{Interface: loopback, Program: p, Attach: ebpf.AttachTCXIngress})
		return err
	})
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("attach an empty program: %w", err)
	}
	return func() error { return errors.Join(l.Close(), p.Close()) }, nil
}

func countedBySummary(stdout, stderr string) (counted, error) {
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	var s struct {
		Type     string
		Missed   int64
		Recorder *struct{ Records, Segments int64 }
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil || s.Type != "summary" {
		return counted{}, fmt.Errorf("no summary: %v: %s", err, stderr)
	}
	c := counted{missed: s.Missed, sentUp: -1}
	if s.Recorder != nil {
		c.sentUp = s.Recorder.Records + s.Recorder.Segments
	}
	return c, nil
}

var dropped = regexp.MustCompile(`(\d+) packets? dropped by kernel`)

func countedByTcpdump(_, stderr string) (counted, error) {
	m := dropped.FindStringSubmatch(stderr)
	if m == nil {
		return counted{}, errors.New(stderr)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	return counted{missed: n, sentUp: -1}, err
}
