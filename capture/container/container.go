// Package container finds the processes of running containers.
//
// It asks Docker and Podman over their sockets, and reads the state that Podman,
// CRI-O and containerd keep in files; what none of them tells is looked for in
// the control groups of all processes. No engine has to be running, and one that
// does not answer holds nobody up.
package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Container is a container that an engine knows of.
type Container struct {
	Engine string // "docker", "podman", "containerd", "cri-o"; "" if no engine told of it
	ID     string
	Name   string   // what people call it; "" if it has no name
	PID    int      // of its first process, as this process sees it; 0 until it is asked for, or if there is none
	State  string   // "running", or the engine's word for something else
	others []string // further names that it answers to
	ask    func(context.Context) (pid int, err error)
}

// timeout is how long an engine may take.
const timeout = 2 * time.Second

// maxListed bounds the containers that an error lists.
const maxListed = 10

var (
	// ErrNone means that there is no such container, or that it is not running.
	ErrNone = errors.New("no such container")
	// ErrChanged means that the container was restarted or has ended since it was
	// found.
	ErrChanged = errors.New("it has just ended or begun again")
)

// String returns "docker web (1a2b3c4d5e6f, pid 4242)".
func (c *Container) String() string {
	var b strings.Builder
	if c.Engine != "" {
		b.WriteString(c.Engine + " ")
	}
	if c.Name != "" {
		b.WriteString(c.Name + " (" + c.shortID())
	} else {
		b.WriteString(c.shortID() + " (")
		if c.PID == 0 {
			return strings.TrimSuffix(b.String(), " (")
		}
	}
	if c.PID != 0 {
		if c.Name != "" {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "pid %d", c.PID)
	}
	return b.String() + ")"
}

// Title returns its name, or its id if it has none.
func (c *Container) Title() string {
	if c.Name != "" {
		return c.Name
	}
	return c.shortID()
}

func (c *Container) shortID() string {
	if isID(c.ID) {
		return c.ID[:12]
	}
	return c.ID
}

// isID reports whether s is an id as engines make them, and so harmless in a path.
func isID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// running reports whether it has a process.
func (c *Container) running() bool { return c.State == "running" || c.State == "paused" }

// Find returns the running container that has a name or an id, or the only one
// whose id or name begins like that. Containers that share a network namespace,
// as those of a pod do, count as one.
func (h *Host) Find(ctx context.Context, name string) (*Container, error) {
	if name == "" {
		return nil, errors.New("the name of the container is empty")
	}
	all, notes := h.list(ctx)
	found, ended := match(all, name)
	if len(found) == 0 && ended == nil {
		groups, err := within(ctx, h.grouped)
		if err != nil {
			notes = append(notes, fmt.Sprintf("%s: %v", h.Proc, err))
		}
		found, _ = match(groups, name)
	}
	switch {
	case len(found) > 0:
		return h.choose(ctx, name, found)
	case ended != nil:
		return nil, fmt.Errorf("container %s is not running but %s (%w)", ended.Title(), ended.State, ErrNone)
	}
	return nil, unknown(name, all, notes)
}

// choose asks for the processes of the containers that were found.
func (h *Host) choose(ctx context.Context, name string, found []*Container) (*Container, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var first error
	var spaces []string
	var distinct []*Container
	for i, c := range found {
		if i == 2*maxListed {
			break
		}
		if c.ask != nil {
			pid, err := c.ask(ctx)
			if err != nil || pid <= 0 {
				if first == nil {
					first = fmt.Errorf("ask %s for the process of container %s: %w", c.Engine, c.Title(), cause(err))
				}
				continue
			}
			c.PID = pid
		}
		if space, err := os.Readlink(fmt.Sprintf("%s/%d/ns/net", h.Proc, c.PID)); err == nil {
			if slices.Contains(spaces, space) {
				continue
			}
			spaces = append(spaces, space)
		}
		distinct = append(distinct, c)
	}
	switch len(distinct) {
	case 0:
		return nil, first
	case 1:
		return distinct[0], nil
	}
	return nil, fmt.Errorf("%q may be any of %s", name, list(distinct))
}

