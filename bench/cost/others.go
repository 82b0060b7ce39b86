//go:build linux

package main

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc: USER_HZ is 100.
const tick = 10 * time.Millisecond

// A process is what /proc says of one.
type process struct {
	parent int
	kernel bool          // one of the kernel's own threads
	used   time.Duration // by it, and by its children that have ended
}

// processes returns all that run, by their ids.
func processes() map[int]process {
	names, _ := os.ReadDir("/proc")
	all := map[int]process{}
	for _, n := range names {
		id, err := strconv.Atoi(n.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + n.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		// The name is in brackets, and may hold any character.
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(fields) < 15 {
			continue
		}
		field := func(i int) int { // as numbered in proc(5)
			v, _ := strconv.Atoi(fields[i-3])
			return v
		}
		const isKernelThread = 0x00200000 // PF_KTHREAD
		all[id] = process{field(4), field(9)&isKernelThread != 0, time.Duration(field(14)+field(15)+field(16)+field(17)) * tick}
	}
	return all
}

// usedByOthers returns the processor time between two listings of the programs that
// have nothing to do with this one. What the kernel's own threads did may be the
// work of what is measured, and does not count.
func usedByOthers(before, after map[int]process) time.Duration {
	var used time.Duration
	for id, p := range after {
		if p.kernel || descends(after, id, os.Getpid()) {
			continue
		}
		used += p.used - before[id].used
	}
	return used
}

// descends reports whether a process is another, or a descendant of it.
func descends(all map[int]process, id, from int) bool {
	for ; id != 0; id = all[id].parent {
		if id == from {
			return true
		}
	}
	return false
}
