//go:build linux

package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"text/tabwriter"
)

// Results are the runs with one size of response and number of connections.
type results struct {
	watchers []*watcher
	bare     []sample
	samples  map[string][]sample
	above    map[string][]float64 // share above the runs with nothing around each, such as 0.02
	programs map[string]perRequest
}

// A perRequest is what programs did while so many requests were served.
type perRequest struct {
	programs []program
	requests float64
}

func newResults(watchers []*watcher) *results {
	return &results{watchers: watchers, samples: map[string][]sample{}, above: map[string][]float64{}, programs: map[string]perRequest{}}
}

// add takes in a run of w, and the runs with nothing right before and after it.
func (r *results) add(w *watcher, s, before, after sample) {
	r.samples[w.name] = append(r.samples[w.name], s)
	r.above[w.name] = append(r.above[w.name], 2*s.perRequest/(before.perRequest+after.perRequest)-1)
}

// print prints a row for each thing compared.
func (r *results) print(w io.Writer, markdown bool) error {
	rows := [][]string{{"attached", "CPU a request", "above nothing", "95 % of it", "in the quietest quarter", "its own process", "requests/s", "missed", "sent up a request", "the kernel's account, a packet or call"}}
	rows = append(rows, append([]string{"nothing"}, figures(r.bare, "", "", "", "")...))
	for _, v := range r.watchers {
		s := r.samples[v.name]
		low, high := interval(r.above[v.name])
		rows = append(rows, append([]string{v.name}, figures(s,
			fmt.Sprintf("%+.1f %%", 100*median(r.above[v.name])), fmt.Sprintf("%+.1f … %+.1f", 100*low, 100*high),
			fmt.Sprintf("%+.1f %%", 100*(quarter(s)/quarter(r.bare)-1)), r.programs[v.name].String())...))
	}
	if markdown {
		for i, row := range rows {
			fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
			if i == 0 {
				fmt.Fprintf(w, "|%s\n", " --- |"+strings.Repeat(" ---: |", len(row)-1))
			}
		}
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

// figures returns the columns of some runs, with the given ones in their places.
func figures(all []sample, above, within, quiet, kernel string) []string {
	of := func(f func(sample) float64) float64 {
		v := make([]float64, len(all))
		for i, s := range all {
			v[i] = f(s)
		}
		return median(v)
	}
	var sum counted
	requests := 0.0
	own, missed, sent := "", "", ""
	for _, s := range all {
		requests += s.requests
		if s.counted == nil {
			continue
		}
		sum.missed += s.counted.missed
		sum.sentUp += s.counted.sentUp
		own = fmt.Sprintf("%.2f µs", of(func(s sample) float64 { return s.own })/1e3)
		missed = fmt.Sprint(sum.missed)
		if sum.sentUp >= 0 {
			sent = fmt.Sprintf("%.5f", float64(sum.sentUp)/requests)
		}
	}
	return []string{fmt.Sprintf("%.2f µs", of(func(s sample) float64 { return s.perRequest })/1e3), above, within, quiet,
		own, fmt.Sprintf("%.0f", of(func(s sample) float64 { return s.rate })), missed, sent, kernel}
}

// String says how long each program took, as the kernel counts it.
func (p perRequest) String() string {
	var all []string
	for _, g := range p.programs {
		text := fmt.Sprintf("%s %.0f ns × %.2f a request", g.name, float64(g.ns)/float64(g.runs), float64(g.runs)/p.requests)
		if g.recursion > 0 {
			text += fmt.Sprintf(", %d not run", g.recursion)
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// quarter returns what a quarter of the runs stayed below. What others on the same
// hardware do only makes runs longer, so there is less noise down there.
func quarter(all []sample) float64 {
	v := make([]float64, len(all))
	for i, s := range all {
		v[i] = s.perRequest
	}
	slices.Sort(v)
	return v[len(v)/4]
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	if n == 0 {
		return 0
	}
	return (v[(n-1)/2] + v[n/2]) / 2
}

// interval returns the bounds between which the median lies with 95 %, by drawing
// as many samples as there are from them, again and again (bootstrap).
func interval(v []float64) (low, high float64) {
	const draws = 10_000
	random := rand.New(rand.NewPCG(1, 2)) // the same runs give the same interval
	medians := make([]float64, draws)
	drawn := make([]float64, len(v))
	for i := range medians {
		for j := range drawn {
			drawn[j] = v[random.IntN(len(v))]
		}
		medians[i] = median(drawn)
	}
	slices.Sort(medians)
	return medians[draws/40], medians[draws-1-draws/40]
}
