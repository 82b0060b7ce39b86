//go:build linux

package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"whyreset/capture"
)

// A MissingError says what eBPF needs and this system lacks.
type MissingError struct {
	What string // in one sentence, without its end
	Err  error  // what the kernel said, if it was asked
}

// Error implements error.
func (e *MissingError) Error() string { return "eBPF cannot be used: " + e.What }

// Unwrap returns what the kernel said.
func (e *MissingError) Unwrap() error { return e.Err }

// kernelTypes reads the running kernel's description of its types.
func kernelTypes(file string) (*btf.Spec, error) {
	f, err := os.Open(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &MissingError{"this kernel has no BTF: there is no " + file + ", which kernels have that are built with CONFIG_DEBUG_INFO_BTF", err}
	case err != nil:
		return nil, &MissingError{fmt.Sprintf("the kernel's BTF cannot be read: %v", err), err}
	}
	defer f.Close()
	types, err := btf.LoadSpecFromReader(f)
	if err != nil {
		return nil, &MissingError{fmt.Sprintf("the kernel's BTF in %s cannot be understood: %v", file, err), err}
	}
	return types, nil
}

// A capability is one that programs take.
type capability struct {
	number int
	name   string
}

// Linux 5.8 took the first two from CAP_SYS_ADMIN, which still stands for each of
// them. Tracepoints take no more; programs on the path of packets also take what
// bpf_prog_load asks for where is_net_admin_prog_type (kernel/bpf/syscall.c).
var (
	factsNeed    = []capability{{unix.CAP_BPF, "CAP_BPF"}, {unix.CAP_PERFMON, "CAP_PERFMON"}}
	recorderNeed = append(slices.Clone(factsNeed), capability{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"})
)

// Explain says what is missing, after err came from opening facts: it returns a
// [MissingError], which has the kernel's words where the cause cannot be told. The reasons are looked for only
// then: no test for single features tells whether the programs that are needed can be
// loaded. What is not about eBPF, such as a namespace that may not be entered, is
// returned as it is.
func Explain(err error) error { return explain(err, factsNeed) }

// ExplainRecorder is Explain for a recorder, which takes more.
func ExplainRecorder(err error) error {
	if errors.Is(err, errPacketSocket) && errors.Is(err, unix.EPERM) {
		return &MissingError{"this process lacks CAP_NET_RAW, which the recorder takes where the kernel has no TCX (before Linux 6.6)", err}
	}
	return explain(err, recorderNeed)
}

// errPacketSocket means that no socket could be had for a socket filter.
var errPacketSocket = errors.New("open a packet socket")

func explain(err error, need []capability) error {
	var known *MissingError
	if err == nil || errors.As(err, &known) || !aboutEBPF(err) {
		return err
	}
	return &MissingError{cmp.Or(lacking(err, readSystem(), need), err.Error()), err}
}

// aboutEBPF reports whether err came from a kernel that was asked for eBPF, and not
// from what went before that.
func aboutEBPF(err error) bool {
	var number unix.Errno
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, capture.ErrEnter), errors.Is(err, capture.ErrPrivilege):
		return false
	}
	return errors.As(err, &number) || errors.As(err, &verifier) || errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, btf.ErrNotFound) || errors.Is(err, errMemlock)
}

// errMemlock means that the limit of locked memory could not be raised.
var errMemlock = errors.New("RLIMIT_MEMLOCK could not be raised")

// A system is what decides what a process may do with eBPF.
type system struct {
	capabilities uint64 // effective ones of this thread
	ownUsers     bool   // in a namespace of users that is not the first
	seccomp      bool   // system calls are filtered
	lockdown     string // "none", "integrity" or "confidentiality"; "" if not known
	ring         error  // whether there are ring buffers
}

// readSystem looks at the running one.
func readSystem() (s system) {
	status, _ := os.ReadFile("/proc/thread-self/status")
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); name {
		case "CapEff":
			fmt.Sscanf(value, "%x", &s.capabilities)
		case "Seccomp":
			s.seccomp = value != "0"
		}
	}
	// user_namespaces(7): the first maps all numbers to themselves.
	users, err := os.ReadFile("/proc/self/uid_map")
	s.ownUsers = err == nil && !slices.Equal(strings.Fields(string(users)), []string{"0", "0", "4294967295"})
	s.lockdown = lockdownIn("/sys/kernel/security/lockdown")
	s.ring = features.HaveMapType(ebpf.RingBuf)
	return s
}

// lockdownIn returns the mode that is in brackets: kernel_lockdown(7).
func lockdownIn(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	_, mode, _ := strings.Cut(string(text), "[")
	mode, _, _ = strings.Cut(mode, "]")
	return mode
}

// lacking says what the cause of an error is, "" if it cannot be told.
func lacking(err error, s system, need []capability) string {
	has := func(n int) bool { return s.capabilities>>n&1 != 0 }
	refused := errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
	var missing []string
	for _, c := range need {
		if !has(c.number) && !has(unix.CAP_SYS_ADMIN) {
			missing = append(missing, c.name)
		}
	}
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, unix.ENOSYS):
		return "this kernel has no bpf system call (CONFIG_BPF_SYSCALL)"
	case refused && len(missing) > 0:
		last := len(missing) - 1
		list, place := missing[last], "its"
		if last > 0 {
			list, place = strings.Join(missing[:last], ", ")+" and "+list, "their"
		}
		return "this process lacks " + list + ", or CAP_SYS_ADMIN in " + place + " place"
	case s.ownUsers && refused:
		return "this process is in a user namespace of its own, where its capabilities do not count for it"
	case s.lockdown == "confidentiality":
		return "the kernel is locked down for confidentiality (/sys/kernel/security/lockdown), so no program may read its memory"
	case errors.Is(s.ring, ebpf.ErrNotSupported):
		return "this kernel has no BPF ring buffer, which came with Linux 5.8"
	case errors.Is(err, errMemlock):
		return "this process may lock too little memory (ulimit -l), which kernels before 5.11 count for eBPF, and may not raise it"
	case refused && s.seccomp:
		return "a filter of system calls (seccomp) refuses bpf, as container engines set it"
	case refused && !errors.As(err, &verifier):
		return "the kernel refuses it, though this process has the capabilities: a security module or a container's rules may"
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Sprintf("this kernel cannot do what the programs need: %v", err)
	case errors.As(err, &verifier):
		return fmt.Sprintf("this kernel's verifier does not accept the programs: %v", err)
	}
	return ""
}
