package container

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"whyreset/capture"
)

// A Change is that a container with a network of its own has begun or ended.
type Change struct {
	Started bool
	// Container is who was found first in the network namespace: the containers of a
	// pod share one. PID is of a process in it.
	Container Container
	// Space is the namespace. It belongs to the receiver, who closes it when it is
	// not needed any more; that it ended comes with the same pointer.
	Space *capture.Namespace
}

const (
	// scanEvery is how often /proc is looked at for new processes, and for the end of
	// containers. Engines tell of what they start at once.
	scanEvery = time.Second
	// lookTimes is how often a process is looked at: at first it may not be where it
	// is going to be, between being made and being confined.
	lookTimes = 3
)

// A watch follows the containers of a host.
type watch struct {
	host   *Host
	names  *Names
	tell   func(Change) bool // false: nobody listens any more
	others []string          // namespaces that are no container's
	looked map[int]int       // how often, by process
	spaces map[string]*space // by what /proc/PID/ns/net links to
}

// A space is a namespace of containers.
type space struct {
	change Change
	holder *capture.Namespace // of a process that runs there
}

// Watch tells of the containers that run, and then of those that begin and end,
// until ctx is done; then it closes the channel. Those in the network namespace of
// the host, or of this process, are none of it. It survives engines that end and
// come back, and needs none: what no engine tells of is found in /proc within a
// second, so that a container that lives shorter than that is seen only if an
// engine speaks Docker's API.
//
// Namespaces are opened as their containers begin, which takes CAP_SYS_PTRACE as
// long as the watch goes on.
func (h *Host) Watch(ctx context.Context) <-chan Change {
	changes := make(chan Change)
	begins := make(chan *begun, 256)
	w := &watch{
		host: h, looked: map[int]int{}, spaces: map[string]*space{},
		names: h.follow(ctx, func(b *begun) {
			select {
			case begins <- b:
			case <-ctx.Done():
			}
		}),
		others: []string{h.space("self"), h.space("1")},
		tell: func(c Change) bool {
			select {
			case changes <- c:
				return true
			case <-ctx.Done():
				return false
			}
		},
	}
	go func() {
		defer close(changes)
		defer func() {
			for _, s := range w.spaces {
				s.holder.Close()
			}
		}()
		tick := time.NewTicker(scanEvery)
		defer tick.Stop()
		for {
			w.scan(ctx)
			for scanned := true; scanned; {
				select {
				case <-ctx.Done():
					return
				case b := <-begins:
					w.begun(ctx, b)
				case <-tick.C:
					scanned = false
				}
			}
		}
	}()
	return changes
}

// Running returns the containers that Watch would begin with.
func (h *Host) Running(ctx context.Context) (all []Change) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &watch{
		host: h, names: h.Names(ctx), looked: map[int]int{}, spaces: map[string]*space{},
		others: []string{h.space("self"), h.space("1")},
		tell: func(c Change) bool {
			all = append(all, c)
			return true
		},
	}
	w.scan(ctx)
	for _, s := range w.spaces {
		s.holder.Close()
	}
	return all
}

// space returns what tells network namespaces apart, "" if the process has ended.
func (h *Host) space(pid string) string {
	link, err := os.Readlink(h.Proc + "/" + pid + "/ns/net")
	if err != nil {
		return ""
	}
	return link
}

// begun looks at a container that an engine has just started.
func (w *watch) begun(ctx context.Context, b *begun) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	pid, err := b.engine.process(ctx, b.who.ID)
	if err != nil || pid <= 0 || !w.host.belongs(pid, b.who.ID) {
		return // it has ended already, or its numbers are of another machine
	}
	if link := w.host.space(strconv.Itoa(pid)); w.fresh(link) {
		w.found(ctx, pid, link, b.who.ID)
	}
}

// fresh reports whether a namespace may be one that was not told of.
func (w *watch) fresh(link string) bool {
	return link != "" && w.spaces[link] == nil && !slices.Contains(w.others, link)
}

// scan looks at all processes that are new, and for namespaces that have ended.
func (w *watch) scan(ctx context.Context) {
	pids, err := w.host.processes()
	if err != nil {
		return // there is no /proc for the moment
	}
	for link, s := range w.spaces {
		if s.holder.Ended() && !w.holdOn(s, link, pids) {
			delete(w.spaces, link)
			s.holder.Close()
			s.change.Started = false
			if !w.tell(s.change) {
				return
			}
		}
	}
	looked := make(map[int]int, len(pids))
	for _, pid := range pids {
		times := w.looked[pid]
		if times < lookTimes {
			times++
			if link := w.host.space(strconv.Itoa(pid)); w.fresh(link) {
				w.found(ctx, pid, link, w.identify(ctx, pid))
			}
		}
		looked[pid] = times
	}
	w.looked = looked
}

// holdOn finds another process in a namespace whose first one has ended.
func (w *watch) holdOn(s *space, link string, pids []int) bool {
	for _, pid := range pids {
		if w.host.space(strconv.Itoa(pid)) != link {
			continue
		}
		holder, err := capture.OpenProcessNamespace(pid)
		if err != nil {
			continue
		}
		if !holder.Same(s.change.Space) || holder.Ended() {
			holder.Close()
			continue
		}
		s.holder.Close()
		s.holder = holder
		return true
	}
	return false
}

// identify returns the id of the container that a process is in, "" if it is in
// none: services and browsers have network namespaces, too.
func (w *watch) identify(ctx context.Context, pid int) string {
	if id := IDIn(w.host.process(pid, "cgroup", 64<<10)); id != "" {
		return id
	}
	if id := w.host.mountedID(pid); id != "" {
		return id
	}
	// Whose id need not look like one: only the engine's own state tells.
	all, _ := w.host.list(ctx)
	for _, c := range all {
		if c.running() && c.PID == pid {
			w.names.learn(c)
			return c.ID
		}
	}
	return ""
}

// found tells of a container that a process is in.
func (w *watch) found(ctx context.Context, pid int, link, id string) {
	if id == "" {
		return
	}
	s := &space{}
	for _, n := range []**capture.Namespace{&s.change.Space, &s.holder} {
		opened, err := capture.OpenProcessNamespace(pid)
		if err != nil || fmt.Sprintf("net:[%d]", opened.Inode()) != link {
			if err == nil {
				opened.Close()
			}
			if s.change.Space != nil {
				s.change.Space.Close()
			}
			return // it has ended, or moved: the next look tells
		}
		*n = opened
	}
	s.change.Container = w.names.describe(ctx, id)
	s.change.Container.PID, s.change.Container.State, s.change.Started = pid, "running", true
	w.spaces[link] = s
	if !w.tell(s.change) {
		s.change.Space.Close()
	}
}
