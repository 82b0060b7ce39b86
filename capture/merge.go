package capture

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
)

// A merged source yields the segments of several files in the order of time.
type merged struct {
	files  []*file
	zones  *Zones
	heap   []*head // of the files that are not at their ends; the earliest is first
	errs   []error // what ended each file, io.EOF excepted
	used   bool    // the segment of heap[0] has been yielded
	closed atomic.Bool
}

// A head is the next segment of a file.
type head struct {
	file *file
	seg  Segment // only its time is set if the file is parked
	// A parked file has been looked into for the time of its first packet and then
	// put back to its start, without buffers: of a thousand rotated files a few
	// are read at any time.
	parked bool
}

func (h *head) before(g *head) bool {
	if h.seg.Time != g.seg.Time {
		return h.seg.Time < g.seg.Time
	}
	return h.file.index < g.file.index
}

// add adds a file that has been started.
func (m *merged) add(f *file) {
	h := &head{file: f}
	switch err := f.read(); {
	case err != nil:
		m.ended(f, err)
		return
	case f.park():
		h.parked = true
		h.seg.Time = f.pkt.time
	default: // a pipe
		f.held = true
		if err := f.Next(&h.seg); err != nil {
			m.ended(f, err)
			return
		}
	}
	m.heap = append(m.heap, h)
	for i := len(m.heap) - 1; i > 0; {
		parent := (i - 1) / 2
		if !m.heap[i].before(m.heap[parent]) {
			break
		}
		m.heap[i], m.heap[parent] = m.heap[parent], m.heap[i]
		i = parent
	}
}

// ended records what ended a file.
func (m *merged) ended(f *file, err error) {
	if err != io.EOF {
		m.errs[f.index] = err
	}
}

// Next implements [Source].
func (m *merged) Next(s *Segment) error {
	for len(m.heap) > 0 {
		if m.closed.Load() {
			return net.ErrClosed
		}
		h := m.heap[0]
		if !m.used && !h.parked {
			*s = h.seg
			m.used = true
			return nil
		}
		m.used = false
		err := h.advance()
		if m.closed.Load() {
			return net.ErrClosed
		}
		if err != nil {
			m.ended(h.file, err)
			last := len(m.heap) - 1
			m.heap[0], m.heap[last] = m.heap[last], nil
			m.heap = m.heap[:last]
		}
		m.sink()
	}
	if m.closed.Load() {
		return net.ErrClosed
	}
	if err := errors.Join(m.errs...); err != nil {
		return err
	}
	return io.EOF
}

// advance moves to the file's next segment.
func (h *head) advance() error {
	if h.parked {
		h.parked = false
		if err := h.file.start(bufferOneOfIt); err != nil {
			return err
		}
	}
	err := h.file.Next(&h.seg)
	if err != nil {
		h.file.release()
	}
	return err
}

// sink restores the order of the heap after its first head has changed.
func (m *merged) sink() {
	for i := 0; ; {
		least, child := i, 2*i+1
		for c := child; c < len(m.heap) && c <= child+1; c++ {
			if m.heap[c].before(m.heap[least]) {
				least = c
			}
		}
		if least == i {
			return
		}
		m.heap[i], m.heap[least] = m.heap[least], m.heap[i]
		i = least
	}
}

// Lasting implements [Source].
func (m *merged) Lasting() bool { return false }

// Zones implements [Source].
func (m *merged) Zones() *Zones { return m.zones }

// Files implements [Source].
func (m *merged) Files() []string {
	names := make([]string, len(m.files))
	for i, f := range m.files {
		names[i] = f.name
	}
	return names
}

// Stats implements [Source].
func (m *merged) Stats() Stats {
	var sum Stats
	sizeKnown := true
	for _, f := range m.files {
		st := f.Stats()
		if st.Packets > 0 {
			if sum.Packets == 0 || st.First < sum.First {
				sum.First = st.First
			}
			if sum.Packets == 0 || st.Last > sum.Last {
				sum.Last = st.Last
			}
		}
		sum.Packets += st.Packets
		sum.Bytes += st.Bytes
		sum.Segments += st.Segments
		sum.Filtered += st.Filtered
		sum.Other += st.Other
		sum.Fragments += st.Fragments
		sum.Undecodable += st.Undecodable
		if sum.FirstBad == "" {
			sum.FirstBad = st.FirstBad
		}
		sum.Missed += st.Missed
		sum.End = max(sum.End, st.End)
		sum.FileBytes += st.FileBytes
		sum.FileSize += st.FileSize
		sizeKnown = sizeKnown && st.FileSize > 0
	}
	if !sizeKnown {
		sum.FileSize = 0
	}
	return sum
}

// Close implements [Source].
func (m *merged) Close() error {
	m.closed.Store(true)
	var errs []error
	for _, f := range m.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
