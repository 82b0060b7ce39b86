//go:build linux

// Package sniff captures packets with tcpdump inside a namespace, and knows when
// it has begun and that it has lost nothing.
package sniff

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"whyreset/bench/netns"
)

// A Sniffer is a running tcpdump.
type Sniffer struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	said   chan string // all of standard error after "listening", when it has ended
}

// A Count is what tcpdump says at its end.
type Count struct{ Captured, Dropped int }

// Start runs tcpdump on an interface of the namespace and returns once it
// captures. More of tcpdump's arguments (options, then a filter) may follow.
func Start(ns *netns.Namespace, iface, file string, args ...string) (*Sniffer, error) {
	ctx, cancel := context.WithCancel(context.Background())
	// -Z root: tcpdump would give up root and then could not write to file.
	cmd := ns.Command(ctx, "tcpdump", append([]string{"-n", "-Z", "root", "-i", iface, "-w", file}, args...)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("start tcpdump: %w", err)
	}
	s := &Sniffer{cmd: cmd, cancel: cancel, said: make(chan string, 1)}
	listening := make(chan struct{})
	go func() {
		var b strings.Builder
		ready := false
		for sc := bufio.NewScanner(stderr); sc.Scan(); {
			if !ready && strings.Contains(sc.Text(), "listening on") {
				ready = true
				close(listening)
			}
			b.WriteString(sc.Text() + "\n")
		}
		s.said <- b.String()
	}()
	select {
	case <-listening:
		return s, nil
	case said := <-s.said:
		cancel()
		return nil, fmt.Errorf("tcpdump: %w: %s", errors.Join(cmd.Wait()), strings.TrimSpace(said))
	case <-time.After(10 * time.Second):
		cancel()
		cmd.Wait()
		return nil, errors.New("tcpdump does not begin to listen")
	}
}

var counts = regexp.MustCompile(`(\d+) packets? (captured|dropped by kernel)`)

// Stop ends the capture once what is on its way has been written. That packets
// were dropped is an error.
func (s *Sniffer) Stop() (Count, error) {
	time.Sleep(300 * time.Millisecond) // tcpdump reads its ring in its own time
	s.cancel()
	said := <-s.said
	s.cmd.Wait() // reports the interrupt
	var c Count
	found := counts.FindAllStringSubmatch(said, -1)
	if len(found) < 2 {
		return c, fmt.Errorf("tcpdump gave no counts: %s", strings.TrimSpace(said))
	}
	for _, m := range found {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			return c, err
		}
		if m[2] == "captured" {
			c.Captured = n
		} else {
			c.Dropped = n
		}
	}
	if c.Dropped > 0 {
		return c, fmt.Errorf("tcpdump: %d packets dropped by the kernel", c.Dropped)
	}
	return c, nil
}
