//go:build linux

package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestVersionLess(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"linux-image-5.10.0-9-cloud-amd64", "linux-image-5.10.0-46-cloud-amd64", true},
		{"linux-image-6.12.107+deb13-cloud-amd64", "linux-image-6.12.94+deb13-cloud-amd64", false},
		{"", "linux-image-6.1.0-1-cloud-amd64", true},
		{"linux-image-6.1.0-1-cloud-amd64", "linux-image-6.1.0-1-cloud-amd64", false},
	} {
		if got := versionLess(c.a, c.b); got != c.want {
			t.Errorf("%s < %s: %v", c.a, c.b, got)
		}
	}
}

// What a machine prints is read, and a kernel that dies is no success.
func TestMachine(t *testing.T) {
	dir := t.TempDir()
	// In the place of QEMU: a program that prints what is in its kernel's file.
	fake := "#!/bin/sh\nwhile [ \"$1\" != -kernel ]; do shift; done\ncat \"$2\"\n"
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	const good = "\x1b[2JSeaBIOS\r\n\x1b[0mwhyreset-kernels: begin 5.10.0\r\n--- PASS: TestA (0.05s)\r\n    --- PASS: TestA/one (0.05s)\r\n" +
		"    a_test.go:4: SKIPPED: no TCX\r\n--- SKIP: TestB (0.00s)\r\nPASS\r\n\r\nwhyreset-kernels: end 0\r\n[ 2.1] reboot: Power down\r\n"
	for _, c := range []struct{ output, err string }{
		{good, ""},
		{strings.Replace(good, "end 0", "end 1", 1), "status 1"},
		{"SeaBIOS\r\n[ 0.1] Kernel panic\r\n", "did not come to run"},
		{good[:strings.Index(good, "PASS\r\n\r\n")], "ended before the tests did"},
	} {
		image := filepath.Join(dir, "image")
		if err := os.WriteFile(image, []byte(c.output), 0o644); err != nil {
			t.Fatal(err)
		}
		m := machine{image: image, limit: time.Minute}
		r, err := m.start(context.Background())
		switch {
		case c.err == "status 1":
			if err != nil || r.status != 1 {
				t.Errorf("%+v, %v", r, err)
			}
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v", c.output, err)
			}
		case err != nil || r.release != "5.10.0" || r.passed != 2 || len(r.skipped) != 1 || r.skipped[0] != "TestB: SKIPPED: no TCX":
			t.Errorf("%+v, %v", r, err)
		}
	}
}
