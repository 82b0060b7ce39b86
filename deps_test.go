package main

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImportDirection holds that data goes one way: report may import correlate,
// that capture; bpf and container speak in capture's terms; main wires them, and
// nothing imports main or, tests excepted, bench.
func TestImportDirection(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}} tests: {{join .TestImports " "}} {{join .XTestImports " "}}`, "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	rank := map[string]int{"whyreset/capture": 1, "whyreset/capture/container": 2, "whyreset/bpf": 3, "whyreset/correlate": 3, "whyreset/report": 4, "whyreset": 5}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		pkg, bench := fields[0], strings.HasPrefix(fields[0], "whyreset/bench")
		if rank[pkg] == 0 && !bench {
			t.Errorf("%s has no place in the order of packages", pkg)
		}
		tests := false
		for _, imp := range fields[1:] {
			switch {
			case imp == "tests:":
				tests = true
			case imp == pkg: // an external test
			case imp == "whyreset", strings.HasPrefix(imp, "whyreset/bench") && !bench && !tests:
				t.Errorf("%s imports %s", pkg, imp)
			case tests && pkg == "whyreset/bpf" && imp == "whyreset/correlate": // to hold verdicts against those of all packets
			case !bench && rank[imp] >= rank[pkg]:
				t.Errorf("%s imports %s, against the direction", pkg, imp)
			}
		}
	}
}
