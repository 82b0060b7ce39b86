package report

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"whyreset/correlate"
)

// maybeEmpty are the fields of Words that a verdict may do without.
var maybeEmpty = []string{"Doubt"}

func TestNoVerdictLacksWords(t *testing.T) {
	titles := map[string]correlate.Verdict{}
	for _, v := range correlate.Verdicts() {
		words := WordsOf(v)
		fields := reflect.ValueOf(words)
		for i := range fields.NumField() {
			name := fields.Type().Field(i).Name
			if fields.Field(i).IsZero() && !slices.Contains(maybeEmpty, name) {
				t.Errorf("%s has no %s", v, name)
			}
		}
		for _, l := range words.Codes.Lines() {
			if l.Text == "" {
				t.Errorf("%s has no code for %s", v, l.Product)
			}
		}
		for _, l := range slices.Concat(words.Prints, words.Logs, words.Config) {
			if l.Product == "" || l.Text == "" {
				t.Errorf("%s has an empty line: %q", v, l)
			}
		}
		// The title goes on a line with method and path, after a colon.
		if n := utf8.RuneCountInString(words.Title); n > 100 || strings.HasSuffix(words.Title, ".") || unicode.IsUpper(rune(words.Title[0])) {
			t.Errorf("%s: title %q", v, words.Title)
		}
		if n := strings.Count(words.Meaning+" ", ". "); n < 1 || n > 4 || !strings.HasSuffix(words.Meaning, ".") {
			t.Errorf("%s: %d sentences: %q", v, n, words.Meaning)
		}
		if other, ok := titles[words.Title]; ok {
			t.Errorf("%s and %s have one title", v, other)
		}
		titles[words.Title] = v
	}
}

// TestEveryVerdictHasItsOwnWords notices a verdict that got those of Unknown
// because it is in no table.
func TestEveryVerdictHasItsOwnWords(t *testing.T) {
	n := len(raceWords) + len(staleWords) + len(serverWords) + len(clientWords) + len(protocolWords) + len(connectWords) + len(networkWords) + len(cleanWords) + len(unknownWords)
	if want := len(correlate.Verdicts()); n != want {
		t.Errorf("words for %d verdicts of %d", n, want)
	}
}

func TestFamiliesHaveNames(t *testing.T) {
	for _, family := range correlate.Families() {
		if familyNames[family] == "" {
			t.Errorf("family %s has no name", family)
		}
	}
}

// TestNobodyIsAccusedWithoutVerdict holds the words to the rule that what is not
// known accuses no one.
func TestNobodyIsAccusedWithoutVerdict(t *testing.T) {
	for _, v := range correlate.Verdicts() {
		if f := v.Family(); (f == "clean" || f == "unknown") && !strings.HasPrefix(WordsOf(v).Blame, "nobody") {
			t.Errorf("%s points at %q", v, WordsOf(v).Blame)
		}
	}
}

func TestExplain(t *testing.T) {
	for _, v := range correlate.Verdicts() {
		var b bytes.Buffer
		if err := Explain(&b, v); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(b.String()) {
			if utf8.RuneCountInString(strings.TrimSuffix(line, "\n")) > explainWidth {
				t.Errorf("%s: wider than a terminal: %q", v, line)
			}
		}
		if strings.Contains(b.String(), "{idle}") || strings.Contains(b.String(), "..\n") {
			t.Errorf("%s:\n%s", v, b.String())
		}
	}
}

func TestExplainAll(t *testing.T) {
	var b bytes.Buffer
	if err := ExplainAll(&b); err != nil {
		t.Fatal(err)
	}
	for _, v := range correlate.Verdicts() {
		if n := strings.Count(b.String(), "\n  "+v.String()+" "); n != 1 {
			t.Errorf("%s is listed %d times", v, n)
		}
	}
}

func TestSimilar(t *testing.T) {
	for name, want := range map[string]string{
		"idle-rase": "idle-race", "idlerace": "idle-race", "late_reuse": "late-reuse",
		"LATE-REUSE": "late-reuse", "blackhole": "idle-blackhole", "server-abrot": "server-abort",
	} {
		if got := Similar(name); len(got) == 0 || got[0] != want {
			t.Errorf("%s: got %v, want %s first", name, got, want)
		}
	}
	for _, name := range []string{"", "x", "zebra-crossing", strings.Repeat("a", 1e6)} {
		if got := Similar(name); len(got) > 0 {
			t.Errorf("%.20q: got %v, want nothing", name, got)
		}
	}
}

// Tables by id would keep what is said of a verdict that no longer exists.
func TestTablesNameVerdicts(t *testing.T) {
	for id := range serverLogs {
		if _, err := correlate.ParseVerdict(id); err != nil {
			t.Error(err)
		}
	}
	for _, ids := range proxyStatus {
		for _, id := range ids {
			if _, err := correlate.ParseVerdict(id); err != nil {
				t.Error(err)
			}
		}
	}
}
