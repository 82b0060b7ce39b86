package capture

import (
	"errors"
	"fmt"
	"io"
)

// What callers branch on; every error of this package that is about the contents
// of a capture wraps one of them.
var (
	// ErrTruncated means that a capture stops in the middle of a packet: it was
	// copied before it was complete, or its writer was killed. It wraps
	// io.ErrUnexpectedEOF.
	ErrTruncated = fmt.Errorf("capture is cut off: %w", io.ErrUnexpectedEOF)
	// ErrFormat means that the input is not a capture, or is damaged.
	ErrFormat = errors.New("not a readable capture")
	// ErrLinkType means that the packets of a capture begin with a header of a
	// kind that is not known here.
	ErrLinkType = errors.New("link type is not supported")
)

// A fault is one of the errors above, told in the words of the case.
type fault struct {
	kind error
	text string
}

func (f *fault) Error() string { return f.text }
func (f *fault) Unwrap() error { return f.kind }

func truncated(format string, args ...any) error {
	return &fault{ErrTruncated, fmt.Sprintf(format, args...)}
}

func malformed(format string, args ...any) error {
	return &fault{ErrFormat, fmt.Sprintf(format, args...)}
}

// A storedError is one of reading the bytes of a file, whatever is in them.
type storedError struct{ err error }

func (e *storedError) Error() string { return e.err.Error() }
func (e *storedError) Unwrap() error { return e.err }

func unsupportedLink(number uint32) error {
	text := fmt.Sprintf("link type %d is not supported", number)
	if name := linkName(number); name != "" {
		text = fmt.Sprintf("link type %d (%s) is not supported", number, name)
	}
	return &fault{ErrLinkType, text}
}
