package container

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"whyreset/capture"
)

// Names tell in which containers processes are, and what engines call those. They
// may be used by several goroutines at once.
type Names struct {
	host   *Host
	asking chan struct{} // holds one element if something is to be asked

	mu    sync.Mutex
	names map[string]*called // by id
	pids  map[int]looked     // by process
}

// looked is what /proc said of a process.
type looked struct {
	groups []string
	until  time.Time // when it is looked at again: the number may be another's
}

// A called container is one whose name was asked for, or told.
type called struct {
	Container
	sure bool // it has been asked for: there is no more to know
}

const (
	// askEvery is how long an engine is left alone between two questions. Each of
	// them is for all containers.
	askEvery = 250 * time.Millisecond
	// maxNames bounds the containers that are remembered, and the processes.
	maxNames = 1 << 14
	// lookedFor is how long what /proc says of a process holds.
	lookedFor = time.Second
)

// Names begins to learn names, until ctx is done: of the containers that there
// are, of those that engines start, and of those that [Names.Fill] asks for.
func (h *Host) Names(ctx context.Context) *Names { return h.follow(ctx, func(*begun) {}) }

// follow is Names, and tells of each container that an engine starts. What it calls
// may be called by several goroutines at once.
func (h *Host) follow(ctx context.Context, tell func(*begun)) *Names {
	n := &Names{host: h, asking: make(chan struct{}, 1), names: map[string]*called{}, pids: map[int]looked{}}
	n.asking <- struct{}{}
	for _, socket := range h.Sockets {
		go engine(socket).follow(ctx, func(b begun) {
			n.learn(&b.who)
			tell(&b)
		})
	}
	go n.run(ctx)
	return n
}

// run asks the engines when that is called for.
func (n *Names) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.asking:
		}
		n.ask(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(askEvery):
		}
	}
}

// ask asks all engines once. What was wanted before is certain after it.
func (n *Names) ask(ctx context.Context) {
	n.mu.Lock()
	wanted := make([]*called, 0, len(n.names))
	for _, c := range n.names {
		wanted = append(wanted, c)
	}
	n.mu.Unlock()
	all, _ := n.host.list(ctx) // one that cannot be asked tells no names
	for _, c := range all {
		n.learn(c)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range wanted {
		c.sure = true
	}
}

// learn takes in what an engine tells of a container.
func (n *Names) learn(c *Container) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := n.get(c.ID)
	k.sure = true
	if k.Name == "" || c.Name != "" {
		k.Container = *c
	}
}

// get returns what is known of the container with an id. It holds the lock.
func (n *Names) get(id string) *called {
	k := n.names[id]
	if k == nil {
		if len(n.names) >= maxNames {
			clear(n.names)
		}
		k = &called{Container: Container{ID: id}}
		n.names[id] = k
	}
	return k
}

// Fill completes p with the container that it is in, by its control group. It
// reports whether that is all there is to know: otherwise an engine is being asked,
// and the answer is there within the time an engine has, [Timeout]. It blocks for
// no engine, and reads one file in /proc at most.
func (n *Names) Fill(p *capture.Process) (sure bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if id := n.find(p); id != "" {
		p.Container = id
	}
	if p.Container == "" {
		return true
	}
	k := n.get(p.Container)
	if p.Name == "" {
		p.Name = k.Name
	}
	if !k.sure {
		select {
		case n.asking <- struct{}{}:
		default:
		}
	}
	return k.sure
}

// Timeout is how long engines may take to answer: those that do not are asked in
// vain.
const Timeout = timeout

// find returns the id of the container that p is in, "" if it is in none. It holds
// the lock.
func (n *Names) find(p *capture.Process) string {
	groups := groupsIn("0::" + p.Cgroup + "\n")
	// The root, as under version 1 of control groups, says nothing.
	if len(groups) == 0 && p.Container == "" && p.PID > 0 {
		l := n.pids[p.PID]
		if now := time.Now(); now.After(l.until) {
			if len(n.pids) >= maxNames {
				clear(n.pids)
			}
			l = looked{n.host.groups(p.PID), now.Add(lookedFor)}
			n.pids[p.PID] = l
		}
		groups = l.groups
	}
	// Containers may run within containers: the innermost is the process's own, but
	// its engine may be out of reach.
	var innermost string
	for _, group := range slices.Backward(groups) {
		id := idIn(group)
		if k := n.names[group]; id == "" && k != nil {
			id = group // containerd's need not look like one
		}
		if id == "" {
			continue
		}
		if k := n.names[id]; k != nil && k.Name != "" {
			return id
		}
		if innermost == "" {
			innermost = id
		}
	}
	return innermost
}

// idIn returns the id that the name of a control group ends with, "" if it does
// not: docker-ID, libpod-ID, crio-ID, cri-containerd-ID, or the id itself.
func idIn(group string) string {
	if i := len(group) - 64; i >= 0 && isID(group[i:]) && (i == 0 || strings.HasSuffix(group[:i], "-")) {
		return group[i:]
	}
	return ""
}

// describe returns what engines tell of the container with an id, waiting for it.
func (n *Names) describe(ctx context.Context, id string) Container {
	p := capture.Process{Container: id}
	for deadline := time.Now().Add(timeout); !n.Fill(&p) && time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return Container{ID: id}
		case <-time.After(10 * time.Millisecond):
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.get(id).Container
}
