//go:build !linux

package main

import (
	"context"
	"errors"
)

// record is for Linux.
func (c *command) record(context.Context) int {
	c.complain(hinted{errors.New("--ebpf: this is not Linux, which has eBPF"), "it reads captures on any system"})
	return exitError
}
