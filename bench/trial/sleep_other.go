//go:build !linux

package trial

import "time"

func SleepUntil(t time.Time) { time.Sleep(time.Until(t)) }
