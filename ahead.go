package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"whyreset/capture"
)

// batchSize is how many segments are handed over at once: enough that the
// hand-over costs nothing, few enough to stay in the processor's cache.
const batchSize = 1024

// A batch is a run of segments that was read ahead.
type batch struct {
	segs    []capture.Segment
	stats   capture.Stats // after the last of them
	touched byte          // so that touch is not for nothing
	err     error         // what came after the last of them; nil if more follow
}

// readAhead decodes src in a goroutine of its own while the tracker is busy. The
// segments come in the same order, so the findings are the same. The payloads of
// src must last. The goroutine ends with the batch that has an error, or when ctx
// is done.
func readAhead(ctx context.Context, src capture.Source) (full <-chan *batch, empty chan<- *batch) {
	f, e := make(chan *batch, 3), make(chan *batch, 3)
	for range cap(e) {
		e <- &batch{segs: make([]capture.Segment, batchSize)}
	}
	go func() {
		defer close(f)
		debug.SetPanicOnFault(true) // of this goroutine
		for {
			var b *batch
			select {
			case b = <-e:
			case <-ctx.Done():
				return
			}
			b.fill(src)
			last := b.err != nil
			f <- b
			if last {
				return
			}
		}
	}()
	return f, e
}

func (b *batch) fill(src capture.Source) {
	b.segs = b.segs[:batchSize]
	n := 0
	defer func() {
		b.segs = b.segs[:n]
		b.stats = src.Stats()
	}()
	defer catchFault(&b.err)
	for ; n < batchSize; n++ {
		if b.err = src.Next(&b.segs[n]); b.err != nil {
			return
		}
		b.touched += touch(b.segs[n].Payload)
	}
}

// touch looks at the beginning of a payload, which brings it into the processor's
// cache before the tracker needs it. Large ones are left alone: their pages need
// not even be mapped.
func touch(payload []byte) (sum byte) {
	if len(payload) > 4096 {
		return 0
	}
	for i := 0; i < min(len(payload), 256); i += 64 {
		sum += payload[i]
	}
	return sum
}

// catchFault turns the fault that reading a mapped file raises when somebody
// truncates the file meanwhile into an error. It needs debug.SetPanicOnFault.
func catchFault(err *error) {
	switch r := recover().(type) {
	case nil:
	case interface {
		error
		Addr() uintptr
	}:
		*err = hinted{fmt.Errorf("read capture: %w", errShrunk), "copy the file and read the copy"}
	default:
		panic(r)
	}
}

var errShrunk = errors.New("the file was cut off while it was being read")

// runAhead is run for a source whose payloads last.
func (j *job) runAhead(ctx context.Context, src capture.Source) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer catchFault(&err)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	full, empty := readAhead(ctx, src)
	for b := range full {
		for i := range b.segs {
			j.tracker.Add(&b.segs[i])
		}
		if j.err != nil || b.err == io.EOF {
			return nil
		}
		if b.err != nil {
			return b.err
		}
		j.lookUp(func() capture.Stats { return b.stats })
		empty <- b
	}
	return ctx.Err()
}
