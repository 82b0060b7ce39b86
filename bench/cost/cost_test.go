//go:build linux

package main

import (
	"bytes"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestInterval(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	v := make([]float64, 41)
	for i := range v {
		v[i] = 0.03 + 0.02*random.NormFloat64()
	}
	low, high := interval(v)
	if m := median(v); low > m || high < m || low < 0.01 || high > 0.05 || high-low > 0.03 {
		t.Errorf("%v in %v … %v", m, low, high)
	}
	if low, high := interval([]float64{7}); low != 7 || high != 7 {
		t.Errorf("of one: %v … %v", low, high)
	}
}

// What drifts between rounds is not taken for cost.
func TestPairing(t *testing.T) {
	w := &watcher{name: "w"}
	r := newResults([]*watcher{w})
	for i := range 20 {
		bare := 10_000 * math.Pow(1.05, float64(i))
		next := bare * 1.05
		r.bare = append(r.bare, sample{perRequest: bare, requests: 1})
		r.add(w, sample{perRequest: 1.02 * (bare + next) / 2, requests: 1, counted: &counted{missed: 1}}, sample{perRequest: bare}, sample{perRequest: next})
	}
	var b bytes.Buffer
	if err := r.print(&b, true); err != nil || !strings.Contains(b.String(), "| +2.0 % | +2.0 … +2.0 |") || !strings.Contains(b.String(), "| 20 |") {
		t.Errorf("%v\n%s", err, &b)
	}
}

// Time of programs that this one started is its own, all other time is not.
func TestUsedByOthers(t *testing.T) {
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	before := processes()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	for range 100 {
		time.Sleep(20 * time.Millisecond)
		after := processes()
		p := after[cmd.Process.Pid]
		if p.used < 50*time.Millisecond {
			continue
		}
		if !descends(after, cmd.Process.Pid, os.Getpid()) {
			t.Error("a child counts as somebody else's")
		}
		mine := map[int]process{cmd.Process.Pid: {parent: 1, used: p.used}}
		if used := usedByOthers(before, mine); used != p.used {
			t.Errorf("as somebody else's it used %v, want %v", used, p.used)
		}
		if used := usedByOthers(before, map[int]process{cmd.Process.Pid: p, os.Getpid(): {}}); used != 0 {
			t.Errorf("as a child it used %v", used)
		}
		return
	}
	t.Error("a loop used no time")
}
