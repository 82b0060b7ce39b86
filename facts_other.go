//go:build !linux

package main

import (
	"context"
	"errors"

	"whyreset/capture"
)

var errNoFacts = errors.New("eBPF needs Linux")

// openFactsAlone returns an error.
func (c *command) openFactsAlone(context.Context) (factSource, func() string, error) {
	return nil, nil, errNoFacts
}

// openFactsBeside returns an error.
func openFactsBeside(capture.Filter, []uint64) (factSource, error) { return nil, errNoFacts }
