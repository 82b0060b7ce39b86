//go:build linux

package main

import (
	"time"

	"whyreset/bench/trial"
)

// idleTimeout is the server's, in every run.
const idleTimeout = 300 * time.Millisecond

// A format is how a run's captures are kept. They differ so that the reader of
// the captures meets them all.
type format int

const (
	plain    format = iota
	pcapng          // converted by editcap
	gzipped         //
	anyIface        // captured on all interfaces: Linux cooked, link type 276
)

// A recording is one run: a client, a server, and the way between them.
type recording struct {
	name   string
	delay  time.Duration // one way; 0 for loopback
	format format

	mode     trial.Mode
	method   string
	clients  int
	n        int // requests of each client
	schedule trial.Schedule

	faults bool // instead of the schedule: commit every fault
	forget bool // instead of the schedule: a box on the way forgets connections

	least int  // so many requests must have been lost, or the run shows nothing
	each  int  // and so many by a bare reset, and so many by the end of the stream
	none  bool // not one may be lost, or fail
}

// runs returns every run.
//
// A request is lost if it is on its way when the server closes. Across a wire
// the server's timer starts one delay before the client has the response, and
// the request takes another: the dangerous pauses are those between the timeout
// less two delays, and the timeout. On loopback they are a few dozen
// microseconds around the timeout, which a seeking schedule finds.
func runs() []recording {
	const T, ms = idleTimeout, time.Millisecond
	around := func(delay time.Duration) trial.Schedule {
		return trial.Schedule{Pause: T - delay, Jitter: delay * 9 / 4}
	}
	seek := trial.Schedule{Pause: T, Jitter: 2 * ms, Seek: true}
	original := trial.Schedule{Pause: 200 * ms}
	return []recording{
		{name: "faulty-lo", mode: trial.Faulty, method: "POST", clients: 4, n: 14, schedule: seek, least: 5, each: 4},
		{name: "faulty-500us", format: gzipped, delay: ms / 2, mode: trial.Faulty, method: "POST", clients: 4, n: 12, schedule: trial.Schedule{Pause: T - ms/2, Jitter: ms, Seek: true}, least: 5},
		{name: "faulty-2ms", delay: 2 * ms, format: gzipped, mode: trial.Faulty, method: "POST", clients: 4, n: 12, schedule: around(2 * ms), least: 5},
		{name: "faulty-5ms", delay: 5 * ms, format: pcapng, mode: trial.Faulty, method: "POST", clients: 4, n: 12, schedule: around(5 * ms), least: 5},
		{name: "faulty-20ms", delay: 20 * ms, mode: trial.Faulty, method: "POST", clients: 4, n: 12, schedule: around(20 * ms), least: 5},
		{name: "faulty-50ms", delay: 50 * ms, format: anyIface, mode: trial.Faulty, method: "POST", clients: 4, n: 12, schedule: around(50 * ms), least: 5},

		{name: "get-lo", mode: trial.Faulty, method: "GET", clients: 4, n: 10, schedule: seek, least: 5, each: 3},
		{name: "get-20ms", format: gzipped, delay: 20 * ms, mode: trial.Faulty, method: "GET", clients: 4, n: 10, schedule: around(20 * ms), least: 5},

		// The program as it was. With 50 ms one way its pause is the very beginning
		// of the dangerous time.
		{name: "original-lo", mode: trial.Faulty, method: "POST", clients: 1, n: 30, schedule: original},
		{name: "original-50ms", delay: 50 * ms, mode: trial.Faulty, method: "POST", clients: 1, n: 40, schedule: original, least: 3},

		{name: "no-keepalives-lo", mode: trial.NoKeepAlives, method: "POST", clients: 4, n: 6, schedule: seek, none: true},
		{name: "no-keepalives-20ms", delay: 20 * ms, format: gzipped, mode: trial.NoKeepAlives, method: "POST", clients: 4, n: 8, schedule: around(20 * ms), none: true},
		{name: "short-idle-lo", mode: trial.ShortIdle, method: "POST", clients: 4, n: 6, schedule: seek, none: true},
		{name: "short-idle-20ms", delay: 20 * ms, format: gzipped, mode: trial.ShortIdle, method: "POST", clients: 4, n: 8, schedule: around(20 * ms), none: true},
		// Pauses on both sides of the client's own limit, so that it also reuses.
		{name: "short-idle-reuse", delay: 5 * ms, mode: trial.ShortIdle, method: "POST", clients: 4, n: 9, schedule: trial.Schedule{Pause: 100 * ms, Jitter: 60 * ms}, none: true},

		{name: "faults-lo", faults: true, least: 20},
		{name: "faults-1ms", delay: ms, format: gzipped, faults: true, least: 20},
		{name: "faults-20ms", format: gzipped, delay: 20 * ms, faults: true, least: 20},
		{name: "forgotten-20ms", delay: 20 * ms, forget: true, least: 5},
	}
}
