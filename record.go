package main

import (
	"context"
	"fmt"
	"strings"

	"whyreset/bpf"
	"whyreset/report"
)

// What --ebpf may say.
const ebpfPackets = "packets" // record packets in the kernel; also without a value

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
		c.complain(err)
		return exitError
	}
	defer src.Close()
	j := newJob(c, report.Options{
		Files:    src.Files(),
		Zones:    src.Zones(),
		Color:    wantsColor(c.stdout),
		Location: c.location,
	})
	where := make([]string, len(l.places))
	for i := range l.places {
		where[i] = l.places[i].String()
	}
	fmt.Fprintf(c.stderr, "whyreset: recording in the kernel, with %s, on %s\n", src.Hook(), oneLine(strings.Join(where, "; ")))
	w := &watcher{job: j, command: c, src: src, summary: summary}
	stopped := w.run(ctx)
	return c.conclude(j, src, stopped)
}
