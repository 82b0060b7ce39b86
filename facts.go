package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"whyreset/capture"
	"whyreset/capture/container"
	"whyreset/correlate"
	"whyreset/report"
)

// What --ebpf may say.
const (
	ebpfPackets = "packets" // record packets in the kernel; also without a value
	ebpfFacts   = "facts"   // only what the kernel tells of its sockets
	ebpfNo      = "no"      // none of it, though it may be used
)

// A factSource tells what the kernel says of its sockets. Read and Flush hand over
// facts in no strict order, none later than factsLate.
type factSource interface {
	Read(wait time.Duration, emit func(*capture.SocketFact)) error
	Flush(emit func(*capture.SocketFact)) // what Read still holds back
	Count() (facts, lost uint64)
	Held() capture.Time // the earliest fact that Read holds back; 0 if none
	Whole() bool        // whether all is told of that the kernel sends, but for what is lost
	Close() error
	// Follow has it tell of the sockets in these namespaces from now on.
	Follow(spaces []uint64) error
}

const (
	// factsEvery is how often facts are read: the kernel wakes nobody for them.
	factsEvery = 100 * time.Millisecond
	// factsLate is how much later than it happened a fact may come, if they are read
	// that often.
	factsLate = 400 * time.Millisecond
	// namesLate is how much later an event may come because an engine is asked for
	// the name of its container.
	namesLate = time.Second
)

// factsWithout are the flags that mean nothing without packets.
var factsWithout = []string{"interface", "write", "ring", "buffer", "snap", "all", "fail-on", "max-connections", "all-containers"}

// checkFacts rejects what cannot be meant with --ebpf=facts.
func checkFacts(given func(name string) bool) error {
	for _, name := range factsWithout {
		if given(name) {
			return fmt.Errorf("--ebpf=facts looks at no packets, on any interface, in any container: --%s has no meaning with it", name)
		}
	}
	return nil
}

// watchFacts explains resets without looking at packets.
func (c *command) watchFacts(ctx context.Context) int {
	l, summary := c.live, notifySummary() // at once: unhandled, the signal kills
	src, over, err := c.openFactsAlone(ctx)
	if err != nil {
		c.complain(c.hint(err))
		return exitError
	}
	defer src.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if l.duration > 0 {
		ctx, cancel = context.WithTimeout(ctx, l.duration)
		defer cancel()
	}
	// It goes on to ask engines when ctx is done: what happened last has names, too.
	named, forget := context.WithCancel(context.WithoutCancel(ctx))
	defer forget()
	names := container.Local().Names(named)
	if !c.giveUpPrivileges() {
		return exitError
	}
	w := newFactWatcher(c, src, names, summary)
	where := "all network namespaces"
	if named := slices.Concat(l.spots, l.groups); len(named) > 0 {
		where = strings.Join(spotTitles(named), ", ")
	}
	fmt.Fprintf(c.stderr, "whyreset: listening on the kernel's facts of %s\n", oneLine(where))
	return w.finish(w.run(ctx, over))
}

// spotTitles says in a message where it is that facts are told of.
func spotTitles(spots []spot) (titles []string) {
	for _, s := range spots {
		titles = append(titles, (&found{spot: s, name: s.name}).title())
	}
	return titles
}

// A factWatcher writes what becomes of facts.
type factWatcher struct {
	command  *command
	src      factSource
	names    *container.Names
	summary  <-chan os.Signal // asks for the summary so far
	out      *bufio.Writer
	writer   report.FactWriter
	progress *progress
	events   correlate.Events
	queue    []*correlate.Event // wait for the names of their containers
	tally    correlate.Tally
	start    time.Time
	lost     uint64 // of which was told
	told     time.Time
	err      error // the first of writing
}

func newFactWatcher(c *command, src factSource, names *container.Names, summary <-chan os.Signal) *factWatcher {
	w := &factWatcher{
		command: c, src: src, names: names, summary: summary,
		out: bufio.NewWriterSize(c.stdout, 64<<10), progress: newProgress(c.stderr), start: time.Now(),
	}
	opt := report.Options{Color: wantsColor(c.stdout), Location: c.location}
	if c.json {
		w.writer = report.FactJSON{JSON: report.NewJSON(w.out, opt)}
	} else {
		w.writer = report.NewFactText(report.NewText(w.out, opt))
	}
	return w
}

// keep remembers the first error of writing.
func (w *factWatcher) keep(err error) {
	if w.err == nil {
		w.err = err
	}
}

