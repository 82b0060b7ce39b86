//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// A tally collects the outcomes of all cases.
type tally struct {
	mu             sync.Mutex
	all, hurt      []outcome
	truths, losses int
	cases          int
	columns        []*column // of what ran live, beside the captures
	skipped        []string
	took           time.Duration
}

func (t *tally) add(all, hurt []outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cases++
	t.all = append(t.all, all...)
	t.hurt = append(t.hurt, hurt...)
}

func (t *tally) requests(n, lost int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.truths += n
	t.losses += lost
}

func (t *tally) skip(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.skipped = append(t.skipped, name)
}

// accuses reports whether a verdict claims what was not so: one of the given
// family, where neither the table nor its kin allows it.
func accuses(o outcome, family string) bool {
	return o.kind > undecided && slices.Contains(strings.Fields(family), o.verdict) &&
		!slices.ContainsFunc(o.want, func(v string) bool { return slices.Contains(strings.Fields(family), v) })
}

// figures are the numbers to reach.
type figures struct {
	lost, right, undecided, named, wrong, unreported int
	falseLost, falseRace, falseInjected, invent      int
	hurt, hurtWrong                                  int
}

func (t *tally) figures() figures {
	var f figures
	for _, o := range t.all {
		switch o.kind {
		case right:
			f.right++
		case undecided:
			f.undecided++
			if o.named {
				f.named++
			}
		case wrong:
			f.wrong++
		case unreported:
			f.unreported++
		case falseLost:
			f.falseLost++
		case invented:
			f.invent++
		}
		if accuses(o, race+"keepalive-limit-race") {
			f.falseRace++
		}
		if accuses(o, "injected-reset") {
			f.falseInjected++
		}
	}
	f.lost = f.right + f.undecided + f.wrong + f.unreported
	for _, o := range t.hurt {
		f.hurt++
		if o.kind > undecided {
			f.hurtWrong++
		}
	}
	return f
}

// aboutTable says how the table of expectations is to be read.
const aboutTable = "Where programs cannot tell what came first on the wire, several verdicts count as right: all idle races for kill, reload and limit, " +
	"where a server closed as a request came; see bench/witness/expect.go."

// report prints the confusion table and the figures, and every miss. The error
// says which figures were missed.
func (t *tally) report(w io.Writer, markdown bool) error {
	t.misses(w, markdown)
	for _, c := range t.columns {
		c.misses(w, markdown)
	}
	fmt.Fprintln(w)
	t.confusion(w, markdown)
	for _, c := range t.columns {
		c.report(w, markdown)
	}
	f := t.figures()
	share := 100.0 // of those on which the program decided, or should have
	if n := f.lost - f.named; n > 0 {
		share = 100 * float64(f.right) / float64(n)
	}
	ofAll := 100 * float64(f.right) / float64(max(f.lost, 1))
	fmt.Fprint(w, "\n"+aboutTable+"\n")
	fmt.Fprintf(w, "\n%d cases, %d requests, of which %d were lost by the programs' logs; seen from both ends, with silent retries and connections without a request:\n\n", t.cases, t.truths, t.losses)
	var missed []error
	row := func(what, value, goal string, ok bool) {
		verdict := "reached"
		if !ok {
			verdict = "MISSED"
			missed = append(missed, fmt.Errorf("%s: %s, want %s", what, value, goal))
		}
		if goal == "" {
			verdict = ""
		}
		if markdown {
			fmt.Fprintf(w, "| %s | %s | %s | %s |\n", what, value, goal, verdict)
		} else {
			fmt.Fprintf(w, "  %-52s %12s  %-8s %s\n", what, value, goal, verdict)
		}
	}
	if markdown {
		fmt.Fprint(w, "| figure | measured | goal | |\n| --- | ---: | ---: | --- |\n")
	}
	row("lost requests and connections, per capture", fmt.Sprint(f.lost), "", true)
	row("left ambiguous, the right verdict among those named", fmt.Sprint(f.named), "", true)
	row("of the others, with the right verdict", fmt.Sprintf("%d (%.2f %%)", f.right, share), "99 %", share >= 99)
	row("the same as a share of all, the ambiguous included", fmt.Sprintf("%.2f %%", ofAll), "", true)
	row("unknown, incomplete, or without the right candidate", fmt.Sprint(f.undecided-f.named), "", true)
	row("with a wrong verdict", fmt.Sprint(f.wrong), "", true)
	row("not reported", fmt.Sprint(f.unreported), "", true)
	row("answered requests reported lost", fmt.Sprint(f.falseLost), "0", f.falseLost == 0)
	row("false idle-race", fmt.Sprint(f.falseRace), "0", f.falseRace == 0)
	row("false injected-reset", fmt.Sprint(f.falseInjected), "0", f.falseInjected == 0)
	row("findings on what nobody sent", fmt.Sprint(f.invent), "0", f.invent == 0)
	row("findings on damaged copies", fmt.Sprint(f.hurt), "", true)
	row("wrong accusations on damaged copies", fmt.Sprint(f.hurtWrong), "0", f.hurtWrong == 0)
	for _, c := range t.columns {
		row("worse in whyreset "+c.way+", live", fmt.Sprint(c.worse()), "0", c.worse() == 0)
	}
	if len(t.skipped) > 0 {
		fmt.Fprintf(w, "\n%d cases were SKIPPED for want of a program: %s\n", len(t.skipped), strings.Join(t.skipped, ", "))
	}
	fmt.Fprintf(w, "\n%.0f s\n", t.took.Seconds())
	return errors.Join(missed...)
}

