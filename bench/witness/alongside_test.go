//go:build linux

package main

import (
	"bytes"
	"strings"
	"testing"
)

// Worse is whatever the captures decide and the live run does not, or says wrongly.
func TestStanding(t *testing.T) {
	says := func(k kind, verdict, sure string) *outcome { return &outcome{kind: k, verdict: verdict, sure: sure} }
	open := says(undecided, "ambiguous", "")
	named := &outcome{kind: undecided, verdict: "ambiguous", named: true}
	for _, c := range []struct {
		packets, live *outcome
		want          standing
	}{
		{says(right, "idle-race", "strong"), says(right, "idle-race", "strong"), same},
		{says(right, "idle-race", "strong"), says(right, "idle-race", "proven"), surer},
		{says(right, "idle-race", "proven"), says(right, "idle-race", "strong"), lessSure},
		{says(right, "idle-race", "proven"), says(right, "idle-race-unread", "proven"), otherRight},
		{named, says(right, "idle-race", "proven"), decided},
		{open, named, better},
		{named, open, worse},
		{says(right, "idle-race", "strong"), named, worse},
		{open, says(wrong, "idle-race", "strong"), worse},
		{says(right, "idle-race", "strong"), says(unreported, "", ""), worse},
		{says(right, "idle-race", "strong"), nil, worse},
		{nil, says(invented, "idle-race", "strong"), worse},
		{says(falseLost, "idle-race", "strong"), nil, better},
		{says(wrong, "idle-race", "strong"), says(wrong, "late-reuse", "strong"), same},
	} {
		if got := (&pair{packets: c.packets, live: c.live}).standing(); got != c.want {
			t.Errorf("%s -> %s: %v, want %v", c.packets.short(), c.live.short(), got, c.want)
		}
	}
}

// Attempts at one request are compared in the order of what they are worth.
func TestPairs(t *testing.T) {
	packets := []outcome{{who: "a-1", kind: undecided, verdict: "ambiguous"}, {who: "a-1", kind: right, verdict: "idle-race"}, {who: "b-1", kind: right, verdict: "late-reuse"}}
	live := []outcome{{who: "b-1", kind: right, verdict: "late-reuse"}, {who: "a-1", kind: right, verdict: "idle-race"}, {who: "a-1", kind: right, verdict: "idle-race-unread"}}
	c := column{way: "--ebpf", all: live, pairs: pairs("case client", packets, live)}
	if len(c.pairs) != 3 || c.worse() != 0 {
		t.Errorf("%+v", c.pairs)
	}
	var b bytes.Buffer
	c.report(&b, false)
	for _, want := range []string{"3 requests and connections; the same 2, right only live 1", "ambiguous -> idle-race-unread: 1"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
}