// run reads until somebody ends it, what is watched is over, or there is an error
// other than of writing, which it returns.
func (w *factWatcher) run(ctx context.Context, over func() string) error {
	for w.err == nil && !w.enough() {
		if err := w.src.Read(factsEvery, w.events.Add); err != nil {
			return err
		}
		now := time.Now()
		w.take(now, capture.Time(now.Add(-factsLate).UnixNano()))
		ended := over()
		if ctx.Err() != nil || ended != "" {
			if ended != "" {
				w.say(errors.New(ended))
			}
			return w.drain()
		}
		w.tick(now)
	}
	return nil
}

// enough reports whether as many events were written as --count asks for.
func (w *factWatcher) enough() bool {
	n := w.command.live.count
	return n > 0 && w.tally.Events >= n
}

// drain takes what was told until now, and waits for the names that are missing.
func (w *factWatcher) drain() error {
	if err := w.src.Read(0, w.events.Add); err != nil {
		return err
	}
	w.src.Flush(w.events.Add)
	w.take(time.Now(), math.MaxInt64)
	for deadline := time.Now().Add(namesLate); len(w.queue) > 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
		w.take(time.Now(), math.MaxInt64)
	}
	w.take(time.Now().Add(time.Hour), math.MaxInt64)
	return nil
}

// take writes the events from before until whose containers have names, or which
// have waited long enough for them.
func (w *factWatcher) take(now time.Time, until capture.Time) {
	w.queue = append(w.queue, w.events.Take(until)...)
	n := 0
	for _, e := range w.queue {
		sure := w.names.Fill(&e.Owner)
		if !sure && now.Sub(e.Time.Std()) < factsLate+namesLate || w.enough() {
			break
		}
		n++
		w.tally.Add(e)
		if w.err == nil && !w.command.quiet {
			w.progress.erase()
			w.keep(w.writer.Event(e))
		}
	}
	w.queue = slices.Delete(w.queue, 0, n)
	if w.err == nil && !w.command.quiet && until != math.MaxInt64 {
		w.keep(w.writer.Tick(until))
	}
}

// tick does what is to be done now and then.
func (w *factWatcher) tick(now time.Time) {
	facts, lost := w.src.Count()
	if lost > w.lost && now.Sub(w.told) >= tellEvery {
		w.lost, w.told = lost, now
		w.say(fmt.Errorf("warning: facts lost so far: %d", lost))
	}
	select {
	case <-w.summary:
		w.summarize()
	default:
	}
	w.progress.show(now, func() string {
		return fmt.Sprintf("whyreset: %s, %d facts, %d resets and ends with data unread", now.Sub(w.start).Round(time.Second), facts, w.tally.Events)
	})
	if w.out.Buffered() > 0 {
		w.progress.erase()
		w.keep(w.out.Flush())
	} else if nobodyReads(w.command.stdout) {
		w.keep(io.ErrClosedPipe)
	}
}

func (w *factWatcher) say(err error) {
	w.progress.erase()
	w.command.complain(err)
}

// sum returns the summary so far.
func (w *factWatcher) sum() report.FactSummary {
	s := report.FactSummary{Tally: &w.tally, Start: capture.Time(w.start.UnixNano()), End: capture.Time(time.Now().UnixNano())}
	s.Facts, s.Lost = w.src.Count()
	return s
}

// summarize prints the summary so far. Standard output has one, at its end.
func (w *factWatcher) summarize() {
	var b bytes.Buffer
	sum := w.sum()
	text := report.NewFactText(report.NewText(&b, report.Options{Color: wantsColor(w.command.stderr), Location: w.command.location}))
	if err := text.Summary(&sum); err != nil {
		return
	}
	w.progress.erase()
	fmt.Fprintf(w.command.stderr, "whyreset: so far:\n%s", b.Bytes())
}

// finish writes the summary and returns the exit status.
func (w *factWatcher) finish(stopped error) int {
	w.progress.erase()
	sum := w.sum()
	if stopped != nil {
		sum.Stopped = oneLine(stopped.Error())
	}
	if w.err == nil {
		w.keep(w.writer.Summary(&sum))
	}
	if w.err == nil {
		w.keep(w.out.Flush())
	}
	if w.err != nil {
		return w.command.finish(w.err)
	}
	if sum.Lost > 0 {
		w.command.complain(hinted{fmt.Errorf("warning: facts lost: %d", sum.Lost), "-p, --host and --container narrow down what the kernel tells of"})
	}
	if stopped != nil {
		w.command.complain(stopped)
		return exitError
	}
	return exitOK
}
