//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A machine is a virtual one that boots a kernel and runs the tests.
type machine struct {
	image   string // the kernel
	archive string // its first and only file system
	run     string // which tests
	limit   time.Duration
}

// A result is what the tests on a machine came to.
type result struct {
	release string // what the kernel calls itself
	status  int    // of the tests' process
	passed  int
	skipped []string
	output  string // without what the firmware prints
}

// What init prints around the tests, on a serial line that others write to as well.
const (
	beginning = "whyreset-kernels: begin "
	ending    = "whyreset-kernels: end "
)

var (
	begun  = regexp.MustCompile(`(?m)^.*` + beginning + `(\S+)\s*$`)
	ended  = regexp.MustCompile(`(?m)^.*` + ending + `(-?\d+)\s*$`)
	passed = regexp.MustCompile(`(?m)^\s*--- PASS: `)
	// With what a test says last.
	skipped = regexp.MustCompile(`(?m)^\s*\S+_test\.go:\d+: (.*)\n\s*--- SKIP: (\S+)`)
)

// start runs the machine to its end.
func (m *machine) start(ctx context.Context) (r result, err error) {
	ctx, cancel := context.WithTimeout(ctx, m.limit)
	defer cancel()
	var out bytes.Buffer
	// Without cmpxchg16b: QEMU 7.2 forgets the flags behind one if an interrupt comes
	// then, and Linux 6.12 dies of that within seconds.
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max,-cx16", "-smp", "2", "-m", "2048",
		"-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", m.image, "-initrd", m.archive,
		// panic=-1: at once, and -no-reboot makes that the end. The tests' arguments
		// come behind --, from where the kernel gives them to init. TestRecordedLikeWhole
		// takes every capture that there is, and minutes.
		"-append", "console=ttyS0 panic=-1 quiet mitigations=off -- -test.v -test.skip=RecordedLikeWhole -test.timeout="+m.limit.String()+" -test.run="+m.run)
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	text := strings.ReplaceAll(out.String(), "\r", "")
	r.output = text
	if ctx.Err() != nil {
		return r, fmt.Errorf("the machine did not end within %v", m.limit)
	}
	if err != nil {
		return r, fmt.Errorf("qemu-system-x86_64 (apt-get install qemu-system-x86): %w: %s", err, bytes.TrimSpace(out.Bytes()))
	}
	b := begun.FindStringSubmatchIndex(text)
	if b == nil {
		return r, errors.New("the kernel did not come to run its init")
	}
	r.release = text[b[2]:b[3]]
	r.output = text[b[0]:]
	e := ended.FindStringSubmatch(text)
	if e == nil {
		return r, errors.New("the kernel ended before the tests did")
	}
	r.status, _ = strconv.Atoi(e[1])
	r.passed = len(passed.FindAllString(text, -1))
	for _, s := range skipped.FindAllStringSubmatch(text, -1) {
		r.skipped = append(r.skipped, s[2]+": "+s[1])
	}
	return r, nil
}
