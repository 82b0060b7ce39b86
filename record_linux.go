package main

import (
	"context"
	"fmt"
	"strings"

	"whyreset/bpf"
	"whyreset/report"
)

// record explains live traffic of which a program in the kernel keeps what matters.
func (c *command) record(ctx context.Context) int {
	l, summary := c.live, notifySummary()
	done, err := c.findPlaces(ctx)
	if err != nil {
		c.complain(c.hint(err))
		return exitError
	}
	defer done()
	src, err := bpf.OpenRecorder(bpf.RecorderConfig{Places: l.places, Filter: c.filter, Snap: l.snap, Ring: l.buffer})
	if err != nil {
		c.complain(withoutEBPF(err))
		return exitError
	}
	defer src.Close()
	facts := &beside{zones: src.Zones(), places: l.spaces, forget: func() {}}
	if err := facts.open(ctx, c); err != nil {
		c.complain(withoutEBPF(err))
		return exitError
	}
	defer facts.close()
	// Interfaces that come later are attached to later, which takes the privileges.
	if l.user != nil && !c.giveUpPrivileges() {
		return exitError
	}
	j := newJob(c, report.Options{
		Files:    src.Files(),
		Zones:    src.Zones(),
		Recorded: true,
		Color:    wantsColor(c.stdout),
		Location: c.location,
	})
	where := make([]string, len(l.places))
	for i := range l.places {
		where[i] = l.places[i].String()
	}
	fmt.Fprintf(c.stderr, "whyreset: recording in the kernel, with %s, on %s\n", src.Hook(), oneLine(strings.Join(where, "; ")))
	j.names = facts.names
	w := &watcher{job: j, command: c, src: src, facts: facts, summary: summary}
	stopped := w.run(ctx)
	w.complainOf(facts.last(w.tracker))
	return c.conclude(j, src, stopped)
}

// withoutEBPF adds to an error what does without. It does not fall back by itself:
// whoever asked for eBPF has a reason.
func withoutEBPF(err error) error {
	return hinted{bpf.Explain(err), "leave out --ebpf, and -i any explains packets; sudo, or the capabilities, may be what is missing here"}
}
