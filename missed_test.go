package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"whyreset/capture"
	"whyreset/report"
)

// TestTellMissed names what gives more room, which is a buffer for some and the
// recorder's table for others, and says each number once.
func TestTellMissed(t *testing.T) {
	var stderr bytes.Buffer
	c := &command{stdout: &stderr, stderr: &stderr, live: &live{}}
	w := &watcher{job: &job{progress: newProgress(&stderr)}, command: c}
	said := func(s *capture.Stats) string {
		stderr.Reset()
		w.tellMissed(time.Now(), s)
		return stderr.String()
	}
	s := &capture.Stats{Recorder: &capture.RecorderStats{Full: 7}}
	if got := said(s); !strings.Contains(got, "not recorded so far, of connections for which the kernel's table has no room: 7\n") ||
		!strings.Contains(got, "--max-connections") || strings.Contains(got, "buffer") {
		t.Errorf("got %s", got)
	}
	if got := said(s); got != "" {
		t.Errorf("said again: %s", got)
	}
	s = &capture.Stats{Missed: 3}
	if got := said(s); !strings.Contains(got, "packets missed so far: 3\n") || !strings.Contains(got, "--buffer") || strings.Contains(got, "--max-connections") {
		t.Errorf("got %s", got)
	}
	stderr.Reset()
	c.warn(&report.Summary{Capture: capture.Stats{Recorder: &capture.RecorderStats{Full: 7, Evicted: 8}}})
	if got := stderr.String(); !strings.Contains(got, "no room: 7\n") || !strings.Contains(got, "for want of room: 8\n") || strings.Contains(got, "buffer") {
		t.Errorf("got %s", got)
	}
}
