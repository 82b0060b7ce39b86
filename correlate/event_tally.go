package correlate

import (
	"cmp"
	"slices"

	"whyreset/capture"
)

// A Tally counts events by what they were and whose socket it was.
type Tally struct {
	Events      uint64
	First, Last capture.Time // of the events; zero without any
	counts      map[tallyKey]*EventCount
	more        EventCount // beyond maxTally
}

// maxTally bounds what is counted apart: programs choose their names.
const maxTally = 4096

type tallyKey struct {
	kind                     capture.FactKind
	reason                   string
	command, container, name string
}

// An EventCount is how many events of one kind a program's sockets had.
type EventCount struct {
	Kind     capture.FactKind // 0 for those that are not counted apart
	Reason   string
	Owner    capture.Process // Command, Container and Name only
	Events   uint64
	Requests uint64 // those that show what begins like a request
	Safe     uint64 // those after which it may likely be sent again
	Unread   uint64 // bytes
}

// Add counts e.
func (t *Tally) Add(e *Event) {
	if t.counts == nil {
		t.counts = map[tallyKey]*EventCount{}
	}
	if t.Events++; t.Events == 1 || e.Time < t.First {
		t.First = e.Time
	}
	t.Last = max(t.Last, e.Time)
	key := tallyKey{e.Kind, e.Reason, e.Owner.Command, e.Owner.Container, e.Owner.Name}
	n := t.counts[key]
	if n == nil && len(t.counts) >= maxTally {
		n = &t.more
	} else if n == nil {
		n = &EventCount{Kind: e.Kind, Reason: e.Reason, Owner: capture.Process{Command: key.command, Container: key.container, Name: key.name}}
		t.counts[key] = n
	}
	n.Events++
	n.Unread += uint64(e.Unread)
	if e.Method != "" {
		n.Requests++
	}
	if e.Retry == RetryLikelySafe {
		n.Safe++
	}
}

// Counts returns what was counted, the most first.
func (t *Tally) Counts() []EventCount {
	all := make([]EventCount, 0, len(t.counts)+1)
	for _, n := range t.counts {
		all = append(all, *n)
	}
	slices.SortFunc(all, func(a, b EventCount) int {
		return cmp.Or(cmp.Compare(b.Events, a.Events), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Reason, b.Reason),
			cmp.Compare(a.Owner.Command, b.Owner.Command), cmp.Compare(a.Owner.Container, b.Owner.Container), cmp.Compare(a.Owner.Name, b.Owner.Name))
	})
	if t.more.Events > 0 {
		all = append(all, t.more)
	}
	return all
}
