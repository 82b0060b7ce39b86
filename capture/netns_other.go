//go:build !linux

package capture

import "errors"

// A Namespace is a network namespace, which only Linux has.
type Namespace struct{}

var errNoNamespaces = errors.New("network namespaces need Linux")

// OpenNamespace returns an error.
func OpenNamespace(string) (*Namespace, error) { return nil, errNoNamespaces }

// OpenProcessNamespace returns an error.
func OpenProcessNamespace(int) (*Namespace, error) { return nil, errNoNamespaces }

// Ours returns true.
func (*Namespace) Ours() bool { return true }

// Same returns true.
func (*Namespace) Same(*Namespace) bool { return true }

// Inode returns 0.
func (*Namespace) Inode() uint64 { return 0 }

// Enter calls fn.
func (*Namespace) Enter(fn func() error) error { return fn() }

// Ended returns false.
func (*Namespace) Ended() bool { return false }

// Close does nothing.
func (*Namespace) Close() {}

// NewNamespace returns an error.
func NewNamespace() (*Namespace, error) { return nil, errNoNamespaces }
