package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"whyreset/capture"
	"whyreset/capture/container"
	"whyreset/correlate"
	"whyreset/report"
)

// checkEvery is after how many segments the loop looks up from its work: at
// signals, at the clock, and at what is still to be written out.
const checkEvery = 4096

// flushEvery bounds how long a finding stays in the buffer while captures are
// read from files.
const flushEvery = 200 * time.Millisecond

// read explains the captures that were named.
func (c *command) read(ctx context.Context) int {
	src, err := capture.OpenFiles(c.operands, c.stdin, c.filter)
	if err != nil {
		c.complain(err)
		return exitError
	}
	defer src.Close()
	opt := report.Options{
		Files:     src.Files(),
		Zones:     src.Zones(),
		StreamIDs: len(c.operands) == 1 && !c.filtered,
		Color:     wantsColor(c.stdout),
		Location:  c.location,
	}
	j := newJob(c, opt, nil)
	// Findings from a pipe may come at any time, and on a terminal somebody waits.
	j.eager = slices.Contains(c.operands, "-") || isTerminal(c.stdout)
	defer debug.SetGCPercent(debug.SetGCPercent(idleGCPercent))
	stopped := j.run(ctx, src)
	return c.conclude(j, src, stopped)
}

// conclude writes the summary and returns the exit status.
func (c *command) conclude(j *job, src capture.Source, stopped error) int {
	j.progress.erase()
	stats := src.Stats()
	if j.err == nil {
		j.tracker.Tick(stats.End) // silence until then is part of what was seen
		j.tracker.Finish()
	}
	sum := report.Summary{Tracker: j.tracker.Summary(), Capture: stats, RTT: j.rtt}
	if stopped != nil {
		sum.Stopped = oneLine(stopped.Error())
	}
	if j.err == nil {
		j.keep(j.writer.Summary(&sum))
	}
	if j.err == nil {
		j.keep(j.out.Flush())
	}
	if j.err != nil {
		return c.finish(j.err)
	}
	c.warn(&sum)
	switch {
	case errors.Is(stopped, capture.ErrTruncated) && sum.Capture.Packets > 0:
		c.complain(hinted{stopped, "what came before the cut was read; let tcpdump end by itself or with ctrl-C, and copy the file after that"})
		return exitError
	case stopped != nil:
		c.complain(stopped)
		return exitError
	case c.fails(&sum.Tracker):
		return exitFound
	}
	return exitOK
}

// warn says what of the capture went unseen, for those who read only the last
// lines or only JSON.
func (c *command) warn(s *report.Summary) {
	k := &s.Capture
	if k.Undecodable > 0 {
		c.complain(fmt.Errorf("warning: packets that could not be decoded: %d, the first: %s", k.Undecodable, k.FirstBad))
	}
	if k.Missed > 0 {
		helps := "tcpdump -B 65536"
		if c.live != nil {
			helps = "--buffer 256MB"
		}
		c.complain(hinted{fmt.Errorf("warning: packets missed while capturing: %d", k.Missed), "a larger buffer helps: " + helps})
	}
	if r := k.Recorder; r != nil && r.Full > 0 {
		c.complain(hinted{fmt.Errorf("warning: segments not recorded, of connections for which the kernel's table had no room: %d", r.Full), roomHint})
	}
	if r := k.Recorder; r != nil && r.Evicted > 0 {
		c.complain(hinted{fmt.Errorf("warning: connections given up in the kernel for want of room: %d", r.Evicted), roomHint})
	}
	if k.Fragments > 0 {
		c.complain(fmt.Errorf("warning: IP fragments not looked into: %d", k.Fragments))
	}
	if n := s.Tracker.Evicted; n > 0 {
		c.complain(hinted{fmt.Errorf("warning: connections given up to keep memory bounded: %d", n), "--max-connections raises the bound, -p and --host narrow the input"})
	}
}

// roomHint is what gives a recorder's table enough room.
const roomHint = "--max-connections sets how many it holds, -p and --host narrow the input"

