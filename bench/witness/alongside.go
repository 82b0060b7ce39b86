//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A column is what was found in one way of watching, live, beside the captures.
type column struct {
	way   string
	all   []outcome
	pairs []pair
}

// A pair is what a capture and a live run say of the same attempt at a request, or
// of the same connection; nil where one of them has nothing to say and nobody misses
// it.
type pair struct {
	where         string // the case and the end
	packets, live *outcome
}

// beside judges what was found live where a capture was made, if there is anything.
func (t *tally) beside(capture string, h *header, truths []*truth, tries []attempt, packets []outcome) error {
	for _, w := range ways {
		file := w.beside(capture)
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		findings, err := readFindings(file, b)
		if err != nil {
			return err
		}
		live := judge(findings, file, h, truths, tries, false)
		end, _, _ := strings.Cut(filepath.Base(capture), ".")
		t.column(w.name, live, pairs(h.Case+" "+end, packets, live))
	}
	return nil
}

func (t *tally) column(way string, live []outcome, with []pair) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.columns, func(c *column) bool { return c.way == way })
	if i < 0 {
		i = len(t.columns)
		t.columns = append(t.columns, &column{way: way})
	}
	c := t.columns[i]
	c.all = append(c.all, live...)
	c.pairs = append(c.pairs, with...)
}

// pairs puts together what both say of the same. Attempts at one request have no
// names: they are taken in the order of how well they were judged, so that a
// difference in number shows, and one in order does not.
func pairs(where string, packets, live []outcome) []pair {
	type both [2][]*outcome
	by := map[string]*both{}
	var order []string
	for i, list := range [][]outcome{packets, live} {
		for j := range list {
			o := &list[j]
			if by[o.who] == nil {
				by[o.who] = new(both)
				order = append(order, o.who)
			}
			by[o.who][i] = append(by[o.who][i], o)
		}
	}
	var all []pair
	for _, who := range order {
		b := by[who]
		for _, list := range b {
			slices.SortStableFunc(list, func(x, y *outcome) int {
				return cmp.Or(cmp.Compare(x.kind, y.kind), strings.Compare(x.verdict, y.verdict), strings.Compare(x.sure, y.sure))
			})
		}
		for i := range max(len(b[0]), len(b[1])) {
			p := pair{where: where}
			if i < len(b[0]) {
				p.packets = b[0][i]
			}
			if i < len(b[1]) {
				p.live = b[1][i]
			}
			all = append(all, p)
		}
	}
	return all
}

// A standing is how what was found live compares.
type standing int

const (
	same       standing = iota
	otherRight          // another verdict, and right too
	surer               // the same, with more certainty
	decided             // right where the capture is not
	better              // nothing false any more, and not right yet
	lessSure            // the same, with less certainty
	worse
)

func (s standing) String() string {
	return [...]string{"the same", "another verdict that is right too", "the same, surer", "right only live", "less wrong live", "the same, less sure", "WORSE live"}[s]
}

// standing compares the two.
func (p *pair) standing() standing {
	rank := func(o *outcome) int {
		switch {
		case o == nil:
			return 1 // nothing was to be said
		case o.kind == right:
			return 0
		case o.kind == undecided && o.named:
			return 1
		case o.kind == undecided:
			return 2
		}
		return 3
	}
	sure := func(o *outcome) int { return slices.Index([]string{"weak", "strong", "proven"}, o.sure) }
	a, b := rank(p.packets), rank(p.live)
	switch {
	case b > a:
		return worse
	case b < a && b == 0:
		return decided
	case b < a:
		return better
	case p.packets == nil || p.live == nil:
		return same
	case p.packets.verdict != p.live.verdict && b == 0:
		return otherRight
	case p.packets.verdict == p.live.verdict && sure(p.live) > sure(p.packets):
		return surer
	case p.packets.verdict == p.live.verdict && sure(p.live) < sure(p.packets):
		return lessSure
	}
	return same
}

// short names what o says for the table of differences.
func (o *outcome) short() string {
	if o == nil || o.verdict == "" {
		return "(nothing)"
	}
	return strings.TrimSpace(o.verdict + " " + o.sure)
}

// report prints what the live runs said otherwise, by what was provoked.
func (c *column) report(w io.Writer, markdown bool) {
	type line struct {
		standing      standing
		cause         string
		packets, live string
	}
	count := map[line]int{}
	total := map[standing]int{}
	for i := range c.pairs {
		p := &c.pairs[i]
		s := p.standing()
		total[s]++
		if s == same {
			continue
		}
		of := p.packets
		if of == nil {
			of = p.live
		}
		count[line{s, cmp.Or(of.cause, "(nothing)"), p.packets.short(), p.live.short()}]++
	}
	fmt.Fprintf(w, "\nWhat whyreset %s, live, said otherwise than the captures of the same ends (%d requests and connections;", c.way, len(c.pairs))
	sep := " "
	for s := same; s <= worse; s++ {
		if total[s] > 0 {
			fmt.Fprintf(w, "%s%s %d", sep, s, total[s])
			sep = ", "
		}
	}
	fmt.Fprint(w, ")\n\n")
	if markdown && len(count) > 0 {
		fmt.Fprint(w, "| | provoked | from packets | live | times |\n| --- | --- | --- | --- | ---: |\n")
	}
	for _, l := range slices.SortedFunc(maps.Keys(count), func(a, b line) int {
		return cmp.Or(cmp.Compare(b.standing, a.standing), strings.Compare(a.cause, b.cause), count[b]-count[a], strings.Compare(a.packets+a.live, b.packets+b.live))
	}) {
		if markdown {
			fmt.Fprintf(w, "| %s | %s | %s | %s | %d |\n", l.standing, l.cause, l.packets, l.live, count[l])
		} else {
			fmt.Fprintf(w, "  %-34s %-18s %s -> %s: %d\n", l.standing, l.cause, l.packets, l.live, count[l])
		}
	}
}

// misses prints each pair in which the live run is worse, with where to look.
func (c *column) misses(w io.Writer, markdown bool) {
	if markdown {
		return
	}
	const most = 4 // of one kind in one case
	seen := map[string]int{}
	for i := range c.pairs {
		p := &c.pairs[i]
		if p.standing() != worse {
			continue
		}
		k := p.where + p.packets.short() + p.live.short()
		if seen[k]++; seen[k] > most {
			continue
		}
		for name, o := range map[string]*outcome{"packets": p.packets, "live": p.live} {
			if o == nil {
				fmt.Fprintf(w, "\n%s: %s say nothing\n", p.where, name)
				continue
			}
			fmt.Fprintf(w, "\n%s: %s: %s: provoked %q, expected %v, got %q: %s\n  %s\n  %s\n  %s frame %d\n",
				p.where, name, o.who, cmp.Or(o.cause, "nothing"), o.want, cmp.Or(o.verdict, "nothing"), o.kind, cmp.Or(o.said, "-"), cmp.Or(o.logs, "-"), o.file, o.frame)
		}
	}
}

// worse counts the pairs in which the live run is worse.
func (c *column) worse() int {
	n := 0
	for i := range c.pairs {
		if c.pairs[i].standing() == worse {
			n++
		}
	}
	return n
}
