package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"whyreset/capture"
)

// A truth is what the applications themselves logged about one attempt at a
// request: a line of testdata/pcap/NAME.truth.jsonl.
type truth struct {
	ID        int    `json:"id"`
	Method    string `json:"method"`
	Target    string `json:"target"`
	Local     string `json:"local_addr"` // the client's address
	Lost      bool   `json:"lost"`       // bytes of it were sent, and no whole answer was read
	ServerSaw bool   `json:"server_saw"` // the server's handler ran
	Read      int    `json:"server_read_bytes"`
	Provoked  string `json:"provoked"`
	// Idle is how long the connection had been in the client's pool. The server
	// has it idle for a round trip longer.
	Idle float64 `json:"idle_seconds"`
	// Closed is when the server's application closed the connection, in seconds
	// after the client's first write of this request.
	Closed *float64 `json:"server_closed_seconds"`
}

// idleTimeout is the server's in every recorded run.
const idleTimeout = 300 * time.Millisecond

// verdicts returns the verdicts that fit what happened, on a path with the given
// delay. Faults were committed by the server's handler or by the client while it
// ran; where no handler ran, the request met the server's idle timer, which in
// these runs is all that ends a connection otherwise.
func (h *truth) verdicts(delay time.Duration) []string {
	fits := map[string][]string{
		"read-rst":          {"abort-before-response"},
		"read-fin":          {"close-before-response"},
		"half-fin":          {"truncated-response"},
		"half-rst":          {"abort-mid-response"},
		"early-413":         {"early-response-reset"},
		"early-413-late":    {"early-response-reset"},
		"client-timeout":    {"client-abort-before-response"},
		"client-cancel":     {"client-abort-mid-response"},
		"client-abort-body": {"client-abort-mid-upload"},
		"forget-rst":        {"stale-connection"},
		// After so short an idle time the server may as well have died.
		"forget-silent": {"idle-blackhole", "ambiguous"},
	}
	if h.ServerSaw || strings.HasPrefix(h.Provoked, "forget-") {
		fit := fits[h.Provoked]
		// A server that reads the request and ends the connection at once, just when
		// its idle timer is due, leaves the packets of one that did not read it.
		if read := h.Provoked == "read-rst" || h.Provoked == "read-fin"; read && h.Idle+2*delay.Seconds() > 0.9*idleTimeout.Seconds() {
			fit = append(fit, "ambiguous", "weak idle-race-unread")
		}
		return fit
	}
	// The close is known to the client's TCP one delay later. Applications can say
	// when they called the kernel only to within what a scheduler allows.
	const unsure = 500e-6
	switch {
	case h.Closed == nil:
		return nil
	case *h.Closed < -delay.Seconds()-unsure:
		return []string{"late-reuse"}
	case *h.Closed < -delay.Seconds()+unsure:
		return []string{"late-reuse", "idle-race", "idle-race-unread"}
	}
	return []string{"idle-race", "idle-race-unread"}
}

// delayOf returns the delay one way that the name of a run ends in: "faulty-20ms".
func delayOf(run string) time.Duration {
	d, err := time.ParseDuration(run[strings.LastIndexByte(run, '-')+1:])
	if err != nil {
		return 0 // loopback
	}
	return d
}

func readTruths(t *testing.T, file string) []*truth {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []*truth
	for line := range bytes.Lines(data) {
		h := new(truth)
		if err := json.Unmarshal(line, h); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, h)
	}
	return all
}

// A verdictOn is what the program says of a lost request.
type verdictOn struct {
	Verdict, Confidence, Retry string
	Lost                       bool
	Client                     struct {
		Address string
		Port    uint16
	}
	Request struct{ Target string }
}

// key tells requests apart: by the client's address and the id in the target.
func (v *verdictOn) key() string {
	return fmt.Sprint(netip.AddrPortFrom(netip.MustParseAddr(v.Client.Address), v.Client.Port), " ", v.Request.Target)
}

func (h *truth) key() string { return h.Local + " " + h.Target }

