//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
)

// A program is what the kernel counted of one eBPF program (bpf_prog_info).
type program struct {
	name string
	runs uint64
	ns   uint64 // of all runs
	// recursion is how often the kernel did not run it because it was running.
	recursion uint64
}

// account runs everything once more while the kernel accounts for the programs'
// time, as kernel.bpf_stats_enabled has it do. That costs two readings of the
// clock a run, so none of the other runs have it.
func (b *bench) account(ctx context.Context, r *results, connections, size string) error {
	stop, err := ebpf.EnableStats(bpfStatsRunTime)
	if err != nil {
		return fmt.Errorf("have the kernel account for programs: %w", err)
	}
	defer stop.Close()
	b.accounting = true
	defer func() { b.accounting = false }()
	for _, w := range b.watchers {
		s, err := b.measure(ctx, w, connections, size)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		r.programs[w.name] = perRequest{s.programs, s.requests}
	}
	return nil
}

// bpfStatsRunTime is BPF_STATS_RUN_TIME.
const bpfStatsRunTime = 0

// programsBefore returns the ids of the eBPF programs that there are.
func programsBefore(b *bench) (map[ebpf.ProgramID]bool, error) {
	known := map[ebpf.ProgramID]bool{}
	if !b.accounting {
		return known, nil
	}
	return known, eachProgram(func(id ebpf.ProgramID) error {
		known[id] = true
		return nil
	})
}

// programsSince returns what the kernel has counted of those that came since.
func programsSince(b *bench, known map[ebpf.ProgramID]bool) ([]program, error) {
	if !b.accounting {
		return nil, nil
	}
	var all []program
	return all, eachProgram(func(id ebpf.ProgramID) error {
		if known[id] {
			return nil
		}
		p, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // somebody else's, and gone
		}
		if err != nil {
			return err
		}
		defer p.Close()
		info, err := p.Info()
		if err != nil {
			return err
		}
		stats, err := p.Stats()
		if err != nil {
			return err
		}
		if stats.RunCount > 0 {
			all = append(all, program{name: info.Name, runs: stats.RunCount, ns: uint64(stats.Runtime), recursion: stats.RecursionMisses})
		}
		return nil
	})
}

func eachProgram(f func(ebpf.ProgramID) error) error {
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list programs: %w", err)
		}
		id = next
		if err := f(id); err != nil {
			return err
		}
	}
}
