package main

import (
	"errors"
	"fmt"
	"os"

	"whyreset/bpf"
)

// lacksEBPF adds to an error of bpf.Explain or bpf.ExplainRecorder what does without
// eBPF, and to one that is not about eBPF what is said of it without. Nothing falls
// back by itself: whoever asked for eBPF has a reason.
func (c *command) lacksEBPF(err error) error {
	if errors.Is(err, bpf.ErrNoTCX) {
		return fmt.Errorf("--cgroup: %w; --container and --ebpf=facts do without", err)
	}
	if !errors.As(err, new(*bpf.MissingError)) {
		return c.hint(err)
	}
	hint := "without eBPF, whyreset -i any explains packets"
	if os.Geteuid() != 0 {
		hint = "run it with sudo; " + hint
	}
	return hinted{err, hint}
}
