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

// Facts beside a live capture are evidence of what packets do not show. Those that are
// nil are none.
type beside struct {
	src    factSource // nil after an error
	names  *container.Names
	zones  *capture.Zones
	places map[uint64]string // their names, by namespace
	forget context.CancelFunc

	silences silences
	since    capture.Time // when they began; 0 once the tracker knows
}

// factsBeside has the kernel tell of the sockets in some namespaces, if it may be
// asked; places are what the capture calls those. It also says, in words for the line
// on what is listened to, whether it is asked. That it is not is no error: packets
// tell most of what there is to tell.
func factsBeside(filter capture.Filter, places map[uint64]string, zones *capture.Zones) (_ *beside, with string) {
	b, err := openBeside(filter, places, zones)
	if err != nil {
		return nil, ", without the kernel's facts: " + strings.TrimPrefix(err.Error(), "eBPF cannot be used: ")
	}
	return b, ", with the kernel's facts"
}

// openBeside is factsBeside where that may not fail.
func openBeside(filter capture.Filter, places map[uint64]string, zones *capture.Zones) (*beside, error) {
	src, err := openFactsBeside(filter, slices.Sorted(maps.Keys(places)))
	if err != nil {
		return nil, err
	}
	b := &beside{src: src, zones: zones, places: places, since: capture.Time(time.Now().UnixNano())}
	b.silences.zones, b.silences.whole = zones, src.Whole()
	var ctx context.Context
	ctx, b.forget = context.WithCancel(context.Background())
	b.names = container.Local().Names(ctx)
	return b, nil
}

// follow has the kernel tell of the places that have come, too.
func (b *beside) follow() error { return b.src.Follow(slices.Sorted(maps.Keys(b.places))) }

// look looks into the sockets of places, those that are told of, so that more can be
// concluded from what is not told. It takes the privileges that listening there does.
func (b *beside) look(places ...capture.Place) {
	if b == nil || !b.silences.whole {
		return
	}
	for _, p := range places {
		b.silences.look(p)
	}
}

// unsent is what the tracker asks of resets that were not told of, nil for nothing.
func (b *beside) unsent() func(*correlate.Silence) bool {
	if b == nil {
		return nil
	}
	return b.silences.unsent
}

// read hands the tracker what the kernel has told. It does not wait.
func (b *beside) read(t *correlate.Tracker) error {
	if b == nil || b.src == nil {
		return nil
	}
	now := time.Now()
	if b.since != 0 {
		t.FactsUntil(b.since, 0)
		b.since = 0
	}
	b.silences.sweep(now)
	if err := b.src.Read(0, b.tell(t)); err != nil {
		b.src.Close()
		b.src = nil
		return fmt.Errorf("warning: going on without the kernel's facts: %w", err)
	}
	until := capture.Time(now.Add(-factsLate).UnixNano())
	if held := b.src.Held(); held != 0 {
		until = min(until, held)
	}
	_, lost := b.src.Count()
	t.FactsLost(capture.Time(time.Now().UnixNano()), lost)
	t.FactsUntil(until, lost)
	return nil
}

// last is read for when nothing more is to come.
func (b *beside) last(t *correlate.Tracker) error {
	now := time.Now()
	if err := b.read(t); err != nil || b == nil || b.src == nil {
		return err
	}
	b.src.Flush(b.tell(t))
	_, lost := b.src.Count()
	t.FactsLost(capture.Time(time.Now().UnixNano()), lost)
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

// namesOf returns what names containers, nil if nothing tells of any.
func (b *beside) namesOf() *container.Names {
	if b == nil {
		return nil
	}
	return b.names
}

func (b *beside) close() {
	if b == nil {
		return
	}
	b.forget()
	b.silences.close()
	if b.src != nil {
		b.src.Close()
	}
}
