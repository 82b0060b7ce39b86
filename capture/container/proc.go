package container

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// belongs reports whether a process is one of the container with an id: its
// control group says so, or files of the container are mounted where it sees them.
func (h *Host) belongs(pid int, id string) bool {
	if slices.ContainsFunc(h.groups(pid), func(group string) bool {
		return group == id || isID(id) && strings.HasSuffix(group, id)
	}) {
		return true
	}
	// The host sees mounts that name the container too, but not as their root.
	for _, root := range h.mounted(pid) {
		if slices.Contains(strings.Split(root, "/"), id) {
			return true
		}
	}
	return false
}

// Group returns the path of a container's control group below the root of the
// version 2 hierarchy, "" if its process is in none that is its own.
func (h *Host) Group(c *Container) string {
	for line := range strings.Lines(h.process(c.PID, "cgroup", 64<<10)) {
		path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		// The process may be below it, where the container has groups of its own.
		if i := strings.Index(path, c.ID); ok && i >= 0 && c.ID != "" {
			end, _, _ := strings.Cut(path[i:], "/")
			return path[:i] + end
		}
	}
	return ""
}

// groups returns the names on the way to a process's control groups, without
// ".scope": docker-ID, libpod-ID, crio-ID, cri-containerd-ID, or the id itself
// (cgroups(7); version 1 and 2). What watches a container is not part of it.
func (h *Host) groups(pid int) []string { return groupsIn(h.process(pid, "cgroup", 64<<10)) }

func groupsIn(text string) (names []string) {
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) < 3 {
			continue
		}
		for name := range strings.SplitSeq(parts[2], "/") {
			name = strings.TrimSuffix(name, ".scope")
			// systemd's way in Kubernetes: slice:prefix:id.
			name = name[strings.LastIndexByte(name, ':')+1:]
			if name != "" && !strings.Contains(name, "conmon") && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// mounted returns the roots of what a process has mounted: the fourth field of
// /proc/PID/mountinfo.
func (h *Host) mounted(pid int) []string { return rootsIn(h.process(pid, "mountinfo", 1<<20)) }

func rootsIn(text string) (roots []string) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 4 {
			roots = append(roots, f[3])
		}
	}
	return roots
}

// mountedID returns the id of the container whose files a process has mounted as
// their root, "" if there is none.
func (h *Host) mountedID(pid int) string {
	for _, root := range h.mounted(pid) {
		for part := range strings.SplitSeq(root, "/") {
			if isID(part) && strings.Contains(root, "containers/") {
				return part
			}
		}
	}
	return ""
}

// process returns the beginning of a file about a process, "" if there is none.
func (h *Host) process(pid int, name string, limit int64) string {
	f, err := os.Open(fmt.Sprintf("%s/%d/%s", h.Proc, pid, name))
	if err != nil {
		return ""
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, limit)) // what was read before the process ended has to do
	return string(text)
}

// grouped returns what looks like containers in the control groups of all
// processes, and if there is nothing, in what they have mounted.
func (h *Host) grouped(ctx context.Context) ([]*Container, error) {
	pids, err := h.processes()
	if err != nil {
		return nil, err
	}
	found := map[string]*Container{}
	began := map[string]uint64{}
	note := func(pid int, id string) {
		start := h.began(pid)
		if c := found[id]; c == nil {
			found[id] = &Container{ID: id, PID: pid, State: "running"}
		} else if start < began[id] || start == began[id] && pid < c.PID {
			c.PID = pid
		} else {
			return
		}
		began[id] = start
	}
	for _, look := range []func(pid int){
		func(pid int) {
			for _, group := range h.groups(pid) {
				if len(group) >= 64 && isID(group[len(group)-64:]) {
					note(pid, group[len(group)-64:])
				}
			}
		},
		func(pid int) {
			if id := h.mountedID(pid); id != "" {
				note(pid, id)
			}
		},
	} {
		for _, pid := range pids {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			look(pid)
		}
		if len(found) > 0 {
			break
		}
	}
	all := make([]*Container, 0, len(found))
	for _, c := range found {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *Container) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

// processes returns the numbers of all processes, in their order.
func (h *Host) processes() (pids []int, err error) {
	dir, err := os.Open(h.Proc)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

// began returns when a process began, in ticks since the system did: the 22nd
// field of /proc/PID/stat.
func (h *Host) began(pid int) uint64 { return beganIn(h.process(pid, "stat", 4<<10)) }

func beganIn(text string) uint64 {
	f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(f) < 20 {
		return 0
	}
	n, _ := strconv.ParseUint(f[19], 10, 64)
	return n
}
