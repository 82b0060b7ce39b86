//go:build unix

package capture

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// An interruptible reads from a file that is not ours, such as standard input,
// so that Close unblocks a Read without closing the file. Deadlines would do the
// same, but need the file to be non-blocking, and that is a property that a pipe
// or a terminal shares with other processes.
type interruptible struct {
	file *os.File
	r, w *os.File       // a pipe; a byte in it wakes Read
	fds  [2]unix.PollFd // of file and r
}

func newInterruptible(file *os.File) (*interruptible, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	i := &interruptible{file: file, r: r, w: w}
	i.fds = [2]unix.PollFd{{Fd: int32(file.Fd()), Events: unix.POLLIN}, {Fd: int32(r.Fd()), Events: unix.POLLIN}}
	return i, nil
}

// Read implements io.Reader.
func (i *interruptible) Read(b []byte) (int, error) {
	for {
		_, err := unix.Poll(i.fds[:], -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("poll", err)
		case i.fds[1].Revents != 0:
			return 0, net.ErrClosed
		case i.fds[0].Revents != 0:
			return i.file.Read(b)
		}
	}
}

// Close unblocks Read. The file stays open.
func (i *interruptible) Close() error {
	// The reading end stays open for the Read that may be under way; both go
	// when they are collected.
	_, err := i.w.Write([]byte{0})
	return err
}
