//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"whyreset/bench/trial"
)

const committed = "../../testdata/pcap"

// What is committed is what this program makes, no more and no less, and says
// where it comes from.
func TestCommitted(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(committed, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"README.md": true}
	for _, r := range runs() {
		if !strings.Contains(string(readme), "`"+r.name+"`") {
			t.Errorf("README.md says nothing of %s", r.name)
		}
		ends := []string{"client", "server"}
		if r.delay == 0 {
			ends = []string{"lo"}
		}
		names := []string{r.name + ".truth.jsonl"}
		for _, end := range ends {
			names = append(names, r.name+"."+end+".pcap"+map[format]string{pcapng: "ng", gzipped: ".gz"}[r.format])
		}
		for _, name := range names {
			known[name] = true
			info, err := os.Stat(filepath.Join(committed, name))
			if err != nil {
				t.Error(err)
			} else if info.Size() > 100_000 {
				t.Errorf("%s has %d bytes, too many to keep", name, info.Size())
			}
		}
	}
	entries, err := os.ReadDir(committed)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !known[e.Name()] {
			t.Errorf("no run makes %s", e.Name())
		}
	}
}

func TestJudge(t *testing.T) {
	race := trial.Truth{Lost: true, ReadError: "EOF", Error: `Post "http://h/test?id=1": EOF`}
	reset := trial.Truth{Lost: true, ReadError: "read tcp a->b: read: connection reset by peer"}
	fault := trial.Truth{Lost: true, Provoked: "read-fin", Error: `Post "http://h/": EOF`}
	for _, test := range []struct {
		r      recording
		truths []trial.Truth
		want   string
	}{
		{recording{least: 2}, []trial.Truth{race, fault}, ""},
		{recording{least: 3}, []trial.Truth{race, fault}, "only 2 requests"},
		{recording{each: 1}, []trial.Truth{race, reset}, ""},
		{recording{each: 1}, []trial.Truth{race, fault}, "0 requests were lost by a reset and 1"},
		{recording{none: true}, []trial.Truth{{Complete: true}}, ""},
		{recording{none: true}, []trial.Truth{race}, "none should have been"},
		{recording{none: true}, []trial.Truth{{Retried: true}}, "none should have been"},
	} {
		found, err := test.r.judge(test.truths, 100)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%+v: %v", test.r, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%+v: %v, want %q", test.r, err, test.want)
		case found == "":
			t.Errorf("%+v: nothing found", test.r)
		}
	}
}

func TestRunsAreSane(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range runs() {
		if seen[r.name] {
			t.Errorf("two runs are called %s", r.name)
		}
		seen[r.name] = true
		if r.forget && r.delay == 0 {
			t.Errorf("%s: only a wire forgets", r.name)
		}
		if r.delay > 0 && r.delay > idleTimeout/2-10*time.Millisecond {
			t.Errorf("%s: across %v no request can arrive before the timeout", r.name, r.delay)
		}
	}
}
