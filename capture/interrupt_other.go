//go:build !unix

package capture

import (
	"errors"
	"io"
	"os"
)

// newInterruptible needs poll. Without it, Close does not unblock a read of
// standard input.
func newInterruptible(*os.File) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}