// Confirm reports whether the container still is what was found, and its process
// one of its own. To be called when what is needed of the process has been opened:
// the process's number may have become another's before that.
func (h *Host) Confirm(ctx context.Context, c *Container) error {
	if !h.belongs(c.PID, c.ID) {
		if _, err := os.Stat(fmt.Sprintf("%s/%d", h.Proc, c.PID)); err != nil {
			return ErrChanged
		}
		return fmt.Errorf("process %d, which %s names, is not of the container: the engine seems to run in a virtual machine or on another host", c.PID, c.Engine)
	}
	if c.ask == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if pid, err := c.ask(ctx); err != nil || pid != c.PID {
		return ErrChanged
	}
	return nil
}

// match returns the running containers that a name fits best, and one that it
// fits but that is not running.
func match(all []*Container, name string) (found []*Container, ended *Container) {
	fits := [...]func(*Container) bool{
		func(c *Container) bool { return c.ID == name || c.Name == name },
		func(c *Container) bool { return slices.Contains(c.others, name) },
		func(c *Container) bool { return strings.HasPrefix(c.ID, name) },
		func(c *Container) bool {
			return strings.HasPrefix(c.Name, name) ||
				slices.ContainsFunc(c.others, func(o string) bool { return strings.HasPrefix(o, name) })
		},
	}
	for _, fit := range fits {
		for _, c := range all {
			if !fit(c) {
				continue
			}
			if c.running() {
				found = append(found, c)
			} else if ended == nil {
				ended = c
			}
		}
		if found != nil || ended != nil {
			return found, ended
		}
	}
	return nil, nil
}

// unknown says what there is instead.
func unknown(name string, all []*Container, notes []string) error {
	var running []*Container
	for _, c := range all {
		if c.running() {
			running = append(running, c)
		}
	}
	what := "no engine tells of a running one (Docker, Podman, CRI-O, containerd)"
	if len(running) > 0 {
		what = "running: " + list(running)
	}
	if len(notes) > 0 {
		what += "; " + strings.Join(notes, "; ")
	}
	return fmt.Errorf("%w as %q; %s", ErrNone, name, what)
}

// list names some containers.
func list(cs []*Container) string {
	var names []string
	for _, c := range cs[:min(len(cs), maxListed)] {
		names = append(names, c.String())
	}
	if more := len(cs) - maxListed; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

// list returns the containers that engines tell of, each once, and why some could
// not be asked.
func (h *Host) list(ctx context.Context) (all []*Container, notes []string) {
	type answer struct {
		list []*Container
		err  error
	}
	sources := h.sources()
	answers := make([]answer, len(sources))
	var wg sync.WaitGroup
	for i, s := range sources {
		wg.Go(func() {
			answers[i].list, answers[i].err = within(ctx, s.list)
		})
	}
	wg.Wait()
	known := map[string]*Container{}
	for i, a := range answers {
		if a.err != nil && !errors.Is(a.err, fs.ErrNotExist) {
			notes = append(notes, sources[i].name+": "+cause(a.err).Error())
		}
		for _, c := range a.list {
			if k := known[c.ID]; k == nil {
				known[c.ID] = c
				all = append(all, c)
			} else if k.Name == "" {
				k.Name = c.Name
			}
		}
	}
	return all, append(notes, h.notes...)
}

// within calls fn and waits no longer than timeout for it: reading a file may
// hang as well as asking an engine.
func within(ctx context.Context, fn func(context.Context) ([]*Container, error)) ([]*Container, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	type answer struct {
		list []*Container
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		list, err := fn(ctx)
		done <- answer{list, err}
	}()
	select {
	case a := <-done:
		return a.list, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// cause returns what went wrong, in few words.
func cause(err error) error {
	var p *fs.PathError
	switch {
	case err == nil:
		return errors.New("it has none")
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %v", timeout)
	case errors.As(err, &p):
		return p.Err
	}
	return err
}

// readFile returns a file that is at most limit long. It does not wait for
// somebody to write to a FIFO.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|nonBlocking, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not an ordinary file", name)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is longer than %d bytes", name, limit)
	}
	return b, err
}
