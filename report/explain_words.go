package report

import (
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"whyreset/correlate"
)

// timersWord is what explain calls the table of known idle timeouts.
const timersWord = "timers"

// ExplainWord writes what a word other than a verdict or a family means: a
// modifier of a finding, "timers", a kernel's reason, or "reasons". It reports false if there is no such word.
func ExplainWord(w io.Writer, word string) (bool, error) {
	var b strings.Builder
	switch words, ok := modifierWords[word]; {
	case word == timersWord:
		explainTimers(&b)
	case word == reasonsWord:
		explainReasons(&b)
	case ok:
		b.WriteString(word + " (modifier of a verdict)\n")
		section(&b, "What it says", words.Meaning)
		section(&b, "Rule", words.Rule)
		section(&b, "What follows", words.Consequence)
	default:
		if r, known := WordsOfReason(word); known {
			return true, explainReason(w, &r)
		}
		return false, nil
	}
	_, err := io.WriteString(w, b.String())
	return true, err
}

// modifiers returns the words that qualify verdicts.
func modifiers() []string { return slices.Sorted(maps.Keys(modifierWords)) }

// A limitsTable is a part of the table of idle timeouts.
type limitsTable struct {
	heading, about string
	limits         []idleLimit
}

var limitsTables = []limitsTable{
	{"Servers, and what accepts connections in their place", "after how long without a request they close a connection", serverLimits},
	{"Clients, and proxies towards their servers", "for how long without a request they keep a connection and use it again", clientLimits},
	{"On the way", "after how long without a packet they forget a connection, without closing it", middleLimits},
}

const timersAbout = "Defaults of products, by their documentation or source. " +
	"A finding names a product where the measured time agrees with what the server says of itself (Server, Via and Keep-Alive header fields); " +
	"for a number alone it lists all that have it."

func explainTimers(b *strings.Builder) {
	b.WriteString("timers: the idle timeouts that products are known to have\n\n")
	for _, line := range wrap(timersAbout, explainWidth) {
		b.WriteString(line + "\n")
	}
	section(b, "The rule", OrderingRule)
	for _, t := range limitsTables {
		width := 0
		for _, k := range t.limits {
			width = max(width, utf8.RuneCountInString(k.product))
		}
		b.WriteString("\n" + t.heading + ":\n" + t.about + "\n")
		for _, k := range t.limits {
			entry(b, "  "+k.product+strings.Repeat(" ", width-utf8.RuneCountInString(k.product)), strings.Join(slices.DeleteFunc([]string{k.values(), k.setting, k.note}, isEmpty), "; "), explainWidth)
		}
	}
}

func isEmpty(s string) bool { return s == "" }

// values returns the defaults of k.
func (k *idleLimit) values() string {
	if len(k.defaults) == 0 {
		return "none"
	}
	var all []string
	for _, d := range k.defaults {
		all = append(all, round(d))
	}
	text := strings.Join(all, " or ")
	if k.plus > 0 {
		text += " (+ " + setting(k.plus) + ")"
	}
	return text
}

// shows says how k may be recognised.
func (k *idleLimit) shows() string {
	var parts []string
	if len(k.tokens) > 0 {
		parts = append(parts, list(k.tokens, "or"))
	}
	if k.states == alwaysStates {
		parts = append(parts, "Keep-Alive: timeout=")
	}
	return strings.Join(parts, ", ")
}

// words are all that explain knows beside verdicts.
func words() []string {
	all := append(append(correlate.Families(), modifiers()...), timersWord, reasonsWord)
	for _, r := range kernelReasons {
		all = append(all, r.Name)
	}
	return all
}
