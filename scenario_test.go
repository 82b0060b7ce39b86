package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"whyreset/correlate"
)

var update = flag.Bool("update", false, "rewrite the stdout sections of those testdata/*.txtar that find what they want")

// A scenario is one phenomenon, written as text. Its sections are
//
//	args    the command line, with the capture as $PCAP
//	flow    the capture (see flow)
//	want    what must be found (see checkWant), written from the rules of TCP and HTTP
//	exit    the exit status, if it is not 0
//	stdout  what the command line prints, rewritten by go test -update
type scenario struct {
	name string
	file string
	ar   *txtar.Archive
}

func (s *scenario) section(name string) string {
	for _, f := range s.ar.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

// scenarios returns every scenario, in the order of their names.
func scenarios(t testing.TB) []*scenario {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	var all []*scenario
	for _, file := range files {
		ar, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, &scenario{strings.TrimSuffix(filepath.Base(file), ".txtar"), file, ar})
	}
	return all
}

func TestScenarios(t *testing.T) {
	for _, s := range scenarios(t) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			pcap := filepath.Join(t.TempDir(), "flow.pcap")
			writeFile(t, pcap, renderFlow(t, s.section("flow")))

			_, facts, complete, err := parseFlowFacts(s.section("flow"))
			if err != nil {
				t.Fatal(err)
			}
			run := func(exit int, args ...string) []byte {
				if len(facts) > 0 || complete {
					return runWithFacts(t, exit, pcap, facts, complete, args...)
				}
				return runProgram(t, exit, args...)
			}
			out := run(0, "-o", "json", "--all", pcap)
			problems := checkWant(s.section("want"), out)
			if len(problems) > 0 {
				t.Errorf("%s\n%s", strings.Join(problems, "\n"), out)
			}

			exit := 0
			if e := strings.TrimSpace(s.section("exit")); e != "" {
				var err error
				if exit, err = strconv.Atoi(e); err != nil {
					t.Fatal(err)
				}
			}
			args := strings.Fields(strings.ReplaceAll(s.section("args"), "$PCAP", pcap))
			got := bytes.ReplaceAll(run(exit, args...), []byte(pcap), []byte("$PCAP"))
			if *update && len(problems) == 0 {
				writeFile(t, s.file, updateStdout(s.ar, got))
			} else if want := s.section("stdout"); string(got) != want {
				t.Errorf("prints\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// runProgram runs the program in process and returns its standard output.
func runProgram(t testing.TB, exit int, args ...string) []byte {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if got := run(t.Context(), args, strings.NewReader(""), &stdout, &stderr); got != exit {
		t.Errorf("whyreset %s: exit status %d, want %d\n%s", strings.Join(args, " "), got, exit, &stderr)
	} else if exit == 0 && stderr.Len() > 0 {
		t.Errorf("whyreset %s: standard error\n%s", strings.Join(args, " "), &stderr)
	}
	return stdout.Bytes()
}

// updateStdout returns the archive with its stdout section replaced.
func updateStdout(ar *txtar.Archive, stdout []byte) []byte {
	files := slices.DeleteFunc(slices.Clone(ar.Files), func(f txtar.File) bool { return f.Name == "stdout" })
	return txtar.Format(&txtar.Archive{Comment: ar.Comment, Files: append(files, txtar.File{Name: "stdout", Data: stdout})})
}

// Rewriting a scenario twice is rewriting it once, and changes nothing else.
func TestUpdateIsStable(t *testing.T) {
	for _, stdout := range []string{"", "one\n", "two\nlines"} {
		const rest = "Why.\n-- args --\n$PCAP\n-- flow --\n0s > SYN\n"
		once := updateStdout(txtar.Parse([]byte(rest)), []byte(stdout))
		twice := updateStdout(txtar.Parse(once), []byte(stdout))
		if !bytes.Equal(once, twice) {
			t.Errorf("updated once\n%s\ntwice\n%s", once, twice)
		}
		if want := strings.TrimSuffix(stdout, "\n"); string(once) != strings.TrimSuffix(rest+"-- stdout --\n"+want, "\n")+"\n" {
			t.Errorf("updating rewrote\n%s\nas\n%s", rest, once)
		}
	}
	for _, s := range scenarios(t) {
		data, err := os.ReadFile(s.file)
		if err != nil {
			t.Fatal(err)
		}
		if got := updateStdout(s.ar, []byte(s.section("stdout"))); !bytes.Equal(got, data) {
			t.Errorf("%s: rewriting it with its own output changes it: keep stdout last", s.file)
		}
	}
}

// Every verdict has a scenario that pins it.
func TestEveryVerdictHasAScenario(t *testing.T) {
	seen := map[string]bool{correlate.StillOpen.String(): true} // counted, never a finding
	for _, s := range scenarios(t) {
		for line := range strings.Lines(s.section("want")) {
			if words := strings.Fields(line); len(words) > 0 {
				seen[words[0]] = true
			}
		}
	}
	for _, v := range correlate.Verdicts() {
		if !seen[v.String()] {
			t.Errorf("no scenario expects %s", v)
		}
	}
}

// The two ends of a path differ in the order of packets, never in the verdict.
func TestEndsAgree(t *testing.T) {
	want := map[string]string{}
	for _, s := range scenarios(t) {
		want[s.name] = s.section("want")
	}
	for name, client := range want {
		if base, ok := strings.CutSuffix(name, "-client"); ok {
			if server, ok := want[base+"-server"]; ok && client != server {
				t.Errorf("%s: the client's end expects\n%s\nthe server's end\n%s", base, client, server)
			}
		}
	}
}

// checkWant holds JSON output against what a scenario wants, and says what
// differs. Each line of want is one finding, in order:
//
//	idle-race proven lost retry=safe request.target=/b modifiers=reused
//
// First the verdict, or several with | between them where the packets leave a
// choice. Then conditions: proven, strong, weak or none for the confidence (again
// with |), lost or kept, and fields of the JSON object by path. A field's value
// may be one of several with |, be - for a field that must be absent, be an
// element of an array, or be a number after ~ that is met within a hundredth.
//
// The line "nobody" stands for any number of findings that accuse nobody and
// lose nothing; a line that begins with "summary" is about the summary.
func checkWant(want string, out []byte) []string {
	var findings []map[string]any
	var summary map[string]any
	for line := range bytes.Lines(out) {
		var v map[string]any
		if err := json.Unmarshal(line, &v); err != nil {
			return []string{fmt.Sprintf("bad JSON: %v: %s", err, line)}
		}
		switch v["type"] {
		case "finding":
			findings = append(findings, v)
		case "summary":
			summary = v
		}
	}
	if summary == nil {
		return []string{"no summary"}
	}
	var problems []string
	nobody := false
	for line := range strings.Lines(want) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "nobody":
			nobody = true
		case words[0] == "summary":
			problems = append(problems, checkObject("summary", words[1:], summary)...)
		case len(findings) == 0:
			problems = append(problems, "missing: "+strings.TrimSpace(line))
		default:
			what := "finding " + strings.TrimSpace(line)
			problems = append(problems, checkObject(what, append([]string{"verdict=" + words[0]}, words[1:]...), findings[0])...)
			findings = findings[1:]
		}
	}
	for _, f := range findings {
		family := fmt.Sprint(f["family"])
		if !nobody {
			problems = append(problems, fmt.Sprintf("not wanted: %v about %v", f["verdict"], f["request"]))
		} else if family != "clean" && family != "unknown" || f["lost"] == true {
			problems = append(problems, fmt.Sprintf("accuses somebody: %v, lost %v, about %v", f["verdict"], f["lost"], f["request"]))
		}
	}
	return problems
}

func checkObject(what string, conditions []string, object map[string]any) []string {
	var problems []string
	for _, c := range conditions {
		path, want, ok := strings.Cut(c, "=")
		near := false
		if !ok {
			path, want, near = strings.Cut(c, "~")
		}
		switch first, _, _ := strings.Cut(c, "|"); {
		case ok || near:
		case first == "lost" || first == "kept":
			path, want = "lost", strconv.FormatBool(c == "lost")
		case first == "none":
			path, want = "confidence", "-"
		case first == "proven" || first == "strong" || first == "weak":
			path, want = "confidence", c
		default:
			problems = append(problems, fmt.Sprintf("%s: bad condition %q", what, c))
			continue
		}
		var got any = object
		for key := range strings.SplitSeq(path, ".") {
			m, _ := got.(map[string]any)
			got = m[key]
		}
		if !matches(got, want, near) {
			problems = append(problems, fmt.Sprintf("%s: %s is %v, want %s", what, path, got, want))
		}
	}
	return problems
}

// matches reports whether a JSON value is one of those that want lists.
func matches(got any, want string, near bool) bool {
	if near {
		f, ok := got.(float64)
		w, err := strconv.ParseFloat(want, 64)
		return ok && err == nil && math.Abs(f-w) <= math.Abs(w)/100
	}
	for alternative := range strings.SplitSeq(want, "|") {
		switch got := got.(type) {
		case nil:
			if alternative == "-" {
				return true
			}
		case []any:
			if slices.Contains(got, any(alternative)) {
				return true
			}
		case float64:
			if strconv.FormatFloat(got, 'f', -1, 64) == alternative {
				return true
			}
		default:
			if fmt.Sprint(got) == alternative {
				return true
			}
		}
	}
	return false
}
