//go:build linux

package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"whyreset/capture"
)

// TestMissingTypes is of kernels without BTF, and with something else in its place.
func TestMissingTypes(t *testing.T) {
	name := filepath.Join(t.TempDir(), "vmlinux")
	_, err := kernelTypes(name)
	if want := "eBPF cannot be used: this kernel has no BTF: there is no " + name + ", which kernels have that are built with CONFIG_DEBUG_INFO_BTF"; err == nil || err.Error() != want || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want %s", err, want)
	}
	if err := os.WriteFile(name, []byte("nonsense"), 0o644); err != nil {
		t.Fatal(err)
	}
	var missing *MissingError
	if _, err := kernelTypes(name); !errors.As(err, &missing) || !strings.Contains(err.Error(), "cannot be understood") {
		t.Error(err)
	}
}

// TestLacking holds what is named for each system that cannot be had here.
func TestLacking(t *testing.T) {
	all := ^uint64(0)
	only := func(capabilities ...int) (set uint64) {
		for _, c := range capabilities {
			set |= 1 << c
		}
		return set
	}
	refused := fmt.Errorf("load programs: %w", unix.EPERM)
	verifier := fmt.Errorf("load programs: %w", &ebpf.VerifierError{Cause: unix.EINVAL, Log: []string{"unknown func bpf_probe_read_kernel#113"}})
	for _, c := range []struct {
		name string
		err  error
		s    system
		want string

		recorder bool
	}{
		{"capabilities", refused, system{}, "lacks CAP_BPF and CAP_PERFMON, or", false},
		{"all three", refused, system{}, "lacks CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or CAP_SYS_ADMIN in their place", true},
		{"CAP_NET_ADMIN", refused, system{capabilities: only(unix.CAP_BPF, unix.CAP_PERFMON)}, "lacks CAP_NET_ADMIN, or CAP_SYS_ADMIN in its place", true},
		{"CAP_NET_ADMIN that is not needed", refused, system{capabilities: only(unix.CAP_BPF, unix.CAP_PERFMON)}, "security module", false},
		{"CAP_SYS_ADMIN", refused, system{capabilities: only(unix.CAP_SYS_ADMIN)}, "security module", true},
		{"CAP_PERFMON", refused, system{capabilities: only(unix.CAP_BPF)}, "lacks CAP_PERFMON, or", false},
		{"CAP_BPF", refused, system{capabilities: only(unix.CAP_PERFMON)}, "lacks CAP_BPF, or", false},
		{"user namespace", refused, system{capabilities: all, ownUsers: true}, "user namespace", false},
		{"lockdown", verifier, system{capabilities: all, lockdown: "confidentiality"}, "locked down for confidentiality", false},
		{"lockdown that lets it", refused, system{capabilities: all, lockdown: "integrity"}, "security module", false},
		{"old kernel", ebpf.ErrNotSupported, system{capabilities: all, ring: ebpf.ErrNotSupported}, "no BPF ring buffer, which came with Linux 5.8", false},
		{"locked memory", fmt.Errorf("%w: %w", errMemlock, unix.EPERM), system{capabilities: only(unix.CAP_BPF, unix.CAP_PERFMON)}, "ulimit -l", false},
		{"seccomp", refused, system{capabilities: all, seccomp: true}, "seccomp", false},
		{"no bpf", unix.ENOSYS, system{capabilities: all}, "CONFIG_BPF_SYSCALL", false},
		{"verifier", verifier, system{capabilities: all}, "verifier does not accept", false},
		{"something else", unix.EIO, system{capabilities: all}, "", false},
	} {
		need := factsNeed
		if c.recorder {
			need = recorderNeed
		}
		got := lacking(c.err, c.s, need)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) || strings.ContainsAny(got, "\n") {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if err := Explain(nil); err != nil {
		t.Error(err)
	}
	if err := Explain(unix.EIO); !errors.Is(err, unix.EIO) || !strings.HasPrefix(err.Error(), "eBPF cannot be used: ") {
		t.Error(err)
	}
	for _, err := range []error{errors.New(`there is no interface "x"; there are lo`), fmt.Errorf("network namespace x: %w", capture.ErrEnter)} {
		for _, explain := range []func(error) error{Explain, ExplainRecorder} {
			if got := explain(err); got != err {
				t.Errorf("%v became %v", err, got)
			}
		}
	}
}

// TestLockdownIn reads what the kernel says of itself.
func TestLockdownIn(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lockdown")
	if got := lockdownIn(name); got != "" {
		t.Error(got)
	}
	for text, want := range map[string]string{"[none] integrity confidentiality\n": "none", "none integrity [confidentiality]\n": "confidentiality", "x": ""} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := lockdownIn(name); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// TestPrivileges opens facts in processes that lack something.
func TestPrivileges(t *testing.T) {
	needRoot(t)
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	three := []uintptr{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_NET_ADMIN}
	const noRaw = "eBPF cannot be used: this process lacks CAP_NET_RAW, which the recorder takes where the kernel has no TCX (before Linux 6.6)"
	without := "" // what a recorder lacks that may not open packet sockets
	if r, err := OpenRecorder(RecorderConfig{Places: []capture.Place{{Interfaces: []string{"lo"}}}, Filter: capture.Filter{Ports: []capture.PortRange{{First: 1, Last: 1}}}, Hook: TCX}); err == nil {
		r.Close()
	} else if strings.Contains(err.Error(), "not supported") {
		without = noRaw
	} else {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, order string
		attr        *syscall.SysProcAttr
		want        string // "" for no error
	}{
		{"root", "", nil, ""},
		{"nobody", "", &syscall.SysProcAttr{Credential: nobody}, "eBPF cannot be used: this process lacks CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN in their place"},
		{"CAP_BPF alone", "", &syscall.SysProcAttr{Credential: nobody, AmbientCaps: []uintptr{unix.CAP_BPF}}, "eBPF cannot be used: this process lacks CAP_PERFMON, or CAP_SYS_ADMIN in its place"},
		{"both", "", &syscall.SysProcAttr{Credential: nobody, AmbientCaps: []uintptr{unix.CAP_BPF, unix.CAP_PERFMON}}, ""},
		{"recorder without CAP_NET_ADMIN", "recorder", &syscall.SysProcAttr{Credential: nobody, AmbientCaps: []uintptr{unix.CAP_BPF, unix.CAP_PERFMON}}, "eBPF cannot be used: this process lacks CAP_NET_ADMIN, or CAP_SYS_ADMIN in its place"},
		{"recorder", "recorder", &syscall.SysProcAttr{Credential: nobody, AmbientCaps: three}, without},
		{"recorder without CAP_NET_RAW", "socket", &syscall.SysProcAttr{Credential: nobody, AmbientCaps: three}, noRaw},
		{"recorder with CAP_NET_RAW", "socket", &syscall.SysProcAttr{Credential: nobody, AmbientCaps: append(three, unix.CAP_NET_RAW)}, ""},
		{"recorder of nothing", "recorder whyreset-none", nil, `there is no interface "whyreset-none"; there are `},
		{"user namespace", "", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: []syscall.SysProcIDMap{{Size: 1}}, GidMappings: []syscall.SysProcIDMap{{Size: 1}}}, "eBPF cannot be used: this process is in a user namespace of its own, where its capabilities do not count for it"},
		{"seccomp", "seccomp", nil, "eBPF cannot be used: a filter of system calls (seccomp) refuses bpf, as container engines set it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestOpen$")
			cmd.Env = append(os.Environ(), "WHYRESET_OPEN=open "+c.order)
			cmd.SysProcAttr = c.attr
			// The test's own file may be where others cannot go.
			exe, err := os.Open("/proc/self/exe")
			if err != nil {
				t.Fatal(err)
			}
			defer exe.Close()
			cmd.ExtraFiles, cmd.Path = []*os.File{exe}, "/proc/self/fd/3"
			out, err := cmd.CombinedOutput()
			if got := strings.TrimSpace(string(out)); err != nil || !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
				t.Errorf("%v: %q, want %q", err, got, c.want)
			}
		})
	}
}

