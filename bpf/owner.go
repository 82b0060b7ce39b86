//go:build linux

package bpf

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"whyreset/capture"
	"whyreset/capture/container"
)

// owners find out more about the owners of sockets than the kernel's programs can
// tell.
type owners struct {
	groups  groups
	sockets map[uint64][]int // processes that have sockets open, by inode number
	scanned time.Time        // when that was looked up
	rest    time.Duration    // for how long it is not looked up again
}

const (
	// maxOpenFiles bounds how many files of processes are looked at in one go.
	maxOpenFiles = 1 << 18
	// leastRest is for how long at least the look at all open files serves.
	leastRest = time.Second
	// restFactor has those looks take one hundredth of a processor at most.
	restFactor = 100
)

// find fills in the process that has a socket open, if there is exactly one. Where
// several share it, they share a name too, or nothing is said.
func (o *owners) find(inode uint64, p *capture.Process) {
	pids, ok := o.sockets[inode]
	if now := time.Now(); !ok && now.Sub(o.scanned) >= o.rest {
		o.sockets = openSockets()
		o.scanned = time.Now()
		o.rest = max(leastRest, restFactor*o.scanned.Sub(now))
		pids = o.sockets[inode]
	}
	name := ""
	for i, pid := range pids {
		// It may have been closed since then, and the number be another's.
		if !hasSocket(pid, inode) {
			return
		}
		n := processName(pid)
		if i > 0 && n != name {
			return
		}
		name = n
	}
	if p.Command = name; len(pids) == 1 {
		p.PID = pids[0]
	}
}

// openSockets looks up who has which sockets open.
func openSockets() map[uint64][]int {
	found := map[uint64][]int{}
	files := 0
	for _, pid := range processes() {
		dir := fmt.Sprintf("/proc/%d/fd/", pid)
		eachSocket(dir, func(inode uint64) bool {
			if have := found[inode]; len(have) == 0 || have[len(have)-1] != pid {
				found[inode] = append(have, pid)
			}
			files++
			return files < maxOpenFiles
		})
		if files >= maxOpenFiles {
			return nil // who else has a socket is not known
		}
	}
	return found
}

// hasSocket reports whether a process has a socket open now.
func hasSocket(pid int, inode uint64) (has bool) {
	eachSocket(fmt.Sprintf("/proc/%d/fd/", pid), func(n uint64) bool {
		has = n == inode
		return !has
	})
	return has
}

// eachSocket calls fn for the sockets among the open files of a process, until it
// returns false.
func eachSocket(dir string, fn func(inode uint64) bool) {
	d, err := os.Open(dir)
	if err != nil {
		return // it has ended, or is another's
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(1024)
		for _, name := range names {
			link, err := os.Readlink(dir + name)
			if err != nil {
				continue
			}
			if text, ok := strings.CutPrefix(link, "socket:["); ok {
				inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64)
				if err == nil && !fn(inode) {
					return
				}
			}
		}
		if err != nil {
			return
		}
	}
}

// processes returns the numbers of all processes.
func processes() (pids []int) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// processName returns a process's name as the kernel keeps it, "" if there is no
// such process.
func processName(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return string(bytes.TrimSuffix(b, []byte("\n")))
}

// contain fills in which container a process is of: its cgroup tells, or, where
// engines still use the old hierarchies or the cgroup is gone, the process does.
func (o *owners) contain(p *capture.Process) {
	if p.Container = container.IDIn("0::" + p.Cgroup); p.Container != "" || p.PID == 0 {
		return
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID))
	if err != nil || processName(p.PID) != p.Command {
		return // it has ended
	}
	p.Container = container.IDIn(string(text))
}

// groups are the paths of cgroups, by the inode numbers of their directories.
type groups struct {
	root   string // where the hierarchy is mounted
	paths  map[uint64]string
	walked time.Time
}

// maxGroups bounds the cgroups that are remembered.
const maxGroups = 1 << 16

// path returns the path of a cgroup below the root of the hierarchy, "" if it is the
// root itself or not known, as one that was there only briefly.
func (g *groups) path(id uint64) string {
	if id == 0 {
		return ""
	}
	path, ok := g.paths[id]
	if !ok && time.Since(g.walked) >= leastRest {
		g.walk()
		path = g.paths[id]
	}
	return path
}

// walk looks at all cgroups there are. Those that are gone are kept: facts of their
// sockets may still come.
func (g *groups) walk() {
	if g.root == "" {
		g.root = groupRoot()
	}
	if g.paths == nil || len(g.paths) > maxGroups {
		g.paths = map[uint64]string{}
	}
	if g.root != "" {
		filepath.WalkDir(g.root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // gone meanwhile
			}
			var st unix.Stat_t
			if unix.Stat(path, &st) == nil {
				g.paths[st.Ino] = strings.TrimPrefix(path, g.root)
			}
			return nil
		})
	}
	g.walked = time.Now()
}

// groupRoot returns where the cgroup2 hierarchy is mounted, "" if it is not: the
// fifth field of /proc/self/mountinfo, for the type behind the dash.
func groupRoot() string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		fields, kind, _ := strings.Cut(line, " - ")
		if f := strings.Fields(fields); strings.HasPrefix(kind, "cgroup2 ") && len(f) > 4 {
			return f[4]
		}
	}
	return ""
}

// initialPIDNamespace is the inode number of the first namespace of processes
// (PROC_PID_INIT_INO): what the kernel's programs see are numbers in it.
const initialPIDNamespace = 0xEFFFFFFC

// pidNamespace returns the namespace that numbers of processes are to be translated
// to: this process's own; 0 if that is the first.
func pidNamespace() uint32 {
	var st unix.Stat_t
	if unix.Stat("/proc/self/ns/pid", &st) != nil || st.Ino == initialPIDNamespace {
		return 0
	}
	return uint32(st.Ino)
}