// A job is one run from a source to a writer.
type job struct {
	out      *bufio.Writer
	writer   report.Writer
	tracker  *correlate.Tracker
	progress *progress
	eager    bool // write each finding out at once
	frugal   bool // the collector runs often
	all      bool
	quiet    bool
	flushed  time.Time
	names    *container.Names                   // of the containers of either end; nil if nothing tells of those
	rtt      map[capture.Endpoint]time.Duration // the longest of each server's
	err      error                              // the first of writing
}

// newJob makes a job with the evidence of facts, which may be nil.
func newJob(c *command, opt report.Options, facts *beside) *job {
	j := &job{
		out:      bufio.NewWriterSize(c.stdout, 64<<10),
		progress: newProgress(c.stderr),
		all:      c.all, quiet: c.quiet,
		flushed: time.Now(),
		rtt:     make(map[capture.Endpoint]time.Duration),
		names:   facts.namesOf(),
	}
	if c.json {
		j.writer = report.NewJSON(j.out, opt)
	} else {
		j.writer = report.NewText(j.out, opt)
	}
	j.tracker = correlate.New(correlate.Config{MaxConnections: c.maxConnections, Brief: !c.all, Local: facts.unsent()}, j.finding)
	return j
}

// finding is what the tracker calls.
func (j *job) finding(f *correlate.Finding) {
	if c := &f.Connection; c.HasRTT && f.Verdict.Family() == "idle-race" {
		j.rtt[c.Server] = max(j.rtt[c.Server], c.HandshakeRTT)
	}
	if j.err != nil || j.quiet || !j.all && !report.ShownByDefault(f) {
		return
	}
	if j.names != nil {
		j.names.Fill(&f.Client.Process)
		j.names.Fill(&f.Server.Process)
	}
	j.progress.erase()
	j.keep(j.writer.Finding(f))
	if j.eager && j.err == nil {
		j.keep(j.out.Flush())
	}
}

// keep remembers the first error.
func (j *job) keep(err error) {
	if j.err == nil {
		j.err = err
	}
}

// run reads src to its end. It returns why it stopped before that, or nil; an
// error of writing is in j.err.
func (j *job) run(ctx context.Context, src capture.Source) error {
	// Close unblocks a Next that waits for a pipe.
	defer context.AfterFunc(ctx, func() { src.Close() })()
	if src.Lasting() {
		err := j.runAhead(ctx, src)
		if ctx.Err() != nil {
			return errInterrupted
		}
		return err
	}
	var seg capture.Segment
	for n := 1; j.err == nil; n++ {
		if err := src.Next(&seg); err != nil {
			switch {
			case ctx.Err() != nil:
				return errInterrupted
			case err == io.EOF:
				return nil
			}
			return err
		}
		j.tracker.Add(&seg)
		if n%checkEvery == 0 {
			if ctx.Err() != nil {
				return errInterrupted
			}
			j.lookUp(src.Stats)
		}
	}
	return nil
}

// While little is held, the heap may grow to several times of that between
// collections: they would take a tenth of the time. With many connections open,
// memory is dearer.
const (
	idleGCPercent   = 400
	manyConnections = 8192
)

var errInterrupted = errors.New("interrupted before the end of the capture")

// collectOften has the collector run often once that pays.
func (j *job) collectOften() {
	if !j.frugal && j.tracker.Following() > manyConnections {
		j.frugal = true
		debug.SetGCPercent(50)
	}
}

// lookUp does what must happen now and then, whatever the packets are.
func (j *job) lookUp(stats func() capture.Stats) {
	j.collectOften()
	now := time.Now()
	j.progress.update(now, stats)
	if j.out.Buffered() > 0 && now.Sub(j.flushed) >= flushEvery {
		j.flushed = now
		j.progress.erase()
		j.keep(j.out.Flush())
	}
}

// wantsColor reports whether w is a terminal whose user has not declined colour
// (https://no-color.org).
func wantsColor(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w)
}
