//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// A sample is one run of a program.
type sample struct {
	wall      time.Duration
	cpu       time.Duration // user and system, from rusage
	anonymous int64         // peak bytes, if watched
}

func measure(ctx context.Context, p program, file string, watch bool) (sample, error) {
	args := append(append(append([]string(nil), p.before...), file), p.after...)
	cmd := exec.CommandContext(ctx, p.path, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr // standard output goes to /dev/null
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	peak := make(chan int64, 1)
	done := make(chan struct{})
	go func() {
		if watch {
			peak <- anonymous(cmd.Process.Pid, done)
			return
		}
		peak <- 0
	}()
	err := cmd.Wait()
	s := sample{wall: time.Since(start), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	close(done)
	s.anonymous = <-peak
	if err != nil {
		return s, fmt.Errorf("%s %s: %w: %s", p.name, strings.Join(args, " "), err, tail(stderr.String()))
	}
	return s, nil
}

// anonymous samples how much memory of its own the process has, which is what is
// left of its resident size without mapped files, until done is closed, and
// returns the most that it saw.
func anonymous(pid int, done <-chan struct{}) int64 {
	var peak int64
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
			peak = max(peak, rssAnon(string(status)))
		}
		select {
		case <-done:
			return peak
		case <-tick.C:
		}
	}
}

// rssAnon reads the line "RssAnon:     5120 kB".
func rssAnon(status string) int64 {
	_, rest, ok := strings.Cut(status, "\nRssAnon:")
	if !ok {
		return 0
	}
	line, _, _ := strings.Cut(rest, "\n")
	kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(line), " kB"), 10, 64)
	if err != nil {
		return 0
	}
	return kb * 1024
}
