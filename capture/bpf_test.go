package capture

import (
	"encoding/binary"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
)

// filters are what the compiled programs are tried with.
func filters() []Filter {
	prefixes := func(list string) []netip.Prefix {
		p, err := ParsePrefixes(list)
		if err != nil {
			panic(err)
		}
		return p
	}
	many := make([]PortRange, 3000)
	for i := range many {
		many[i] = PortRange{uint16(3*i + 1), uint16(3*i + 2)}
	}
	return []Filter{
		{},
		{Ports: []PortRange{{80, 80}}},
		{Ports: []PortRange{{9000, 9000}}},
		{Ports: []PortRange{{1, 79}, {81, 39999}, {40001, 65535}}},
		{Prefixes: prefixes("10.0.0.0/8")},
		{Prefixes: prefixes("10.77.0.1")},
		{Prefixes: prefixes("10.0.0.2,2001:db8::/31,::1")},
		{Prefixes: prefixes("2001:db8::2")},
		{Prefixes: prefixes("0.0.0.0/0")},
		{Prefixes: prefixes("::/0")},
		{Prefixes: prefixes("127.0.0.1"), Ports: []PortRange{{9000, 9001}}},
		{Prefixes: prefixes("fd00::/8,2001:db8:0:0:8000::/65"), Ports: []PortRange{{80, 80}}},
		{Ports: many},
	}
}

// A program is a compiled filter without its first part, which asks the kernel for
// what is beside the packet: package bpf's machine has nothing to answer.
func program(t testing.TB, f *Filter) *bpf.VM {
	t.Helper()
	a := &assembler{snap: everything}
	a.emit(bpf.LoadAbsolute{Off: 0, Size: 1}, bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4})
	a.when(bpf.JumpEqual, 4, version4)
	a.when(bpf.JumpEqual, 6, version6)
	a.jump(accept)
	a.ip(f)
	code := a.link()
	if len(code) > maxProgram {
		a = &assembler{snap: everything}
		a.mark(version4)
		a.mark(version6)
		code = a.link() // as compileFilter would: nothing is left out
	}
	vm, err := bpf.NewVM(code)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// tries holds the program against the filter.
type tries struct {
	filters  []Filter
	programs []*bpf.VM
	dec      decoder
	tcp      int // packets with TCP at once behind IP
	refused  int // of them, by programs
}

func newTries(t testing.TB) *tries {
	k := &tries{filters: filters()}
	for i := range k.filters {
		k.programs = append(k.programs, program(t, &k.filters[i]))
	}
	return k
}

// try runs every program on an IP packet: what the filter wants it must let
// through. It should refuse most of what the filter does not want.
func (k *tries) try(t testing.TB, protocol uint16, ip []byte, wire int) {
	t.Helper()
	var s Segment
	k.dec.depth = 0
	outcome := k.dec.cooked(1, protocol, ip, wire, &s)
	for i, vm := range k.programs {
		n, err := vm.Run(ip)
		if err != nil {
			t.Fatal(err)
		}
		wants := outcome == isTCP && k.filters[i].Match(&s)
		if wants && n == 0 {
			t.Errorf("%+v: the kernel would refuse %v: %x", k.filters[i], &s, ip[:min(len(ip), 100)])
		}
		if outcome == isTCP && !wants && len(k.filters[i].Ports) < 100 {
			k.tcp++
			if n == 0 {
				k.refused++
			}
		}
	}
}

// TestProgramLetsThrough runs the programs on all packets of the captures that
// come with the project, and of those in WHYRESET_CAPTURES.
func TestProgramLetsThrough(t *testing.T) {
	k := newTries(t)
	for _, c := range carriers {
		if c.link == 1 {
			k.try(t, binary.BigEndian.Uint16(c.data[12:]), c.data[14:], len(c.data)-14)
		}
	}
	names, _ := filepath.Glob("../testdata/pcap/*.pcap*")
	if dir := os.Getenv("WHYRESET_CAPTURES"); dir != "" {
		filepath.Walk(dir, func(name string, info os.FileInfo, err error) error {
			if err == nil && info.Mode().IsRegular() {
				names = append(names, name)
			}
			return nil
		})
	}
	packets := 0
	for _, name := range names {
		src, err := OpenFiles([]string{name}, nil, Filter{})
		if err != nil {
			continue
		}
		f := src.(*file)
		for n := 0; n < 20000; n++ {
			if err := f.read(); err != nil {
				if err != io.EOF && !strings.Contains(name, "nasty") {
					t.Log(err)
				}
				break
			}
			protocol, at := uint16(0), 0
			switch b := f.pkt.data; {
			case f.pkt.link.kind == linkEthernet && len(b) > 14:
				protocol, at = binary.BigEndian.Uint16(b[12:]), 14
			case f.pkt.link.kind == linkSLL && len(b) > 16:
				protocol, at = binary.BigEndian.Uint16(b[14:]), 16
			case f.pkt.link.kind == linkSLL2 && len(b) > 20:
				protocol, at = binary.BigEndian.Uint16(b), 20
			case f.pkt.link.kind == linkIP && len(b) > 1 && b[0]>>4 == 4:
				protocol = etherIPv4
			case f.pkt.link.kind == linkIP && len(b) > 1 && b[0]>>4 == 6:
				protocol = etherIPv6
			default:
				continue
			}
			packets++
			if protocol == etherIPv4 || protocol == etherIPv6 {
				k.try(t, protocol, f.pkt.data[at:], f.pkt.wire-at)
			}
		}
		src.Close()
	}
	t.Logf("%d packets; of those that filters do not want the kernel would refuse %d of %d", packets, k.refused, k.tcp)
	if packets < 1000 || k.refused*10 < k.tcp*9 {
		t.Error("too few packets, or too few refused")
	}
}

// FuzzProgram does the same with any bytes.
func FuzzProgram(f *testing.F) {
	for _, c := range carriers {
		if c.link == 1 {
			f.Add(c.data[14:])
		}
	}
	k := newTries(f)
	f.Fuzz(func(t *testing.T, ip []byte) {
		if len(ip) == 0 {
			return
		}
		switch ip[0] >> 4 {
		case 4:
			k.try(t, etherIPv4, ip, len(ip))
		case 6:
			k.try(t, etherIPv6, ip, len(ip))
		}
	})
}

// TestProgramFits compiles what the kernel will get.
func TestProgramFits(t *testing.T) {
	for _, f := range filters() {
		raw, err := compileFilter(&f, []int{3, 5}, 100)
		if err != nil || len(raw) > maxProgram {
			t.Errorf("%d instructions, %v", len(raw), err)
		}
	}
}
