package report

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"whyreset/correlate"
)

// minCloses is how many closes must agree before a timer is likened to a
// product's: two may be chance.
const minCloses = 3

// serverLimit returns whose idle timeout it is, as the Via or the Server header
// says; nil if they do not. Where there is a Via, the Server header is that of
// somebody behind.
func serverLimit(t *correlate.Timer) *idleLimit {
	name := t.Product
	if t.Via != "" {
		name = t.Via
	}
	if i := find(serverLimits, func(k *idleLimit) bool { return slices.Contains(k.tokens, name) }); i != nil {
		return i
	}
	// Nobody else both says what its timeout is and closes a second after it.
	if name == "" && t.Closes >= minCloses && isSecondLater(t) {
		return find(serverLimits, func(k *idleLimit) bool { return k.product == "Node" })
	}
	return nil
}

func find(limits []idleLimit, is func(*idleLimit) bool) *idleLimit {
	for i := range limits {
		if is(&limits[i]) {
			return &limits[i]
		}
	}
	return nil
}

// isSecondLater reports whether t is a second above what the server states.
func isSecondLater(t *correlate.Timer) bool {
	over := t.Timeout - t.Stated
	return t.Stated > 0 && over >= 950*time.Millisecond && over <= 1150*time.Millisecond
}

// fits reports whether a server whose setting is d closes as t says.
func (k *idleLimit) fits(t *correlate.Timer, d time.Duration) bool {
	// The median may lie a little below: time stamps are taken on the way.
	over := t.Timeout - d - k.plus
	return over >= -5*time.Millisecond && over <= max(k.slack, tight) && t.Spread <= max(k.slack, tight)
}

// name is what sets the timeout of k: uvicorn's --timeout-keep-alive.
func (k *idleLimit) name() string {
	own, _, _ := strings.Cut(k.setting, " or ") // the other is a setting of what may run it
	return k.product + "'s " + own
}

// LooksLike names the product or setting whose idle timeout t resembles, or "".
// A product is named for its number only where what the server says of itself
// agrees; else all are listed that have that number by default.
func LooksLike(t *correlate.Timer) string {
	if t == nil || t.Closes < minCloses {
		return ""
	}
	known := serverLimit(t)
	if t.Stated > 0 {
		switch over := t.Timeout - t.Stated; {
		case known != nil && known.plus > 0 && isSecondLater(t):
			return known.name() + " of " + setting(t.Stated) + " + " + setting(known.plus)
		case over < -50*time.Millisecond || over > tight:
			// It is not what it says, and a default that happens to fit explains nothing.
			return ""
		case known != nil:
			return known.name() + " of " + setting(t.Stated) + ", as its Keep-Alive header says"
		}
		return "what its Keep-Alive header says, timeout=" + setting(t.Stated)
	}
	if known != nil {
		for _, d := range known.defaults {
			if known.fits(t, d) {
				return known.name() + " of " + setting(d) + ", the default"
			}
		}
		return ""
	}
	if t.Product != "" || t.Via != "" {
		return "" // it says that it is something else
	}
	var names []string
	var value time.Duration
	for i := range serverLimits {
		k := &serverLimits[i]
		// Had it been one that says who it is, it would have said so.
		if t.Described && (len(k.tokens) > 0 || k.states == alwaysStates) {
			continue
		}
		for _, d := range k.defaults {
			if k.fits(t, d) {
				names, value = append(names, k.product), d+k.plus
				break
			}
		}
	}
	switch len(names) {
	case 0:
		return ""
	case 1:
		return "the " + setting(value) + " that " + names[0] + " has by default, or another server set so"
	}
	return "a default of " + list(names, "or") + ", or another server set so"
}

// list joins names as in a sentence.
func list(names []string, last string) string {
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " " + last + " " + names[n-1]
	}
	return strings.Join(names, "")
}

// clientLimit returns what keeps the connections of a client with this
// User-Agent; nil if that is not known.
func clientLimit(agent string) *idleLimit {
	for product := range strings.FieldsSeq(strings.ToLower(agent)) {
		name, version, _ := strings.Cut(product, "/")
		major, _, _ := strings.Cut(version, ".")
		if k := find(clientLimits, func(k *idleLimit) bool {
			return slices.Contains(k.tokens, name) || slices.Contains(k.tokens, name+"/"+major)
		}); k != nil {
			return k
		}
	}
	return nil
}

// forgets returns what on the way may have forgotten a connection that was idle
// for d: at most four, those that take longest.
func forgets(d time.Duration) []string {
	var names []string
	for _, k := range middleLimits {
		if limit := k.defaults[0]; d >= limit {
			names = append(names, k.product+" ("+round(limit)+")")
		}
	}
	return names[max(0, len(names)-4):]
}

// round formats a default as its documentation does: 350 s, 4 min, 1 h.
func round(d time.Duration) string {
	switch {
	case d >= 48*time.Hour && d%(24*time.Hour) == 0:
		return strconv.Itoa(int(d/(24*time.Hour))) + " days"
	case d >= time.Hour && d%time.Hour == 0:
		return strconv.Itoa(int(d/time.Hour)) + " h"
	case d >= 4*time.Minute && d%time.Minute == 0:
		return strconv.Itoa(int(d/time.Minute)) + " min"
	}
	return setting(d)
}

// ClientIdle returns how long clients that are rtt away from a server with timer t
// may keep idle connections: what the server promises, if that leaves a margin,
// else the next round figure that leaves a tenth. It is 0 if every idle time may
// race.
//
// A request must arrive before the server closes, and the close of a connection
// that is not used must arrive before the request is sent: each takes half of rtt.
func ClientIdle(t *correlate.Timer, rtt time.Duration) time.Duration {
	timeout := t.Timeout
	if t.Closes == 0 {
		timeout = t.Stated // nothing else is known
	}
	safe := timeout - t.Spread - rtt
	if t.Stated > 0 && t.Stated < safe-100*time.Millisecond {
		return t.Stated
	}
	limit := float64(safe) * 0.9
	if limit <= 0 {
		return 0
	}
	power := math.Pow(10, math.Floor(math.Log10(limit)))
	for _, step := range []float64{9, 8, 7, 6, 5, 4, 3, 2.5, 2, 1.5, 1} {
		if step*power <= limit {
			return time.Duration(math.Round(step * power))
		}
	}
	return time.Duration(power)
}
