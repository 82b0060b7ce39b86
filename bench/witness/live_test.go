//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The command line as "make bench-truth" has it, on what needs no more than root,
// tcpdump and iproute2, and on what was recorded with everything installed.
func TestWitnesses(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "witness")
	build := exec.Command("go", "build", "-o", bin, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, args := range map[string][]string{
		"live":     {"-ci", "-j", "4"},
		"recorded": {"-judge", "../../testdata/witness"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "live" {
				skipUnlessRoot(t)
			}
			out, err := exec.Command(bin, args...).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			t.Logf("%s", out[max(0, len(out)-3000):])
		})
	}
}

func skipUnlessRoot(t *testing.T) {
	t.Helper()
	ci := os.Getenv("CI") == "true"
	if os.Getuid() != 0 {
		if ci {
			t.Fatal("CI must run this test as root")
		}
		t.Skip("SKIPPED: network namespaces need root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("SKIPPED: a wire needs /dev/net/tun")
	}
	for _, program := range []string{"ip", "tcpdump"} {
		if _, err := exec.LookPath(program); err != nil {
			if ci {
				t.Fatal(err)
			}
			t.Skip("SKIPPED: capturing needs " + program + " (apt-get install iproute2 tcpdump)")
		}
	}
}
