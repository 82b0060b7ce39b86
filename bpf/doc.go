// Package bpf asks the kernel why connections end, with eBPF.
//
// Two programs do that, each in a C file beside its Go one. The recorder
// (recorder.c) sits on the path of packets and keeps the last segments of each
// connection that matter; they come up only when the connection ends. The facts
// (facts.c) are what no packet shows: why the kernel sent a reset, whose socket it
// was, what its owner had not read. Both need Linux 5.8 with BTF.
package bpf
