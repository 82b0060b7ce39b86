package main

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"

	"whyreset/bpf"
	"whyreset/capture"
)

// TestLacksEBPF has hints on eBPF where that is what is missing, and nowhere else.
func TestLacksEBPF(t *testing.T) {
	c := &command{live: &live{ebpf: ebpfPackets, spots: []spot{{kind: "netns", name: "x"}}}}
	none := errors.New(`there is no interface "nosuch"; there are lo`)
	if got := c.lacksEBPF(bpf.ExplainRecorder(none)); got != none {
		t.Errorf("got %v", got)
	}
	enter := fmt.Errorf("network namespace x: %w", capture.ErrEnter)
	got := c.lacksEBPF(bpf.ExplainRecorder(enter))
	if got.Error() != enter.Error() || hintFor(got) == "" || hintFor(got) != hintFor(c.hint(enter)) {
		t.Errorf("got %v, hint %s", got, hintFor(got))
	}
	const hint = "without eBPF, whyreset -i any explains packets"
	if got := c.lacksEBPF(bpf.ExplainRecorder(bpf.ErrNoTCX)).Error(); got != "--cgroup: this kernel has no TCX (Linux 6.6), which tells whose sockets packets leave; --container and --ebpf=facts do without" {
		t.Error(got)
	}
	missing := &bpf.MissingError{What: "this process lacks CAP_NET_ADMIN, or CAP_SYS_ADMIN in its place", Err: unix.EPERM}
	if got := c.lacksEBPF(missing); !errors.Is(got, fs.ErrPermission) || got.Error() != missing.Error() || len(hintFor(got)) < len(hint) || hintFor(c.hint(got)) != hintFor(got) {
		t.Errorf("got %v, hint %s", got, hintFor(got))
	}
}
