package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"whyreset/capture"
	"whyreset/capture/container"
)

// A spot is what --netns, --pid, --container or --cgroup names.
type spot struct {
	kind string // the flag
	name string
	pid  int
}

// spots checks what can be known to be wrong without looking.
func spots(f *liveFlags) (places, groups []spot, err error) {
	for _, list := range []struct {
		kind  string
		names []string
	}{{"netns", f.netns}, {"pid", f.pids}, {"container", f.containers}, {"cgroup", f.cgroups}} {
		for _, name := range list.names {
			s := spot{kind: list.kind, name: name}
			if name == "" {
				return nil, nil, fmt.Errorf("--%s: the name is empty", s.kind)
			}
			if s.kind == "pid" {
				if s.pid, err = strconv.Atoi(name); err != nil || s.pid < 1 || s.pid > 1<<22 {
					return nil, nil, fmt.Errorf("--pid: %q is not the number of a process", name)
				}
			}
			if s.kind == "cgroup" {
				groups = append(groups, s)
			} else {
				places = append(places, s)
			}
		}
	}
	return places, groups, nil
}

// A found is a spot, and the namespace it is in.
type found struct {
	spot  spot
	name  string // as its engine calls it
	space *capture.Namespace
	pid   int    // of a container's first process
	group string // of a container: the path of its cgroup, "" if it has none in version 2
}

// title says in a message what it is.
func (f *found) title() string {
	switch f.spot.kind {
	case "netns":
		return "network namespace " + f.name
	case "pid":
		return "process " + f.name
	case "cgroup":
		return "cgroup " + f.name
	}
	return "container " + f.name
}

// findPlaces finds what the flags name. Spots in the same namespace are one place,
// which ends when all of them have. It returns what releases them.
func (c *command) findPlaces(ctx context.Context) (done func(), err error) {
	var all []*found
	done = func() {
		for _, f := range all {
			f.space.Close()
		}
	}
	host := container.Local()
	c.live.spaces = map[uint64]string{}
	switch {
	case c.live.everywhere:
		for _, r := range host.Running(ctx) {
			name := r.Container.Title()
			all = append(all, &found{spot: spot{kind: "container", name: r.Container.ID}, name: name, space: r.Space})
		}
		if len(all) == 0 {
			return nil, errors.New("no container with a network of its own is running; with --ebpf, --all-containers waits for one")
		}
	case len(c.live.spots) == 0:
		c.live.places = []capture.Place{{Interfaces: c.live.interfaces}}
		if ours, err := capture.OpenNamespace("/proc/self/ns/net"); err == nil {
			c.live.spaces[ours.Inode()] = ""
			ours.Close()
		}
		return done, nil
	}
	for _, s := range c.live.spots {
		f, err := find(ctx, host, s)
		if err != nil {
			done()
			return nil, err
		}
		all = append(all, f)
	}
	var groups [][]*found
next:
	for _, f := range all {
		for i, g := range groups {
			if g[0].space.Same(f.space) {
				groups[i] = append(g, f)
				continue next
			}
		}
		groups = append(groups, []*found{f})
	}
	var known []string
	for _, g := range groups {
		p := capture.Place{Interfaces: c.live.interfaces, Over: func() bool { return ended(g) }}
		var names, titles []string
		for _, f := range g {
			names = append(names, f.name)
			titles = append(titles, f.title())
		}
		p.Title = strings.Join(titles, " and ")
		if len(groups) > 1 {
			p.Name = strings.Join(names, "+")
			if slices.Contains(known, p.Name) {
				p.Name = g[0].spot.name // two engines have one of that name
			}
			known = append(known, p.Name)
		}
		if g[0].space.Ours() {
			c.complain(hinted{fmt.Errorf("%s has no network of its own: watching the host's", p.Title), "-p PORT and -i IFACE narrow that down"})
		} else {
			p.Enter = func(fn func() error) error {
				if err := g[0].space.Enter(fn); err != nil {
					return fmt.Errorf("%s: %w", p.Title, err)
				}
				return nil
			}
		}
		c.live.places = append(c.live.places, p)
		c.live.spaces[g[0].space.Inode()] = p.Name
	}
	return done, nil
}

func ended(all []*found) bool {
	for _, f := range all {
		if !f.space.Ended() {
			return false
		}
	}
	return true
}

// find opens the namespace of a spot.
func find(ctx context.Context, host *container.Host, s spot) (*found, error) {
	f := &found{spot: s, name: s.name}
	var err error
	switch s.kind {
	case "netns":
		f.space, err = capture.OpenNamespace(s.name)
	case "pid":
		f.space, err = capture.OpenProcessNamespace(s.pid)
	case "container":
		// One that is restarted at this moment is there again the next.
		for range 3 {
			if err = f.findContainer(ctx, host); !errors.Is(err, container.ErrChanged) {
				break
			}
		}
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (f *found) findContainer(ctx context.Context, host *container.Host) error {
	c, err := host.Find(ctx, f.spot.name)
	if err != nil {
		return err
	}
	f.name, f.pid, f.group = c.Title(), c.PID, host.Group(c)
	if f.space, err = capture.OpenProcessNamespace(c.PID); err != nil {
		if _, gone := os.Stat("/proc/" + strconv.Itoa(c.PID)); gone != nil {
			err = container.ErrChanged
		}
	} else if err = host.Confirm(ctx, c); err == nil && f.space.Ended() {
		err = container.ErrChanged
	}
	if err == nil {
		return nil
	}
	if f.space != nil {
		f.space.Close()
	}
	return fmt.Errorf("container %s: %w", f.name, err)
}
