package main

import (
	"fmt"
	"io"
	"time"

	"whyreset/capture"
)

// A progress is a line on a terminal that says how far reading has come. It
// appears when reading takes longer than a second, and never elsewhere than on a
// terminal.
type progress struct {
	w     io.Writer // nil if there is no terminal
	start time.Time
	last  time.Time // of the last update
	shown bool
}

const (
	progressAfter = time.Second
	progressEvery = 250 * time.Millisecond
)

func newProgress(stderr io.Writer) *progress {
	p := &progress{start: time.Now()}
	if isTerminal(stderr) {
		p.w = stderr
	}
	return p
}

// update rewrites the line, if it is time to.
func (p *progress) update(now time.Time, stats func() capture.Stats) {
	p.show(now, func() string {
		st := stats()
		return progressLine(st.FileBytes, st.FileSize, now.Sub(p.start))
	})
}

// show is update for a line of any kind.
func (p *progress) show(now time.Time, line func() string) {
	if p.w == nil || now.Sub(p.start) < progressAfter || now.Sub(p.last) < progressEvery {
		return
	}
	p.last = now
	fmt.Fprint(p.w, "\r\x1b[K"+line())
	p.shown = true
}

// progressLine says what has been read, how fast, and how long the rest takes.
func progressLine(done, size int64, elapsed time.Duration) string {
	rate := float64(done) / max(elapsed.Seconds(), 1e-3)
	line := "whyreset: " + bytesText(float64(done))
	if size > 0 {
		line += fmt.Sprintf(" of %s (%d %%)", bytesText(float64(size)), min(100, done*100/size))
	}
	line += ", " + bytesText(rate) + "/s"
	if left := size - done; size > 0 && left > 0 && rate > 0 {
		line += ", " + time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second).String() + " left"
	}
	return line
}

// bytesText formats a number of bytes: 1.2 GB.
func bytesText(n float64) string {
	for _, unit := range []string{"B", "kB", "MB", "GB"} {
		if n < 1000 {
			if unit == "B" || n >= 100 {
				return fmt.Sprintf("%.0f %s", n, unit)
			}
			return fmt.Sprintf("%.1f %s", n, unit)
		}
		n /= 1000
	}
	return fmt.Sprintf("%.1f TB", n)
}

// erase takes the line off the terminal, before something else is written.
func (p *progress) erase() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}
