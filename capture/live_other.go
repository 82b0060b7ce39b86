//go:build !linux

package capture

import (
	"fmt"
	"runtime"
)

// A Live captures packets as they pass, which needs Linux.
type Live struct{}

// OpenLive returns an error: AF_PACKET is Linux's.
func OpenLive(LiveConfig) (*Live, error) {
	return nil, fmt.Errorf("live capture needs Linux, and this is %s: record with tcpdump -w FILE and read that", runtime.GOOS)
}

// Next implements [Source].
func (*Live) Next(*Segment) error { return ErrGone }

// Lasting implements [Source].
func (*Live) Lasting() bool { return false }

// Files implements [Source].
func (*Live) Files() []string { return nil }

// Zones implements [Source].
func (*Live) Zones() *Zones { return nil }

// Stats implements [Source].
func (*Live) Stats() Stats { return Stats{} }

// Close implements [Source].
func (*Live) Close() error { return nil }

// Reached returns the zero Time.
func (*Live) Reached() Time { return 0 }

// Notices returns nothing.
func (*Live) Notices() []string { return nil }

// Record does nothing.
func (*Live) Record(*Recording) {}

// Stop does nothing.
func (*Live) Stop() {}
