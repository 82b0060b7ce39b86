//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"whyreset/capture"
)

// TestFeatures loads and attaches every program as for kernels that lack something,
// in all combinations, and has each tell of a reset.
func TestFeatures(t *testing.T) {
	needRoot(t)
	types, err := kernelTypes(btfFile)
	if err != nil {
		t.Fatal(err)
	}
	all, err := readFeatures(types)
	if err != nil {
		t.Fatal(err)
	}
	_, names := thisKernel(t)
	ns, inode := newNamespace(t)
	for bits := range 32 {
		has := all
		has.reason = all.reason && bits&1 == 0
		has.cgroup = all.cgroup && bits&2 == 0
		has.cgroupPointer = all.cgroupPointer && bits&4 == 0
		has.dynptr = all.dynptr && bits&8 == 0
		name := fmt.Sprintf("reason=%t cgroup=%t pointer=%t dynptr=%t closes=%t", has.reason, has.cgroup, has.cgroupPointer, has.dynptr, bits&16 == 0)
		f, err := openFacts(FactsConfig{Namespaces: []uint64{inode}, Closes: bits&16 == 0}, types, has)
		if err != nil {
			var v *ebpf.VerifierError
			if errors.As(err, &v) {
				t.Logf("%+v", v)
			}
			t.Fatalf("%s: %v", name, err)
		}
		if f.Whole() != has.reason {
			t.Errorf("%s: whole is %v", name, f.Whole())
		}
		if bits == 0 || bits == 15 {
			abort(t, ns, 1)
			var x *capture.SocketFact
			gather(t, f, func(all []*capture.SocketFact) bool {
				for _, a := range all {
					if a.Kind == capture.ResetSent {
						x = a
					}
				}
				return x != nil
			})
			if x == nil || (x.Reason == "TCP_ABORT_ON_CLOSE") != (has.reason && names["TCP_ABORT_ON_CLOSE"]) || x.Unread != uint32(len(request)) || x.Owner.PID != os.Getpid() {
				t.Errorf("%s: %+v", name, x)
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestPIDNamespace has numbers of processes as an observer in a namespace of its own
// knows them.
func TestPIDNamespace(t *testing.T) {
	needRoot(t)
	types, err := kernelTypes(btfFile)
	if err != nil {
		t.Fatal(err)
	}
	has, err := readFeatures(types)
	if err != nil {
		t.Fatal(err)
	}
	ns, inode := newNamespace(t)
	server := newActor(t, ns, "server", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID})
	client := newActor(t, ns, "client", nil)
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/pid", server.pid()), &st); err != nil {
		t.Fatal(err)
	}
	has.pids = uint32(st.Ino)
	f, err := openFacts(FactsConfig{Namespaces: []uint64{inode}, Closes: true}, types, has)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	client.target = "127.0.0.1:" + server.do("listen 127.0.0.1:0 1")
	client.do("connect %s", target)
	server.do("accept")
	client.do("shutdown")
	server.do("close")
	seen := map[string]int{}
	gather(t, f, func(all []*capture.SocketFact) bool {
		for _, x := range all {
			seen[x.State+" "+x.Owner.Command] = x.Owner.PID
		}
		return len(seen) >= 2
	})
	// The first process of its namespace; and one that is not in it.
	if seen["CLOSE_WAIT server"] != 1 || seen["ESTABLISHED client"] != 0 || len(seen) != 2 {
		t.Errorf("%v", seen)
	}
}

// TestOldTypes reads the description of kernels that lack things.
func TestOldTypes(t *testing.T) {
	tracepoint := func(name string, arguments int) *btf.Typedef {
		proto := &btf.FuncProto{Return: &btf.Void{}}
		for range arguments + 1 {
			proto.Params = append(proto.Params, btf.FuncParam{Type: &btf.Pointer{Target: &btf.Void{}}})
		}
		return &btf.Typedef{Name: "btf_trace_" + name, Type: &btf.Pointer{Target: proto}}
	}
	word := &btf.Int{Name: "u64", Size: 8}
	group := func(member string) *btf.Struct {
		return &btf.Struct{Name: "sock_cgroup_data", Size: 8, Members: []btf.Member{{Type: &btf.Union{Size: 8, Members: []btf.Member{{Name: member, Type: word}}}}}}
	}
	points := []btf.Type{tracepoint("tcp_receive_reset", 1), tracepoint("inet_sock_set_state", 3), tracepoint("tcp_destroy_sock", 1)}
	enum := &btf.Enum{Name: "sk_rst_reason", Size: 4, Values: []btf.EnumValue{{Name: "SK_RST_REASON_NOT_SPECIFIED"}, {Name: "SK_RST_REASON_LATER", Value: 3}}}
	for _, c := range []struct {
		name    string
		types   []btf.Type
		want    kernelFeatures
		missing string
		reason  string // of number 3
	}{
		{"now", append(points, tracepoint("tcp_send_reset", 3), group("cgroup"), enum), kernelFeatures{reason: true, cgroup: true, cgroupPointer: true}, "", "LATER"},
		{"5.8", append(points, tracepoint("tcp_send_reset", 2), group("val")), kernelFeatures{cgroup: true}, "", ""},
		{"without cgroups", append(points, tracepoint("tcp_send_reset", 2)), kernelFeatures{}, "", ""},
		{"without a tracepoint", points, kernelFeatures{}, "eBPF cannot be used: this kernel does not describe its tracepoint tcp_send_reset (" + btfFile + ")", ""},
	} {
		b, err := btf.NewBuilder(c.types, nil)
		if err != nil {
			t.Fatal(err)
		}
		types, err := b.Spec()
		if err != nil {
			t.Fatal(err)
		}
		has, err := readFeatures(types)
		has.pids = 0
		if c.missing != "" {
			if err == nil || err.Error() != c.missing {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || has != c.want {
			t.Errorf("%s: %+v %v", c.name, has, err)
		}
		if reasons := readReasons(types); c.reason != "" && (reasons[3] != c.reason || len(reasons) != 1) {
			t.Errorf("%s: %v", c.name, reasons)
		}
	}
}

// TestReasonsIn reads names from the format of a tracepoint.
func TestReasonsIn(t *testing.T) {
	got := reasonsIn(`print fmt: "state=%s reason=%s", REC->state ? __print_symbolic(REC->state, { 8, "TCP_STATE_OF" }) : "UNKNOWN", __print_symbolic(REC->reason, { 0, "NOT_SPECIFIED" }, { 8, "TCP_ABORT_ON_DATA" }, { 9, "SK_RST_REASON_TCP_TIMEWAIT_SOCKET" })`)
	if len(got) != 3 || got[8] != "TCP_ABORT_ON_DATA" || got[9] != "TCP_TIMEWAIT_SOCKET" {
		t.Error(got)
	}
	if got := reasonsIn("print fmt: \"skbaddr=%p\", REC->skbaddr"); len(got) != 0 {
		t.Error(got)
	}
}

// TestRecordLayout holds that Go reads what C writes.
func TestRecordLayout(t *testing.T) {
	spec, err := loadFacts()
	if err != nil {
		t.Fatal(err)
	}
	var r *btf.Struct
	if err := spec.Types.TypeByName("record", &r); err != nil {
		t.Fatal(err)
	}
	at := uint32(0)
	for _, m := range r.Members {
		if m.Offset.Bytes() != at {
			t.Errorf("%d bytes before %s say nothing", m.Offset.Bytes()-at, m.Name)
		}
		n, err := btf.Sizeof(m.Type)
		if err != nil {
			t.Fatal(err)
		}
		at = m.Offset.Bytes() + uint32(n)
	}
}

// TestQuiet holds that a close that nothing is to be said of is not told of.
func TestQuiet(t *testing.T) {
	needRoot(t)
	ns, inode := newNamespace(t)
	f := openFor(t, FactsConfig{Namespaces: []uint64{inode}})
	server, client := newActor(t, ns, "server", nil), newActor(t, ns, "client", nil)
	client.target = "127.0.0.1:" + server.do("listen 127.0.0.1:0 1")
	for _, read := range []string{"read", "await"} {
		client.do("connect %s", target)
		server.do("accept")
		client.do("write %q", request)
		server.do("%s", read)
		server.do("shutdown")
		client.do("close")
		if read == "read" {
			server.do("close")
		}
	}
	var all []*capture.SocketFact
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		if err := f.Read(20*time.Millisecond, func(x *capture.SocketFact) { all = append(all, x) }); err != nil {
			t.Fatal(err)
		}
	}
	if len(all) != 1 || all[0].Kind != capture.Closed || all[0].Unread != uint32(len(request)) || all[0].NewState != "FIN_WAIT1" || all[0].Owner.PID != server.pid() {
		for _, x := range all {
			t.Errorf("%+v", *x)
		}
		t.Errorf("%d facts", len(all))
	}
}

// TestIdle holds for how long a socket had been idle, and when it was closed.
func TestIdle(t *testing.T) {
	needRoot(t)
	ns, inode := newNamespace(t)
	f := openFor(t, FactsConfig{Namespaces: []uint64{inode}, Closes: true})
	server, client := newActor(t, ns, "server", nil), newActor(t, ns, "client", nil)
	client.target = "127.0.0.1:" + server.do("listen 127.0.0.1:0 1")
	client.do("connect %s", target)
	server.do("accept")
	began := time.Now()
	client.do("write %q", request)
	server.do("read")
	written := time.Now()
	time.Sleep(300 * time.Millisecond)
	before := time.Now()
	server.do("close")
	after := time.Now()
	all := gather(t, f, func(all []*capture.SocketFact) bool { return len(all) > 0 })
	if len(all) == 0 {
		t.Fatal("not told")
	}
	x := all[0]
	const tick = 10 * time.Millisecond // of the coarsest kernel
	if least, most := before.Sub(written)-tick, after.Sub(began)+tick; !x.HasIdle || x.Idle < least || x.Idle > most {
		t.Errorf("idle for %v, not between %v and %v", x.Idle, least, most)
	}
	if at := x.Time.Std(); at.Before(before.Add(-time.Millisecond)) || at.After(after.Add(time.Millisecond)) {
		t.Errorf("at %v, not between %v and %v", at, before, after)
	}
}

// TestWake holds that a full ring does not wait.
func TestWake(t *testing.T) {
	needRoot(t)
	ns, inode := newNamespace(t)
	f := openFor(t, FactsConfig{Namespaces: []uint64{inode}, Buffer: 32 << 10})
	done := make(chan time.Duration)
	go func() {
		began := time.Now()
		f.Read(10*time.Second, func(*capture.SocketFact) {})
		done <- time.Since(began)
	}()
	abort(t, ns, 50)
	if d := <-done; d > 5*time.Second {
		t.Errorf("woken after %v", d)
	}
}

// TestClose ends a read that waits.
func TestClose(t *testing.T) {
	needRoot(t)
	f, err := OpenFacts(FactsConfig{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- f.Read(time.Minute, func(*capture.SocketFact) {}) }()
	time.Sleep(20 * time.Millisecond)
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		// On a busy host, something else may have been told meanwhile.
		if err != nil || !errors.Is(f.Read(time.Minute, func(*capture.SocketFact) {}), os.ErrClosed) {
			t.Error(err)
		}
	}
}
