package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"whyreset/bpf"
	"whyreset/capture"
	"whyreset/capture/container"
)

// kernelFacts are a factSource.
type kernelFacts struct {
	*bpf.Facts
	config bpf.FactsConfig
}

// Follow implements factSource.
func (k kernelFacts) Follow(spaces []uint64) error {
	k.config.Namespaces = spaces
	return k.SetFilter(k.config)
}

// Count implements factSource.
func (k kernelFacts) Count() (facts, lost uint64) {
	s := k.Stats()
	return s.Facts, s.Lost
}

// openFactsAlone has the kernel tell of the sockets that the flags name. It returns
// what says that all of what they name has ended, "" as long as that is not so.
//
// --container and --netns say where sockets are, --pid and --cgroup whose they are.
// Of several of a kind one is enough; where both kinds are given, both must hold.
func (c *command) openFactsAlone(ctx context.Context) (factSource, func() string, error) {
	cfg := bpf.FactsConfig{Filter: c.filter}
	var ends []func() bool
	host := container.Local()
	named := slices.Concat(c.live.spots, c.live.groups)
	for _, s := range named {
		switch s.kind {
		case "cgroup":
			group, err := openCgroup(s.name)
			if err != nil {
				return nil, nil, err
			}
			cfg.Cgroups = append(cfg.Cgroups, group.id)
			ends = append(ends, group.ended)
			continue
		case "pid":
			ended, err := watchProcess(s.pid)
			if err != nil {
				return nil, nil, err
			}
			cfg.Processes = append(cfg.Processes, descendants(s.pid)...)
			ends = append(ends, ended)
			continue
		}
		f, err := find(ctx, host, s)
		if err != nil {
			return nil, nil, err
		}
		// It stays open until the process ends: whether what it names has ended is
		// asked until then.
		ends = append(ends, f.space.Ended)
		switch {
		case s.kind == "netns" || !f.space.Ours():
			// Resets that no socket sends, for a connection that is gone, are of a
			// namespace, and nobody's.
			cfg.Namespaces = append(cfg.Namespaces, f.space.Inode())
		default: // a container in the host's network: its processes
			if group, err := openCgroup(f.group); f.group != "" && err == nil {
				cfg.Cgroups = append(cfg.Cgroups, group.id)
			} else {
				cfg.Processes = append(cfg.Processes, descendants(f.pid)...)
			}
		}
	}
	facts, err := bpf.OpenFacts(cfg)
	if err != nil {
		return nil, nil, c.lacksEBPF(err)
	}
	return kernelFacts{facts, cfg}, haveEnded(named, ends), nil
}

// haveEnded returns what says that all of what was named has ended, "" as long as that
// is not so.
func haveEnded(named []spot, ends []func() bool) func() string {
	return func() string {
		if len(ends) == 0 || slices.ContainsFunc(ends, func(ended func() bool) bool { return !ended() }) {
			return ""
		}
		return strings.Join(spotTitles(named), " and ") + " has ended"
	}
}

// openFactsBeside has the kernel tell of the sockets in some namespaces.
func openFactsBeside(filter capture.Filter, spaces []uint64) (factSource, error) {
	cfg := bpf.FactsConfig{Filter: filter, Namespaces: spaces, Closes: true}
	facts, err := bpf.OpenFacts(cfg)
	if err != nil {
		return nil, err
	}
	return kernelFacts{facts, cfg}, nil
}

// watchProcess returns what says whether a process has ended. Its network namespace,
// which may be forbidden ground, does not matter here.
func watchProcess(pid int) (ended func() bool, err error) {
	fd, err := unix.PidfdOpen(pid, 0) // Linux 5.3, and facts need 5.8; it ends with this process
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("there is no process %d", pid)
	} else if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	ended = func() bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return err == nil && n > 0
	}
	if ended() {
		return nil, fmt.Errorf("process %d has ended", pid)
	}
	return ended, nil
}

// descendants returns a process and those that it began, and they, as far as they
// run now: the workers of a server that forks. Of those that come later the kernel
// would have to be told.
func descendants(pid int) []int {
	children := map[int][]int{}
	list, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range list {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// proc(5): the number, the command in parentheses, the state, the parent.
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil || len(f) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(f[1]); err == nil {
			children[parent] = append(children[parent], child)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// A cgroup is a control group of the cgroup2 hierarchy.
type cgroup struct {
	dir string
	id  uint64 // its inode number, which is what the kernel calls it
}

// openCgroups finds several control groups. It returns what the kernel calls them, and
// what says that all of them have ended.
func openCgroups(named []spot) (ids []uint64, over func() string, err error) {
	var ends []func() bool
	for _, s := range named {
		g, err := openCgroup(s.name)
		if err != nil {
			return nil, nil, err
		}
		ids = append(ids, g.id)
		ends = append(ends, g.ended)
	}
	return ids, haveEnded(named, ends), nil
}

// ended reports whether the group is gone.
func (g *cgroup) ended() bool {
	var st unix.Stat_t
	return unix.Stat(g.dir, &st) != nil || st.Ino != g.id
}

// cgroupRoot returns where the cgroup2 hierarchy is mounted: the fifth field of
// /proc/self/mountinfo, for the type behind the dash. Beside version 1 it is not at
// /sys/fs/cgroup.
func cgroupRoot() (string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		fields, kind, _ := strings.Cut(line, " - ")
		if f := strings.Fields(fields); strings.HasPrefix(kind, "cgroup2 ") && len(f) > 4 {
			return f[4], nil
		}
	}
	return "", fmt.Errorf("control groups are of version 1 here, which sockets do not know: --pid and --container do without")
}

// openCgroup finds a control group: by its directory, by its path below the root,
// or by its own name, such as nginx.service.
func openCgroup(name string) (*cgroup, error) {
	root, err := cgroupRoot()
	if err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", name, err)
	}
	clean := filepath.Clean(name)
	var found []string
	for _, dir := range []string{clean, filepath.Join(root, clean)} {
		var fs unix.Statfs_t
		if filepath.IsAbs(dir) && unix.Statfs(dir, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			found = []string{dir}
			break
		}
	}
	if found == nil && !strings.Contains(clean, "/") {
		found = cgroupsNamed(root, clean)
	}
	switch {
	case len(found) == 0:
		return nil, fmt.Errorf("there is no cgroup %s below %s", name, root)
	case len(found) > 1:
		return nil, fmt.Errorf("cgroup %s may be any of %s", name, strings.Join(found[:min(len(found), 10)], ", "))
	}
	var st unix.Stat_t
	if err := unix.Stat(found[0], &st); err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, fmt.Errorf("cgroup %s: that is a file of a cgroup", name)
	}
	return &cgroup{found[0], st.Ino}, nil
}

// cgroupsNamed returns the groups below a directory that have a name.
func cgroupsNamed(root, name string) (found []string) {
	filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == name {
			found = append(found, path)
		}
		return nil // what cannot be read is gone
	})
	return found
}
