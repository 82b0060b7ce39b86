package main

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"whyreset/capture"
	"whyreset/correlate"
	"whyreset/report"
)

// TestTicksChangeNothing lets the clock of a live capture tick between the packets
// of every scenario and recording, at times when one would: the findings are the
// same, to the byte, and in the same order. Only when they come may differ.
func TestTicksChangeNothing(t *testing.T) {
	each(t, func(t *testing.T, s subject, _ []judgement) {
		want := ticked(t, s.segs, nil)
		rng := rand.New(rand.NewPCG(1, uint64(len(s.segs))))
		for name, step := range map[string]func() time.Duration{
			"regular": func() time.Duration { return 100 * time.Millisecond },
			"random":  func() time.Duration { return time.Duration(rng.Int64N(int64(time.Second))) },
			"rare":    func() time.Duration { return time.Duration(rng.Int64N(int64(20 * time.Second))) },
		} {
			got := ticked(t, s.segs, step)
			if got != want {
				a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
				for i := range min(len(a), len(b)) {
					if a[i] != b[i] {
						t.Fatalf("%s ticks: finding %d: instead of\n%s\nit says\n%s", name, i+1, a[i], b[i])
					}
				}
				t.Fatalf("%s ticks: %d lines, not %d", name, len(b), len(a))
			}
		}
	})
}

// ticked returns the findings as JSON. There are never more ticks between two packets than a few hundred.
func ticked(t *testing.T, segs []capture.Segment, step func() time.Duration) string {
	t.Helper()
	var b bytes.Buffer
	var now capture.Time
	w := report.NewJSON(&b, report.Options{})
	k := correlate.New(correlate.Config{}, func(f *correlate.Finding) {
		if err := w.Finding(f); err != nil {
			t.Fatal(err)
		}
	})
	// A tick never comes before a packet that is older.
	oldest := make([]capture.Time, len(segs)+1)
	for i := len(segs) - 1; i >= 0; i-- {
		oldest[i] = segs[i].Time
		if i+1 < len(segs) {
			oldest[i] = min(oldest[i], oldest[i+1])
		}
	}
	for i := range segs {
		if step != nil && i > 0 && now > 0 {
			for n := 0; n < 300; n++ {
				next := now.Add(step())
				if next > oldest[i] {
					break
				}
				now = next
				k.Tick(now)
			}
		}
		now = max(now, segs[i].Time)
		k.Add(&segs[i])
	}
	k.Finish()
	return b.String()
}
