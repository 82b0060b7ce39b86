//go:build linux

package main

import (
	"bytes"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

// TestDemoLive has root see the program's requests get lost, and others the
// captures that come with it.
func TestDemoLive(t *testing.T) {
	needRoot(t)
	var stdout, stderr bytes.Buffer
	cmd := here(t, nil, "demo")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	if err := cmd.Run(); err != nil || stderr.Len() > 0 {
		t.Errorf("%v, %s", err, &stderr)
	}
	if d := time.Since(began); d > 15*time.Second {
		t.Errorf("it took %v", d)
	}
	for _, want := range []string{
		demoLiveFaulty, "the client's log: Post \"http://127.0.0.1:9000/test\": ", " → 127.0.0.1:9000  ", "  POST /test, request ",
		demoLiveFixed, "\nnothing lost: all ", demoLiveEnd,
	} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("no %q in %s", want, &stdout)
		}
	}

	if err := os.Chmod(programDir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd = here(t, nil, "demo")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	stdout.Reset()
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || strings.Count(stderr.String(), "\n") != 1 || !strings.Contains(stderr.String(), "as root the demo runs it and watches") {
		t.Errorf("%v, %s", err, &stderr)
	}
	if !strings.HasPrefix(stdout.String(), demoFaulty) || !strings.HasSuffix(stdout.String(), demoEnd) {
		t.Errorf("replayed %s", &stdout)
	}
	for line := range strings.Lines(demoLiveFaulty + demoLiveFixed + demoLiveEnd + demoLiveNone) {
		if utf8.RuneCountInString(line) > 89 {
			t.Errorf("too wide: %q", line)
		}
	}
}
