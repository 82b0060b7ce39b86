package trial

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// SleepUntil sleeps to within some tens of microseconds, on a thread of its own:
// Go's timers have a granularity of a millisecond in an idle program, and the
// races that are looked for are narrower than that.
func SleepUntil(t time.Time) {
	if d := time.Until(t) - 5*time.Millisecond; d > 0 {
		time.Sleep(d)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	for {
		d := time.Until(t)
		if d <= 0 {
			return
		}
		ts := unix.NsecToTimespec(d.Nanoseconds())
		unix.Nanosleep(&ts, nil) // may be interrupted
	}
}
