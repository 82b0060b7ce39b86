package capture

import (
	"errors"
	"io"
)

// An input is a window on a stream of bytes. It reads in large pieces into a
// buffer that it reuses, so that framing a packet is arithmetic on two indexes.
//
// A large file that is not compressed is mapped instead; then buf is all of it,
// and nothing is copied or overwritten.
type input struct {
	src  io.Reader
	buf  []byte
	r, w int   // buf[r:w] has been read from src and not been consumed
	base int64 // position of buf[0] in the stream
	err  error // what ended src
	all  bool  // buf is the whole stream, and must not be written to
}

func newInput(src io.Reader, size int) *input {
	return &input{src: src, buf: make([]byte, size)}
}

func mappedInput(data []byte) *input {
	return &input{buf: data, w: len(data), err: io.EOF, all: true}
}

// offset returns the position of the next byte in the stream.
func (in *input) offset() int64 { return in.base + int64(in.r) }

// peek returns the next n bytes without consuming them. If the stream ends
// before, it returns what is left and io.EOF if that is nothing, and otherwise
// io.ErrUnexpectedEOF; or what is left and the stream's error. The bytes are
// overwritten by the next call to peek.
func (in *input) peek(n int) ([]byte, error) {
	if in.w-in.r < n {
		if err := in.fill(n); err != nil {
			return in.buf[in.r:in.w], err
		}
	}
	return in.buf[in.r : in.r+n], nil
}

// fill reads until n bytes are in the window.
func (in *input) fill(n int) error {
	if in.all {
		if in.r < in.w {
			return io.ErrUnexpectedEOF
		}
		return io.EOF
	}
	if in.r > 0 {
		copy(in.buf, in.buf[in.r:in.w])
		in.base += int64(in.r)
		in.w -= in.r
		in.r = 0
	}
	for empty := 0; in.w < n; {
		if in.err != nil {
			if in.err == io.EOF && in.w > 0 {
				return io.ErrUnexpectedEOF
			}
			return in.err
		}
		if in.w == len(in.buf) {
			// The buffer grows with what has arrived, never with what a length
			// field promises.
			in.buf = append(in.buf, make([]byte, len(in.buf))...)
		}
		// One read may bring less than n, and more: a pipe is read as it flows.
		k, err := in.src.Read(in.buf[in.w:])
		in.w += k
		if k > 0 {
			empty = 0
		} else if empty++; empty == 100 && err == nil {
			err = io.ErrNoProgress
		}
		in.err = err
	}
	return nil
}

// skip consumes n bytes, of which fewer may be in the window.
func (in *input) skip(n int64) error {
	for n > 0 {
		if in.r == in.w {
			if err := in.fill(1); err != nil {
				if errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
		}
		k := min(n, int64(in.w-in.r))
		in.r += int(k)
		n -= k
	}
	return nil
}
