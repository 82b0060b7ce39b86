package capture

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// LiveConfig says what a live capture listens to.
type LiveConfig struct {
	// Places are the network namespaces to listen in; none means the caller's
	// own, on all interfaces.
	Places []Place
	// Filter is compiled for the kernel, which then hands over little else, and
	// decides in the end.
	Filter Filter
	// Buffer is the size of the ring that the kernel puts packets into, in bytes,
	// for each place; 0 means DefaultBuffer.
	Buffer int
	// Snap is how many bytes of each packet are captured, from its IP header on; 0
	// means all of them. All are needed: heads may begin anywhere in a packet,
	// chunks and records of TLS have headers throughout, and offloading makes
	// packets of 64 kB and more. A snap length saves the copying where bodies are
	// large and have a Content-Length.
	Snap int
}

// A Place is a network namespace, and the interfaces in it to listen on.
type Place struct {
	// Name is put in front of the names of its interfaces; "" for a single place
	// that needs none.
	Name string
	// Interfaces are named; none of them, or "any", means all that there are and
	// those that come.
	Interfaces []string
	// Enter calls the function inside the namespace and returns its error; nil
	// means that no switch is needed. Sockets stay in the namespace that they were
	// opened in, so it is not called again.
	Enter func(func() error) error
	// Over reports whether what is watched there has ended, so that nothing more
	// comes; nil means that it does not end. It is asked ten times a second.
	Over func() bool
	// Title is what messages call it: "container web"; "" for what needs none.
	Title string
}

// String says what is listened to.
func (p Place) String() string {
	s := strings.Join(p.Interfaces, ", ")
	if len(p.Interfaces) == 0 || slices.Contains(p.Interfaces, "any") {
		s = "all interfaces"
	}
	if p.Title != "" {
		s += " of " + p.Title
	} else if p.Name != "" {
		s += " of " + p.Name
	}
	return s
}

const (
	// DefaultBuffer holds what a loaded 10 Gbit/s link brings in 50 ms; at usual
	// loads seconds.
	DefaultBuffer = 64 << 20
	// MinBuffer is the least that is accepted: two blocks.
	MinBuffer = 2 * ringBlock
	// ringBlock is the size of the ring's pieces: the kernel hands one over when it
	// is full or blockTimeout old. It must hold the largest packet: IPv6 "BIG TCP"
	// makes ones of up to 512 KiB, and half of that is what anybody sets.
	ringBlock = 512 << 10

	// blockTimeout is after how long the kernel hands over a block that is not
	// full; it may take twice as long, since its timer looks in that rhythm.
	blockTimeout = 10 * time.Millisecond
	// tickEvery is how often Next returns ErrTick.
	tickEvery = 100 * time.Millisecond
	// margin is how long ago a packet can have been stamped that has not been
	// handed over: twice the block's timeout, and what a busy machine takes on top,
	// where 118 ms were seen in all.
	margin = 150 * time.Millisecond
	// linkEvery is how often interfaces are asked whether they are there and up.
	linkEvery = time.Second
)

var (
	// ErrTick is returned by [Live.Next] instead of a segment about ten times a
	// second. It is no error: what else is to be done now and then may be done, and
	// Next goes on.
	ErrTick = errors.New("the clock of a live capture has ticked")
	// ErrPrivilege means that the process may not capture.
	ErrPrivilege = errors.New("capturing is not permitted")
	// ErrEnter means that the process may not enter a namespace, or may not see
	// whose it is.
	ErrEnter = errors.New("entering it is not permitted")
	// ErrGone means that every interface that was named is gone.
	ErrGone = errors.New("no interface is left to capture on")
)

// A RecordError is one of writing packets to a file.
type RecordError struct {
	Name string
	Err  error
}

// Error implements error.
func (e *RecordError) Error() string { return fmt.Sprintf("write %s: %v", e.Name, e.Err) }

// Unwrap returns what went wrong.
func (e *RecordError) Unwrap() error { return e.Err }
