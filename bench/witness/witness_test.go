//go:build linux

package main

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
)

// Every cause that a case provokes is in the table, every line of the table can
// be reached, and case names are unique and fit into a path.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for i, e := range expectations {
		if e.why == "" {
			t.Errorf("%s %s: no reason", e.cause, e.fact)
		}
		if slices.ContainsFunc(expectations[:i], func(o expectation) bool { return o.cause == e.cause && o.holds == nil }) {
			t.Errorf("%s %s: never reached", e.cause, e.fact)
		}
	}
	for _, c := range cases() {
		if seen[c.name] || strings.ContainsAny(c.name, "/ ?") {
			t.Errorf("case %q", c.name)
		}
		seen[c.name] = true
	}
}

func TestStatuses(t *testing.T) {
	stream := "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\nHTTP/1.0 404 Not Found\r\n\r\n"
	if got := statusesOf([]byte(stream)); !slices.Equal(got, []int{200, 404}) {
		t.Errorf("statuses %v", got)
	}
}

// What is expected of attempts: the application saw no more than it logged.
func TestExpected(t *testing.T) {
	h := &header{Earliest: 1, Latest: 1.008}
	for _, test := range []struct {
		t        truth
		attempts int
		want     string
	}{
		{truth{Cause: "idle-timer", Idle: 0.9}, 1, race},
		{truth{Cause: "idle-timer", Idle: 1.5}, 1, "late-reuse"},
		{truth{Cause: "idle-timer", Idle: 1.5, Began: 1}, 1, ""},
		// Lost once, repeated, answered.
		{truth{Cause: "idle-timer", Idle: 0.9, OK: true, Began: 1, Status: 200}, 2, race},
		{truth{Cause: "kill", Began: 1, Status: 200}, 1, cutShort},
	} {
		if got, _ := test.t.expected(h, test.attempts); !slices.Equal(got, strings.Fields(test.want)) {
			t.Errorf("%+v, %d attempts: %q, want %q", test.t, test.attempts, got, test.want)
		}
	}
}

func TestList(t *testing.T) {
	var b bytes.Buffer
	if err := bench(context.Background(), []string{"-list", "-only", "^race-go-5ms$"}, &b); err != nil || b.String() != "race-go-5ms\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}

// A pattern that nothing matches must not pass for a run in which all was well.
func TestOnlyWithoutAMatch(t *testing.T) {
	for _, args := range [][]string{{"-only", "^zebra$"}, {"-only", "^zebra$", "-whyreset", "true", "-judge", "../../testdata/witness"}} {
		if err := bench(context.Background(), args, new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "zebra") {
			t.Errorf("%q: %v", args, err)
		}
	}
}
