package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"whyreset/capture"
	"whyreset/capture/container"
	"whyreset/correlate"
)

// Facts beside a live capture: evidence of what packets do not show.
type beside struct {
	src    factSource // nil if there are none
	names  *container.Names
	zones  *capture.Zones
	places map[uint64]string // their names, by namespace
	forget context.CancelFunc
}

// factsBeside has the kernel tell of the sockets in the places that are listened in,
// if it may be asked. It also says in the line on what is listened to whether it is.
// That it is not is no error: packets tell most of what there is to tell.
func (c *command) factsBeside(ctx context.Context, zones *capture.Zones) (_ *beside, with string) {
	b := &beside{zones: zones, places: c.live.spaces, forget: func() {}}
	if c.live.ebpf == ebpfNo {
		return b, ""
	}
	if err := b.open(ctx, c); err != nil {
		return b, ", without the kernel's facts: " + strings.TrimPrefix(err.Error(), "eBPF cannot be used: ")
	}
	return b, ", with the kernel's facts"
}

// open has the kernel tell.
func (b *beside) open(ctx context.Context, c *command) (err error) {
	if b.src, err = c.openFactsBeside(slices.Sorted(maps.Keys(b.places))); err != nil {
		return err
	}
	ctx, b.forget = context.WithCancel(context.WithoutCancel(ctx))
	b.names = container.Local().Names(ctx)
	return nil
}

// follow has the kernel tell of the places that have come, too.
func (b *beside) follow() error { return b.src.Follow(slices.Sorted(maps.Keys(b.places))) }

// read hands the tracker what the kernel has told. It does not wait.
func (b *beside) read(t *correlate.Tracker) error {
	if b.src == nil {
		return nil
	}
	now := time.Now()
	if err := b.src.Read(0, b.tell(t)); err != nil {
		b.src.Close()
		b.src = nil
		return fmt.Errorf("warning: going on without the kernel's facts: %w", err)
	}
	_, lost := b.src.Count()
	t.FactsUntil(capture.Time(now.Add(-factsLate).UnixNano()), lost)
	return nil
}

// last is read for when nothing more is to come.
func (b *beside) last(t *correlate.Tracker) error {
	now := time.Now()
	if err := b.read(t); err != nil || b.src == nil {
		return err
	}
	b.src.Flush(b.tell(t))
	_, lost := b.src.Count()
	t.FactsUntil(capture.Time(now.UnixNano()), lost)
	return nil
}

// tell hands a fact to the tracker, in the terms of the packets.
func (b *beside) tell(t *correlate.Tracker) func(*capture.SocketFact) {
	return func(f *capture.SocketFact) {
		b.zones.Locate(f, b.places[f.Where])
		b.names.Fill(&f.Owner)
		t.Fact(f)
	}
}

func (b *beside) close() {
	b.forget()
	if b.src != nil {
		b.src.Close()
	}
}