// TestOpen is what those processes run; it tests nothing.
func TestOpen(t *testing.T) {
	order, ok := strings.CutPrefix(os.Getenv("WHYRESET_OPEN"), "open ")
	if !ok {
		return
	}
	runtime.LockOSThread()
	if order == "seccomp" {
		if err := refuseBPF(); err != nil {
			fmt.Println(err)
		}
	}
	var src io.Closer
	var err error
	if on, ok := strings.CutPrefix(order, "recorder"); ok || order == "socket" {
		// On one interface, which is none of those that others test with.
		name, hook := cmp.Or(strings.TrimSpace(on), "lo"), Hook(0)
		if order == "socket" {
			name, hook = "lo", SocketFilter
		}
		src, err = OpenRecorder(RecorderConfig{Hook: hook, Places: []capture.Place{{Interfaces: []string{name}}}, Filter: capture.Filter{Ports: []capture.PortRange{{First: 1, Last: 1}}}})
		err = ExplainRecorder(err)
	} else {
		src, err = OpenFacts(FactsConfig{})
	}
	if err != nil {
		fmt.Println(err)
	} else {
		src.Close()
	}
	os.Exit(0)
}

// refuseBPF has the thread's calls of bpf refused, as container engines do.
func refuseBPF() error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_BPF, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}
