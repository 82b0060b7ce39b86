package report

import (
	"cmp"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"whyreset/correlate"
)

// explainWidth is that of the narrowest usual terminal.
const explainWidth = 80

// familyNames say what the verdicts of a family have in common.
var familyNames = map[string]string{
	"idle-race":    "the server gave up an idle connection as a request came",
	"stale-reuse":  "a request was sent on a connection that was already dead",
	"server-abort": "the server ended an exchange that was under way",
	"client-abort": "the client ended an exchange that was under way",
	"connect":      "a connection that came to nothing",
	"protocol":     "the two ends do not speak the same protocol",
	"network":      "something between the ends, or an end that fell silent",
	"clean":        "nothing was lost (shown with --all)",
	"unknown":      "no verdict, and no accusation",
}

// ExplainAll lists the verdicts of the given families, or of all.
func ExplainAll(w io.Writer, families ...string) error {
	var b strings.Builder
	if len(families) == 0 {
		families = allFamilies()
	}
	width := 0
	for _, v := range correlate.Verdicts() {
		width = max(width, len(v.String()))
	}
	for i, family := range families {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(family)
		if name := familyNames[family]; name != "" {
			b.WriteString(": " + name)
		}
		b.WriteByte('\n')
		for _, v := range correlate.Verdicts() {
			if v.Family() == family {
				entry(&b, "  "+v.String()+strings.Repeat(" ", width-len(v.String())), WordsOf(v).Title, explainWidth)
			}
		}
	}
	if len(families) > 1 {
		b.WriteString("\nmodifiers, which qualify a verdict\n")
		for _, line := range wrap(strings.Join(modifiers(), ", "), explainWidth-2) {
			b.WriteString("  " + line + "\n")
		}
		b.WriteString("\ntimers: the idle timeouts that products are known to have\n")
		b.WriteString("reasons: why the kernel sent a reset, as --ebpf tells\n")
	}
	b.WriteString("\n“it” is the request. whyreset explain WORD says all about one.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// allFamilies returns the families in the order in which people look for them.
func allFamilies() []string {
	var all []string
	for _, f := range correlate.Families() {
		if f != "unknown" {
			all = append(all, f)
		}
	}
	return append(all, "unknown")
}

// Explain writes all that there is to say about v.
func Explain(w io.Writer, v correlate.Verdict) error {
	words := WordsOf(v)
	var b strings.Builder
	b.WriteString(v.String() + " (family " + v.Family() + ")\n")
	section(&b, "In a line (“it” is the request)", words.Title)
	section(&b, "What happened", words.Meaning)
	section(&b, "Points at", words.Blame)
	section(&b, "Rule", words.Rule)
	if says := kernelSays[v]; says != "" {
		section(&b, "With eBPF", says)
	}
	if words.Doubt != "" {
		section(&b, "Where it is weak", words.Doubt)
	}
	lines(&b, "What clients print", words.Prints)
	lines(&b, "What the server's side logs", words.Logs)
	section(&b, "Sent again silently", words.Retried)
	lines(&b, "What proxies call it", codesOf(v))
	section(&b, "Retry", words.Retry)
	section(&b, "Fix", FixOf(v))
	lines(&b, "Settings", words.Config)
	if strings.Contains(words.Fix, "{client}") {
		section(&b, "The order of idle timeouts (known ones: whyreset explain timers)", OrderingRule)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// codesOf returns what proxies call v, with the error type of RFC 9209.
func codesOf(v correlate.Verdict) []Line {
	codes := WordsOf(v).Codes.Lines()
	if status := proxyStatusOf(v.String()); status != "" {
		codes = append(codes, Line{"Proxy-Status", status + " (RFC 9209)"})
	}
	return codes
}

// section writes a heading and a paragraph, which begins with a capital letter
// and ends with a full stop whatever its text does.
func section(b *strings.Builder, heading, text string) {
	b.WriteString("\n" + heading + "\n")
	for _, line := range wrap(sentence(text), explainWidth-2) {
		b.WriteString("  " + line + "\n")
	}
}

// sentence begins text with a capital letter and ends it with a full stop.
func sentence(text string) string {
	first, n := utf8.DecodeRuneInString(text)
	if !strings.HasPrefix(text, "http") {
		text = strings.ToUpper(string(first)) + text[n:]
	}
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}

// lines writes a heading and one entry per product.
func lines(b *strings.Builder, heading string, list []Line) {
	width := 0
	for _, l := range list {
		width = max(width, utf8.RuneCountInString(l.Product))
	}
	b.WriteString("\n" + heading + "\n")
	for _, l := range list {
		entry(b, "  "+l.Product+strings.Repeat(" ", width-utf8.RuneCountInString(l.Product)), l.Text, explainWidth)
	}
}

// entry writes text to the right of name, wrapped to lines of width characters.
func entry(b *strings.Builder, name, text string, width int) {
	indent := utf8.RuneCountInString(name) + 2
	for i, line := range wrap(text, width-indent) {
		if i == 0 {
			b.WriteString(name + "  " + line + "\n")
		} else {
			b.WriteString(strings.Repeat(" ", indent) + line + "\n")
		}
	}
}

// Similar returns the ids and families that name may have been meant to be, the
// likeliest first, at most three.
func Similar(name string) []string {
	name = strings.ToLower(strings.ReplaceAll(name, "_", "-"))
	known := words()
	for _, v := range correlate.Verdicts() {
		if !slices.Contains(known, v.String()) {
			known = append(known, v.String())
		}
	}
	type guess struct {
		id   string
		cost int
	}
	var guesses []guess
	for _, id := range known {
		like := strings.ToLower(strings.ReplaceAll(id, "_", "-")) // the kernel's words are in capitals
		cost := distance(name, like)
		if len(name) >= 3 && strings.Contains(like, name) {
			cost = min(cost, 1)
		}
		if cost <= 1+len(name)/4 {
			guesses = append(guesses, guess{id, cost})
		}
	}
	slices.SortStableFunc(guesses, func(a, b guess) int { return cmp.Compare(a.cost, b.cost) })
	var ids []string
	for _, g := range guesses[:min(3, len(guesses))] {
		ids = append(ids, g.id)
	}
	return ids
}

// distance is the number of bytes to insert, delete or replace to make b of a.
func distance(a, b string) int {
	if len(a) > 64 { // no id is near
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
