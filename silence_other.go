//go:build !linux

package main

import (
	"time"

	"whyreset/capture"
	"whyreset/correlate"
)

// Silences are of Linux.
type silences struct {
	zones *capture.Zones
	whole bool
}

func (s *silences) look(capture.Place)             {}
func (s *silences) sweep(time.Time)                {}
func (s *silences) unsent(*correlate.Silence) bool { return false }
func (s *silences) close()                         {}
