//go:build linux

package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRSSAnon(t *testing.T) {
	if got := rssAnon("VmRSS:\t 9000 kB\nRssAnon:\t    5120 kB\nRssFile:\t 100 kB\n"); got != 5120*1024 {
		t.Errorf("got %d", got)
	}
	if got := rssAnon("VmRSS:\t 9000 kB\n"); got != 0 {
		t.Errorf("without the line: %d", got)
	}
}

func TestMedian(t *testing.T) {
	if got := median([]time.Duration{1, 2, 9}); got != 2 {
		t.Errorf("of three: %d", got)
	}
	if got := median([]time.Duration{1, 2, 4, 9}); got != 3 {
		t.Errorf("of four: %d", got)
	}
}

func TestCompare(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.pcap")
	if err := os.WriteFile(file, []byte("not much"), 0o644); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	programs := []program{
		{name: "whyreset", path: find("cat"), rounds: 2},
		{name: "missing", rounds: 2},
		{name: "once", path: find("wc"), before: []string{"-c"}, rounds: 1},
	}
	if err := compare(context.Background(), programs, file, 2, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"whyreset", "not installed", "once", "peak anonymous memory"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &out)
		}
	}
	programs[0].before = []string{"--no-such-option"}
	if err := compare(context.Background(), programs, file, 2, &out); err == nil {
		t.Error("want an error from a program that fails")
	}
	if err := run(context.Background(), []string{"-dir", t.TempDir()}, &out); err == nil || !strings.Contains(err.Error(), "bench/load") {
		t.Errorf("without captures: %v", err)
	}
}
