package report

import (
	"io"
	"strings"

	"whyreset/correlate"
)

// WriteDocs writes all that explain can say, as Markdown: docs/verdicts.md.
func WriteDocs(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# Verdicts\n\n" +
		"One verdict for each lost request, one for each connection that ended with nothing lost. This is what `whyreset explain` says, and made from the same tables: " +
		"`go test -run TestDocs -update .`\n\n")
	all := allFamilies()
	for _, family := range all {
		b.WriteString("- [" + family + "](#" + anchor("family "+family) + "): " + familyNames[family] + "\n")
		for _, v := range correlate.Verdicts() {
			if v.Family() == family {
				b.WriteString("  - [`" + v.String() + "`](#" + v.String() + "): " + cell(WordsOf(v).Title) + "\n")
			}
		}
	}
	b.WriteString("- [Confidence](#confidence), [retry](#retry), [modifiers](#modifiers), [timers](#timers), [reasons](#reasons)\n\n" +
		"“It” is the request. “Clients” includes proxies and load balancers towards the servers behind them.\n")
	seen := map[string]correlate.Verdict{}
	for _, family := range all {
		b.WriteString("\n## Family " + family + "\n\n" + sentence(familyNames[family]) + "\n")
		for _, v := range correlate.Verdicts() {
			if v.Family() == family {
				docVerdict(&b, v, seen)
			}
		}
	}
	docList(&b, "Confidence", "How well a verdict is supported. Those that accuse nobody have none.", []Line{
		{"proven", "follows from sequence and acknowledgement numbers that were seen, from whichever end, with whatever clocks; or from what the kernel of an end counted"},
		{"strong", "nothing else fits unless the capture lost something"},
		{"weak", "other explanations fit too; the finding names what would decide"},
	})
	docList(&b, "Retry", "Whether a lost request may be sent again (RFC 9110, section 9.2.2).", []Line{
		{"safe", "provably not processed: any method may be repeated"},
		{"likely-safe", "not processed, by rule or in all likelihood"},
		{"ambiguous", "it may have been processed: idempotent methods only"},
		{"unsafe", "it was processed, at least in part; safe methods, such as GET, may be fetched again"},
	})
	b.WriteString("\n## Modifiers\n\nWords that qualify a verdict.\n\n| | says | rule | what follows |\n| --- | --- | --- | --- |\n")
	for _, m := range modifiers() {
		w := modifierWords[m]
		b.WriteString("| `" + m + "` | " + cell(w.Meaning) + " | " + cell(w.Rule) + " | " + cell(w.Consequence) + " |\n")
	}

	b.WriteString("\n## Timers\n\n" + timersAbout + "\n\n**The rule**: " + OrderingRule + ".\n")
	for _, t := range limitsTables {
		b.WriteString("\n### " + t.heading + "\n\n" + sentence(t.about) + "\n\n| product | default | setting | says | |\n| --- | --- | --- | --- | --- |\n")
		for _, k := range t.limits {
			b.WriteString("| " + cell(k.product) + " | " + k.values() + " | " + code(k.setting) + " | " + cell(k.shows()) + " | " + cell(k.note) + " |\n")
		}
	}

	b.WriteString("\n## Reasons\n\n" + reasonsAbout + "\n\n| | it | what happened | for a request | retry |\n| --- | --- | --- | --- | --- |\n")
	for _, r := range kernelReasons {
		b.WriteString("| `" + r.Name + "` | " + cell(strings.ReplaceAll(r.Title, "{unread}", "data")) + " | " + cell(r.Meaning) + " | " + cell(r.Request) + " | " + cell(r.Retry) + " |\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// docVerdict writes all about v, and for tables that were written before only
// where: seen holds those.
func docVerdict(b *strings.Builder, v correlate.Verdict, seen map[string]correlate.Verdict) {
	words := WordsOf(v)
	b.WriteString("\n### " + v.String() + "\n\n" + sentence(words.Title) + " " + prose(words.Meaning) + "\n\n")
	item := func(name, text string) {
		if text != "" {
			b.WriteString("- **" + name + "**: " + prose(sentence(text)) + "\n")
		}
	}
	item("Points at", words.Blame)
	item("Rule", words.Rule)
	item("With eBPF", kernelSays[v])
	item("Where it is weak", words.Doubt)
	item("Sent again silently", words.Retried)
	item("Retry", words.Retry)
	item("Fix", FixOf(v))
	if strings.Contains(words.Fix, "{client}") {
		item("The order of idle timeouts ([known ones](#timers))", OrderingRule)
	}
	for _, part := range []struct {
		heading string
		list    []Line
	}{
		{"What clients print", words.Prints},
		{"What the server's side logs", words.Logs},
		{"What proxies call it", codesOf(v)},
		{"Settings", words.Config},
	} {
		table := "\n| " + part.heading + " | |\n| --- | --- |\n"
		for _, l := range part.list {
			table += "| " + cell(l.Product) + " | " + cell(l.Text) + " |\n"
		}
		if of, ok := seen[table]; ok && len(part.list) > 2 {
			b.WriteString("\n" + part.heading + ": as for [`" + of.String() + "`](#" + of.String() + ").\n")
			continue
		}
		seen[table] = v
		b.WriteString(table)
	}
}

func docList(b *strings.Builder, heading, about string, list []Line) {
	b.WriteString("\n## " + heading + "\n\n" + about + "\n\n| | |\n| --- | --- |\n")
	for _, l := range list {
		b.WriteString("| `" + l.Product + "` | " + cell(l.Text) + " |\n")
	}
}

// anchor is the fragment that Markdown renderers give to a heading.
func anchor(heading string) string { return strings.ReplaceAll(strings.ToLower(heading), " ", "-") }

// prose makes text safe to stand in Markdown: what looks like markup in it is the
// words of programs.
func prose(s string) string {
	return strings.NewReplacer("\\", `\\`, "*", `\*`, "_", `\_`, "<", "&lt;", "`", "\\`", "[", `\[`).Replace(s)
}

// cell is prose in a table.
func cell(s string) string { return strings.ReplaceAll(prose(s), "|", `\|`) }

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + strings.ReplaceAll(s, "|", `\|`) + "`"
}
