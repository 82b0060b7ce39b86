package main

import "fmt"

// recordWithout are the flags that mean nothing where packets stay in the kernel.
var recordWithout = []string{"write", "ring", "count"}

// checkRecord rejects what cannot be meant with --ebpf.
func checkRecord(given func(name string) bool) error {
	for _, name := range recordWithout {
		if given(name) {
			return fmt.Errorf("--ebpf leaves packets in the kernel: --%s needs them; leave out --ebpf", name)
		}
	}
	return nil
}
