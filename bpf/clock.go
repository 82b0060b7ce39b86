//go:build linux

package bpf

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"whyreset/capture"
)

// resample is after how long the difference of the clocks is taken anew: somebody
// may set the one, and the other stands still while the system sleeps.
const resample = time.Second

// A clock converts times of the kernel's programs, which are CLOCK_MONOTONIC
// (bpf_ktime_get_ns), to those of packets, which are CLOCK_REALTIME. It may be used
// by several goroutines at once.
type clock struct {
	mu      sync.Mutex
	offset  int64     // nanoseconds from the one to the other
	sampled time.Time // when that was taken; zero before
}

// convert returns the time of a packet that was seen at a time of the kernel's.
func (c *clock) convert(ktime uint64) capture.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.sampled.IsZero() || now.Sub(c.sampled) >= resample {
		c.sample()
		c.sampled = now
	}
	return capture.Time(int64(ktime) + c.offset)
}

// sample takes the difference of the clocks. Between two readings the task may be
// interrupted for long, so the closest of several pairs counts.
func (c *clock) sample() {
	best := int64(1<<63 - 1)
	for range 5 {
		before, real, after := now(unix.CLOCK_MONOTONIC), now(unix.CLOCK_REALTIME), now(unix.CLOCK_MONOTONIC)
		if after-before < best {
			best = after - before
			c.offset = real - before - (after-before)/2
		}
	}
}

// now returns what one of the clocks says, in nanoseconds. Linux refuses neither.
func now(clock int32) int64 {
	var t unix.Timespec
	unix.ClockGettime(clock, &t)
	return t.Nano()
}

// tick returns how long a tick of the kernel is, in which it counts when a socket
// last sent and received (tcp_jiffies32): the resolution of the clocks that only
// move with it (KTIME_LOW_RES). The kernel says its HZ nowhere else.
func tick() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &t); err != nil {
		return 0, err
	}
	return time.Duration(t.Nano()), nil
}
