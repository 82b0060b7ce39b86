package main

import (
	"context"
	"fmt"
	"strings"

	"whyreset/bpf"
	"whyreset/capture"
	"whyreset/capture/container"
	"whyreset/correlate"
	"whyreset/report"
)

// record explains live traffic of which a program in the kernel keeps what matters.
func (c *command) record(ctx context.Context) int {
	l, summary := c.live, notifySummary() // at once: unhandled, the signal kills
	cfg := bpf.RecorderConfig{Filter: c.filter, Snap: l.snap, Ring: l.buffer, Waits: l.everywhere}
	if c.maxConnections < correlate.DefaultMaxConnections {
		cfg.Connections = c.maxConnections
	}
	groups, over, err := openCgroups(l.groups)
	if err != nil {
		c.complain(err)
		return exitError
	}
	cfg.Cgroups = groups
	if l.everywhere {
		l.spaces = map[uint64]string{0: ""} // none yet; an empty list would be all
	} else {
		done, err := c.findPlaces(ctx)
		if err != nil {
			c.complain(c.hint(err))
			return exitError
		}
		defer done()
		cfg.Places = l.places
	}
	// The facts first: they are to explain whatever is recorded.
	facts, err := openBeside(c.filter, l.spaces, new(capture.Zones))
	if err != nil {
		c.complain(c.lacksEBPF(err))
		return exitError
	}
	defer facts.close()
	src, err := bpf.OpenRecorder(cfg)
	if err != nil {
		c.complain(c.lacksEBPF(bpf.ExplainRecorder(err)))
		return exitError
	}
	defer src.Close()
	facts.look(l.places...)
	// Interfaces and containers that come are attached to as they come, which takes
	// the privileges.
	if l.user != nil && !c.giveUpPrivileges() {
		return exitError
	}
	j := newJob(c, report.Options{
		Files:    src.Files(),
		Zones:    src.Zones(),
		Recorded: true,
		Color:    wantsColor(c.stdout),
		Location: c.location,
	}, facts)
	w := &watcher{job: j, command: c, src: src, facts: facts, over: over, summary: summary}
	var where []string
	for i := range l.places {
		where = append(where, l.places[i].String())
	}
	if l.everywhere {
		where = []string{"all containers with a network of their own, as they come and go"}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		a := &arrivals{watcher: w, src: src, facts: facts, changes: container.Local().Watch(ctx)}
		defer a.close()
		w.come = a.take
	}
	on := strings.Join(where, "; ")
	if len(l.groups) > 0 {
		on += ", of sockets of " + strings.Join(spotTitles(l.groups), ", ")
	}
	fmt.Fprintf(c.stderr, "whyreset: recording in the kernel on %s\n", oneLine(on))
	stopped := w.run(ctx)
	w.complainOf(facts.last(w.tracker))
	return c.conclude(j, src, stopped)
}

// arrivals have a recorder follow containers as they come.
type arrivals struct {
	watcher *watcher
	src     *bpf.Recorder
	facts   *beside
	changes <-chan container.Change
	spaces  []*capture.Namespace
}

// take takes in those that have come since the last call.
func (a *arrivals) take() {
	for {
		select {
		case change, ok := <-a.changes:
			if !ok {
				a.changes = nil
				return
			}
			if !change.Started {
				continue // its namespace says so as well
			}
			a.spaces = append(a.spaces, change.Space)
			if err := a.add(&change); err != nil {
				a.watcher.complainOf(fmt.Errorf("warning: container %s is not watched: %w", change.Container.Title(), err))
			}
		default:
			return
		}
	}
}

func (a *arrivals) add(change *container.Change) error {
	name := change.Container.Title()
	a.facts.places[change.Space.Inode()] = name
	if err := a.facts.follow(); err != nil {
		return err
	}
	p := capture.Place{
		Name: name, Title: "container " + name, Interfaces: a.watcher.command.live.interfaces,
		Enter: change.Space.Enter, Over: change.Space.Ended,
	}
	a.facts.look(p)
	return a.src.Add(p)
}

func (a *arrivals) close() {
	for _, s := range a.spaces {
		s.Close()
	}
}
