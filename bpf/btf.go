//go:build linux

package bpf

import (
	"errors"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// btfFile is where the kernel describes its types, if it was built so.
const btfFile = "/sys/kernel/btf/vmlinux"

// kernelFeatures are differences between kernels that the programs take into account.
// They are read from the running kernel's own description, never from a version:
// distributions carry changes back.
type kernelFeatures struct {
	reason        bool // tcp_send_reset says why (Linux 6.10: b533fb9cf4f7)
	cgroup        bool // sockets know their cgroup
	cgroupPointer bool // as a plain pointer (Linux 5.16: 8520e224f547)
	dynptr        bool // bpf_dynptr_from_skb; whether it may be called turns out at loading

	// pids is the namespace that numbers of processes are translated to, 0 if it is
	// the first, in which the kernel's programs see them.
	pids uint32
}

// readFeatures reads them from a kernel's types. It fails where a tracepoint that
// is needed is not among them.
func readFeatures(types *btf.Spec) (kernelFeatures, error) {
	f := kernelFeatures{pids: pidNamespace()}
	for _, name := range []string{"tcp_receive_reset", "inet_sock_set_state", "tcp_destroy_sock", "tcp_send_reset"} {
		n, err := parameters(types, name)
		if errors.Is(err, btf.ErrNotFound) {
			return f, &MissingError{What: "this kernel does not describe its tracepoint " + name + " (" + btfFile + ")", Err: err}
		} else if err != nil {
			return f, err
		}
		f.reason = name == "tcp_send_reset" && n == 3 // socket, packet, reason
	}
	var group *btf.Struct
	if err := types.TypeByName("sock_cgroup_data", &group); err == nil {
		f.cgroupPointer = hasMember(group, "cgroup")
		f.cgroup = f.cgroupPointer || hasMember(group, "val")
	}
	var fn *btf.Func
	f.dynptr = types.TypeByName("bpf_dynptr_from_skb", &fn) == nil
	return f, nil
}

// parameters returns how many arguments a tracepoint has, those that programs see.
func parameters(types *btf.Spec, tracepoint string) (int, error) {
	var def *btf.Typedef
	if err := types.TypeByName("btf_trace_"+tracepoint, &def); err != nil {
		return 0, err
	}
	if p, ok := def.Type.(*btf.Pointer); ok {
		if proto, ok := p.Target.(*btf.FuncProto); ok {
			return len(proto.Params) - 1, nil // the first is the tracepoint's own
		}
	}
	return 0, errors.New("btf_trace_" + tracepoint + " is not a pointer to a function")
}

// hasMember reports whether a structure has a member, within unions without a name
// too.
func hasMember(t btf.Type, name string) bool {
	var members []btf.Member
	switch t := t.(type) {
	case *btf.Struct:
		members = t.Members
	case *btf.Union:
		members = t.Members
	}
	for _, m := range members {
		if m.Name == name || m.Name == "" && hasMember(m.Type, name) {
			return true
		}
	}
	return false
}

// reasonPrefix begins the names of reasons in the kernel's source.
const reasonPrefix = "SK_RST_REASON_"

// readReasons returns the running kernel's names of the reasons for resets, without
// prefix. Their numbers are not stable. A reason that the kernel does not specify
// has no name.
func readReasons(types *btf.Spec) map[uint32]string {
	reasons := map[uint32]string{}
	var enum *btf.Enum
	if err := types.TypeByName("sk_rst_reason", &enum); err == nil {
		for _, v := range enum.Values {
			reasons[uint32(v.Value)] = strings.TrimPrefix(v.Name, reasonPrefix)
		}
	} else {
		for _, dir := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
			if text, err := os.ReadFile(dir + "/events/tcp/tcp_send_reset/format"); err == nil {
				reasons = reasonsIn(string(text))
				break
			}
		}
	}
	for n, name := range reasons {
		if name == "NOT_SPECIFIED" {
			delete(reasons, n)
		}
	}
	return reasons
}

// symbol is a number and its name in the format of a tracepoint.
var symbol = regexp.MustCompile(`\{ ?(\d+), ?"([A-Z0-9_]+)" ?\}`)

// reasonsIn reads the names from the format of the tracepoint tcp_send_reset. What
// it says of states comes first.
func reasonsIn(format string) map[uint32]string {
	reasons := map[uint32]string{}
	_, list, _ := strings.Cut(format, "__print_symbolic(REC->reason")
	list, _, _ = strings.Cut(list, ")")
	for _, m := range symbol.FindAllStringSubmatch(list, -1) {
		if n, err := strconv.ParseUint(m[1], 10, 32); err == nil {
			reasons[uint32(n)] = strings.TrimPrefix(m[2], reasonPrefix)
		}
	}
	return reasons
}

// stateNames are the kernel's names of the states of TCP sockets. Their numbers are
// part of what the kernel promises to programs (BPF_TCP_* in
// include/uapi/linux/bpf.h).
var stateNames = [...]string{
	"", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT",
	"CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV",
}

// stateName returns the name of a state, "" for one that came later.
func stateName(n uint8) string {
	if int(n) < len(stateNames) {
		return stateNames[n]
	}
	return ""
}