// lostIn returns the findings about lost requests in a capture.
func lostIn(t *testing.T, file string) map[string][]*verdictOn {
	t.Helper()
	lost := map[string][]*verdictOn{}
	for line := range bytes.Lines(runProgram(t, 0, "-o", "json", file)) {
		if bytes.HasPrefix(line, []byte(`{"type":"summary"`)) {
			continue
		}
		v := new(verdictOn)
		if err := json.Unmarshal(line, v); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if v.Lost {
			lost[v.key()] = append(lost[v.key()], v)
		}
	}
	return lost
}

// Every recorded run has the logs of both its applications beside it: each lost
// request has one finding with a verdict that fits what was done to it, and nothing
// is said of the others. Seen from the client's end and from the server's.
func TestTruth(t *testing.T) {
	files, err := filepath.Glob("testdata/pcap/*.truth.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no truths: %v", err)
	}
	checked := 0
	for _, file := range files {
		run := strings.TrimSuffix(file, ".truth.jsonl")
		captures, err := filepath.Glob(run + ".*.pcap*")
		if err != nil || len(captures) == 0 {
			t.Errorf("%s: no captures beside it", file)
		}
		truths := readTruths(t, file)
		ends := map[string]map[string]string{} // by capture, by key: the verdict
		for _, c := range captures {
			t.Run(filepath.Base(c), func(t *testing.T) {
				ends[c] = holdAgainstTruth(t, c, delayOf(run), truths)
				checked += len(ends[c])
			})
		}
		for _, a := range captures {
			for _, b := range captures {
				for key, verdict := range ends[a] {
					if other, ok := ends[b][key]; ok && a < b && other != verdict {
						t.Errorf("%s: %s is %s in %s and %s in %s", run, key, verdict, a, other, b)
					}
				}
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d lost requests were checked", checked)
	}
}

// holdAgainstTruth compares the findings in a capture with the truths of its run,
// and returns the verdict on each lost request.
func holdAgainstTruth(t *testing.T, file string, delay time.Duration, truths []*truth) map[string]string {
	findings := lostIn(t, file)
	segs := readSegments(t, file)
	verdicts := map[string]string{}
	known := map[string]bool{}
	for _, h := range truths {
		key := h.key()
		known[key] = true
		found := findings[key]
		switch {
		case !h.Lost && len(found) > 0:
			t.Errorf("%s was answered, but is %s", key, found[0].Verdict)
		case h.Lost && len(found) > 1:
			t.Errorf("%s has %d findings", key, len(found))
		case h.Lost && len(found) == 0:
			if passes(segs, h) {
				t.Errorf("%s was lost (%s), but has no finding", key, h.Provoked)
			}
		case h.Lost:
			v := found[0]
			verdicts[key] = v.Verdict
			if fits := h.verdicts(delay); !slices.Contains(fits, v.Verdict) && !slices.Contains(fits, v.Confidence+" "+v.Verdict) {
				t.Errorf("%s is %s, want one of %q (provoked: %q, the server's handler ran: %v)", key, v.Verdict, fits, h.Provoked, h.ServerSaw)
			}
			if safe := v.Retry == "safe" || v.Retry == "likely-safe"; safe && (h.ServerSaw || h.Read > 0) {
				t.Errorf("%s: a retry is called %s, but the server read %d bytes", key, v.Retry, h.Read)
			}
		}
	}
	for key, found := range findings {
		if !known[key] {
			t.Errorf("%s is %s, but no client logged such a request", key, found[0].Verdict)
		}
	}
	return verdicts
}

// passes reports whether the request's first line is in the capture: what a box
// on the way dropped never reached the other end.
func passes(segs []capture.Segment, h *truth) bool {
	line := []byte(h.Method + " " + h.Target + " HTTP/")
	return slices.ContainsFunc(segs, func(s capture.Segment) bool {
		return s.Src.String() == h.Local && bytes.HasPrefix(s.Payload, line)
	})
}