// confusion prints how often which cause got which verdict, from the captures and
// beside them.
func (t *tally) confusion(w io.Writer, markdown bool) {
	columns := []*column{{way: "captures", all: t.all}}
	columns = append(columns, t.columns...)
	rows := map[string]bool{}
	for _, c := range columns {
		for _, o := range c.all {
			rows[o.cause] = true
		}
	}
	order := append(causes(), "")
	names := slices.SortedFunc(maps.Keys(rows), func(a, b string) int {
		return cmp.Compare(slices.Index(order, a), slices.Index(order, b))
	})
	if markdown {
		fmt.Fprint(w, "| what was provoked |")
		for _, c := range columns {
			fmt.Fprintf(w, " verdicts of %s |", c.way)
		}
		fmt.Fprintf(w, "\n| --- |%s\n", strings.Repeat(" --- |", len(columns)))
	}
	for _, cause := range names {
		name := cmp.Or(cause, "(nothing)")
		if markdown {
			fmt.Fprintf(w, "| %s |", name)
		}
		for i, c := range columns {
			text := c.verdicts(cause, markdown)
			switch {
			case markdown:
				fmt.Fprintf(w, " %s |", text)
			case i == 0:
				fmt.Fprintf(w, "%-18s %s\n", name, text)
			default:
				fmt.Fprintf(w, "%18s %s\n", c.way+":", text)
			}
		}
		if markdown {
			fmt.Fprintln(w)
		}
	}
	if markdown {
		fmt.Fprint(w, "\nIn bold: wrong, left undecided, or missing.\n")
	}
}

// verdicts returns how often which one was given for a cause, the most frequent
// first.
func (c *column) verdicts(cause string, markdown bool) string {
	count := map[string]int{}
	ok := map[string]bool{}
	for _, o := range c.all {
		if o.cause == cause {
			v := cmp.Or(o.verdict, "(not reported)")
			count[v]++
			ok[v] = ok[v] || o.kind == right
		}
	}
	var cells []string
	for _, v := range slices.SortedFunc(maps.Keys(count), func(a, b string) int {
		return cmp.Or(count[b]-count[a], strings.Compare(a, b))
	}) {
		text := fmt.Sprintf("%s %d", v, count[v])
		switch {
		case ok[v]:
		case markdown:
			text = "**" + text + "**"
		default:
			text = "!" + text
		}
		cells = append(cells, text)
	}
	return strings.Join(cells, ", ")
}

// misses prints each outcome that is not right, with where to look.
func (t *tally) misses(w io.Writer, markdown bool) {
	if markdown {
		return
	}
	const most = 6 // of one kind in one case
	seen := map[string]int{}
	for _, list := range [][]outcome{t.all, t.hurt} {
		for _, o := range list {
			if o.kind == right || o.kind == undecided && len(o.want) == 0 {
				continue
			}
			if list != nil && len(t.hurt) > 0 && o.kind == undecided && strings.Count(filepath.Base(o.file), ".") > 1 {
				continue // in a damaged copy
			}
			k := fmt.Sprint(filepath.Dir(o.file), o.kind, o.cause, o.verdict)
			if seen[k]++; seen[k] > most {
				continue
			}
			fmt.Fprintf(w, "\n%s frame %d: %s\n  provoked %q, expected %v, got %q: %s\n  %s\n  %s\n",
				o.file, o.frame, o.who, cmp.Or(o.cause, "nothing"), o.want, cmp.Or(o.verdict, "nothing"), o.kind, cmp.Or(o.said, "-"), cmp.Or(o.logs, "-"))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(seen)) {
		if n := seen[k]; n > most {
			fmt.Fprintf(w, "... and %d more like %s\n", n-most, k)
		}
	}
}
