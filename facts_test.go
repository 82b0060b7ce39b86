package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"whyreset/capture"
	"whyreset/capture/container"
)

// fakeFacts tell of what they hold, once.
type fakeFacts struct {
	facts, late []capture.SocketFact // late ones come with Flush
	lost        uint64
	err         error
	told        int
}

func (f *fakeFacts) Read(wait time.Duration, emit func(*capture.SocketFact)) error {
	for i := range f.facts {
		emit(&f.facts[i])
		f.told++
	}
	if f.facts == nil {
		time.Sleep(wait / 10)
		return f.err
	}
	f.facts = nil
	return nil
}

func (f *fakeFacts) Flush(emit func(*capture.SocketFact)) {
	for i := range f.late {
		emit(&f.late[i])
		f.told++
	}
}

func (f *fakeFacts) Count() (facts, lost uint64) { return uint64(f.told), f.lost }
func (f *fakeFacts) Follow([]uint64) error       { return nil }
func (f *fakeFacts) Held() capture.Time          { return 0 }
func (f *fakeFacts) Whole() bool                 { return false }

func (f *fakeFacts) Close() error { return nil }

// aborts are n closes with a request unread, of as many connections.
func aborts(n int) (facts []capture.SocketFact) {
	for i := range n {
		facts = append(facts, capture.SocketFact{
			Time: capture.Time(time.Now().Add(-time.Second).UnixNano() + int64(i)), Kind: capture.ResetSent, Active: true,
			Local:  capture.EndpointFrom(netip.MustParseAddrPort("10.0.0.2:80")),
			Remote: capture.EndpointFrom(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(40000+i))),
			Reason: "TCP_ABORT_ON_CLOSE", Unread: 30, HasUnread: true, Head: []byte("GET /a HTTP/1.1\r\n\r\n"),
			Owner: capture.Process{PID: 1 << 23, Command: "app"},
		})
	}
	return facts
}

// tellFacts runs --ebpf=facts on facts that are made up.
func tellFacts(t *testing.T, f *fakeFacts, stdout io.Writer, over string, args ...string) (status int, stderr string) {
	t.Helper()
	var errs bytes.Buffer
	c := &command{stdout: stdout, stderr: &errs}
	if err := c.parse(append([]string{"--ebpf=facts"}, args...)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	w := newFactWatcher(c, f, (&container.Host{Proc: t.TempDir()}).Names(t.Context()), nil)
	status = w.finish(w.run(ctx, func() string { return over }))
	return status, errs.String()
}

// TestFacts holds the ways in which a run without packets ends, and what it says.
func TestFacts(t *testing.T) {
	var out bytes.Buffer
	f := &fakeFacts{facts: aborts(3), late: aborts(4)[3:]}
	if status, stderr := tellFacts(t, f, &out, ""); status != exitOK || stderr != "" ||
		strings.Count(out.String(), "; begins like GET /a; by app, pid 8388608; retry likely safe, if that is where a request begins") != 4 || !strings.Contains(out.String(), "\n4 resets and ends with data unread in ") {
		t.Errorf("status %d, %s%s", status, stderr, &out)
	}

	out.Reset()
	f = &fakeFacts{facts: aborts(10), lost: 2}
	if status, stderr := tellFacts(t, f, &out, "", "-o", "json", "--count", "7"); status != exitOK || !strings.Contains(stderr, "warning: facts lost: 2") {
		t.Errorf("status %d, %s", status, stderr)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, line := range lines {
		var x struct {
			Type     string
			Complete *bool
			Reason   string
		}
		if err := json.Unmarshal([]byte(line), &x); err != nil || (x.Type == "fact") != (i < 7) {
			t.Errorf("line %d: %v %s", i, err, line)
		}
		if x.Type == "summary" && (x.Complete == nil || *x.Complete || !strings.HasPrefix(x.Reason, "2 facts were lost")) {
			t.Error(line)
		}
	}
	if len(lines) != 8 {
		t.Errorf("%d lines: %s", len(lines), &out)
	}

	out.Reset()
	if status, stderr := tellFacts(t, &fakeFacts{facts: aborts(3)}, &out, "process 7 has ended", "-q"); status != exitOK || stderr != "whyreset: process 7 has ended\n" || strings.Contains(out.String(), "→") || !strings.HasPrefix(out.String(), "3 resets") {
		t.Errorf("status %d, %s%s", status, stderr, &out)
	}

	out.Reset()
	if status, stderr := tellFacts(t, &fakeFacts{facts: aborts(1), err: errors.New("the ring broke")}, &out, ""); status != exitError || stderr != "whyreset: the ring broke\n" || !strings.Contains(out.String(), "\nnot complete: the ring broke\n") {
		t.Errorf("status %d, %s%s", status, stderr, &out)
	}

	closed := closedPipe{}
	if status, stderr := tellFacts(t, &fakeFacts{facts: aborts(1)}, closed, ""); status != exitOK || stderr != "" {
		t.Errorf("status %d, %s", status, stderr)
	}
}

// closedPipe is where nobody reads.
type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestFactsUsage rejects what cannot be meant.
func TestFactsUsage(t *testing.T) {
	for args, want := range map[string]string{
		"--ebpf=facts -i lo":               "--interface has no meaning",
		"--ebpf=facts -w x":                "--write has no meaning",
		"--ebpf=facts --fail-on lost":      "--fail-on has no meaning",
		"--ebpf=facts --all-containers":    "--all-containers has no meaning",
		"--ebpf=facts x.pcap":              "x.pcap is a capture",
		"--ebpf=facts --duration 0s":       "is not a time above 0",
		"--ebpf=facts --cgroup=":           "--cgroup: the name is empty",
		"--ebpf=maybe -i lo":               `--ebpf: "maybe" is`,
		"--ebpf=no":                        "--ebpf is for live captures",
		"--cgroup x -i lo":                 "it is for --ebpf and --ebpf=facts",
		"--cgroup x --ebpf=no -i lo":       "it is for --ebpf and --ebpf=facts",
		"--cgroup x":                       "it is for --ebpf and --ebpf=facts",
		"--ebpf --cgroup=":                 "--cgroup: the name is empty",
		"--all-containers --container web": "leave out --container",
	} {
		status, _, stderr := whyreset(t, nil, strings.Fields(args)...)
		if status != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: status %d, %s", args, status, stderr)
		}
	}
}
