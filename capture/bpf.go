package capture

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/net/bpf"
)

// This file compiles a Filter to classic BPF, which the kernel runs on every
// packet before it is copied. The program may let through more than the Filter
// does, which is asked again afterwards, and never less: it refuses only what it
// has understood.
//
// What it understands is IPv4 with options, IPv6 with at most a hop-by-hop header
// (which is how "BIG TCP" looks), and TCP at once behind. What may have TCP
// further in is let through as a whole: other extension headers, IP in IP, GRE,
// MPLS, inner VLAN tags, and UDP to the ports of tunnels. Looking into those
// would take a program for each nesting, and on hosts that have them a port alone
// would still not tell which of the nested packets is meant.
//
// The packet begins with its network header, as it does for SOCK_DGRAM sockets
// whatever the link is.

// What the kernel's packets come with, as seen by the program.
const (
	packetOutgoing = 4   // PACKET_OUTGOING, linux/if_packet.h
	hardwareLoop   = 772 // ARPHRD_LOOPBACK, linux/if_arp.h
)

// maxProgram is how long a program the kernel takes: BPF_MAXINSNS.
const maxProgram = 4096

// everything is a snap length above that of every packet.
const everything = 1 << 30

// compileFilter returns a program for packets on the given interfaces; none means
// all. Of each packet it lets through, it lets snap bytes be captured.
func compileFilter(f *Filter, interfaces []int, snap int) ([]bpf.RawInstruction, error) {
	if snap <= 0 {
		snap = everything
	}
	a := &assembler{snap: uint32(snap)}
	a.prologue(interfaces)
	a.ip(f)
	if len(a.code) > maxProgram-16 {
		// Thousands of ports: the filter is asked afterwards.
		a = &assembler{snap: uint32(snap)}
		a.prologue(interfaces)
		a.ip(&Filter{})
	}
	return bpf.Assemble(a.link())
}

// An assembler collects instructions that jump to labels.
type assembler struct {
	snap  uint32
	code  []bpf.Instruction
	jumps []pending
	marks map[label]int
}

type label uint8

const (
	accept label = iota
	refuse
	ours
	version4
	version6
	tcp4
	udp4
	hosts4
	tcp6
	udp6
	behindHopByHop
	hosts6
)

// A pending jump gets its distance when its label has a place.
type pending struct {
	at int
	to label
}

func (a *assembler) emit(in ...bpf.Instruction) { a.code = append(a.code, in...) }

func (a *assembler) mark(l label) {
	if a.marks == nil {
		a.marks = map[label]int{}
	}
	a.marks[l] = len(a.code)
}

func (a *assembler) jump(to label) {
	a.jumps = append(a.jumps, pending{len(a.code), to})
	a.emit(bpf.Jump{})
}

// when jumps if the accumulator compares so with v. Conditional jumps reach 255
// instructions far, so they only skip one that reaches everything.
func (a *assembler) when(test bpf.JumpTest, v uint32, to label) {
	a.emit(bpf.JumpIf{Cond: test, Val: v, SkipFalse: 1})
	a.jump(to)
}

func (a *assembler) whenAny(values []uint32, to label) {
	for _, v := range values {
		a.when(bpf.JumpEqual, v, to)
	}
}

// link ends the program and sets the distances.
func (a *assembler) link() []bpf.Instruction {
	a.mark(accept)
	a.emit(bpf.RetConstant{Val: a.snap})
	a.mark(refuse)
	a.emit(bpf.RetConstant{Val: 0})
	for _, j := range a.jumps {
		a.code[j.at] = bpf.Jump{Skip: uint32(a.marks[j.to] - j.at - 1)}
	}
	return a.code
}

// prologue looks at what the kernel says beside the packet.
func (a *assembler) prologue(interfaces []int) {
	// On the loopback interface every packet goes out and comes in: once is enough.
	a.emit(bpf.LoadExtension{Num: bpf.ExtType}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: packetOutgoing, SkipTrue: 3})
	a.emit(bpf.LoadExtension{Num: bpf.ExtLinkLayerType})
	a.when(bpf.JumpEqual, hardwareLoop, refuse)
	if len(interfaces) > 0 {
		a.emit(bpf.LoadExtension{Num: bpf.ExtInterfaceIndex})
		for _, index := range interfaces {
			a.when(bpf.JumpEqual, uint32(index), ours)
		}
		a.jump(refuse)
	}
	a.mark(ours)
	a.emit(bpf.LoadExtension{Num: bpf.ExtProto})
	a.when(bpf.JumpEqual, etherIPv4, version4)
	a.when(bpf.JumpEqual, etherIPv6, version6)
	a.whenAny(etherCarriers, accept)
	a.jump(refuse)
}

// etherCarriers are EtherTypes behind which there may be IP: 802.2, VLAN tags, MPLS,
// PPPoE, PPP, bridged Ethernet, provider backbone bridging.
var etherCarriers = []uint32{4, etherVLAN, etherQinQ, etherQinQOld, etherQinQOld2, 0x8847, 0x8848, 0x8864, 0x880b, 0x6558, 0x88e7}

// nested are IP protocols behind which there may be TCP.
var nested = []uint32{ipHopByHop, ipIPv4, ipIPv6, ipRouting, ipFragment, ipGRE, ipAH, ipDstOpts, ipIPIP, ipEtherIP, ipEncap, ipMobility, ipMPLS, ipHIP, ipShim6}

// tunnels are the UDP ports that package capture looks behind, see udp.go.
var tunnels = []uint32{portVXLAN, portVXLANOS, portGPE, portGeneve, portGTP, portGRE, portMPLS, portTeredo}

// ip tests an IP packet.
func (a *assembler) ip(f *Filter) {
	const header6 = ipv6Len
	a.mark(version4)
	a.emit(bpf.LoadAbsolute{Off: 9, Size: 1})
	a.when(bpf.JumpEqual, ipTCP, tcp4)
	a.when(bpf.JumpEqual, ipUDP, udp4)
	a.whenAny(nested, accept)
	a.jump(refuse)

	a.mark(udp4)
	a.emit(bpf.LoadAbsolute{Off: 6, Size: 2})
	a.when(bpf.JumpBitsSet, moreAndFrag, refuse)
	a.emit(bpf.LoadMemShift{Off: 0})
	a.tunnel(0)

	a.mark(tcp4)
	// A fragment that is not the first has no ports. It is only counted.
	a.emit(bpf.LoadAbsolute{Off: 6, Size: 2})
	a.when(bpf.JumpBitsSet, moreAndFrag, accept)
	a.emit(bpf.LoadMemShift{Off: 0})
	a.ports(f, 0, hosts4)
	a.mark(hosts4)
	a.addresses4(f)

	a.mark(version6)
	a.emit(bpf.LoadAbsolute{Off: 6, Size: 1})
	a.emit(bpf.LoadConstant{Dst: bpf.RegX, Val: 0})
	a.when(bpf.JumpEqual, ipTCP, tcp6)
	a.when(bpf.JumpEqual, ipUDP, udp6)
	a.when(bpf.JumpEqual, ipHopByHop, behindHopByHop)
	a.whenAny(nested, accept)
	a.jump(refuse)

	a.mark(behindHopByHop)
	a.emit(bpf.LoadAbsolute{Off: header6 + 1, Size: 1}, bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 3},
		bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: 8}, bpf.TAX{}, bpf.LoadAbsolute{Off: header6, Size: 1})
	a.when(bpf.JumpEqual, ipTCP, tcp6)
	a.when(bpf.JumpEqual, ipUDP, udp6)
	a.whenAny(nested, accept)
	a.jump(refuse)

	a.mark(udp6)
	a.tunnel(header6)

	a.mark(tcp6)
	a.ports(f, header6, hosts6)
	a.mark(hosts6)
	a.addresses6(f)
}

// tunnel lets UDP to the ports of tunnels through; the header is at off, counted
// from the index register.
func (a *assembler) tunnel(off uint32) {
	a.emit(bpf.LoadIndirect{Off: off + 2, Size: 2})
	a.whenAny(tunnels, accept)
	a.emit(bpf.LoadIndirect{Off: off, Size: 2})
	a.when(bpf.JumpEqual, portTeredo, accept)
	a.jump(refuse)
}

// ports tests both ports of a TCP header at off, counted from the index register.
func (a *assembler) ports(f *Filter, off uint32, then label) {
	if len(f.Ports) == 0 {
		return
	}
	for _, port := range []uint32{off, off + 2} {
		a.emit(bpf.LoadIndirect{Off: port, Size: 2})
		for _, r := range f.Ports {
			if r.First == r.Last {
				a.when(bpf.JumpEqual, uint32(r.First), then)
				continue
			}
			a.emit(bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(r.First), SkipTrue: 2})
			a.when(bpf.JumpLessOrEqual, uint32(r.Last), then)
		}
	}
	a.jump(refuse)
}

func (a *assembler) addresses4(f *Filter) {
	if len(f.Prefixes) == 0 {
		a.jump(accept)
		return
	}
	for _, off := range []uint32{12, 16} {
		for _, p := range f.Prefixes {
			if !p.Addr().Is4() {
				continue
			}
			mask := uint32(uint64(0xffffffff) << (32 - p.Bits()))
			net := p.Addr().As4()
			a.emit(bpf.LoadAbsolute{Off: off, Size: 4})
			if mask != 0xffffffff {
				a.emit(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask})
			}
			a.when(bpf.JumpEqual, binary.BigEndian.Uint32(net[:])&mask, accept)
		}
	}
	a.jump(refuse)
}

func prefixIs4(p netip.Prefix) bool { return p.Addr().Is4() }

func (a *assembler) addresses6(f *Filter) {
	if len(f.Prefixes) == 0 {
		a.jump(accept)
		return
	}
	for _, off := range []uint32{8, 24} {
		for _, p := range f.Prefixes {
			if p.Addr().Is4() {
				continue
			}
			a.prefix6(off, p.Addr().As16(), p.Bits())
		}
		if slices.ContainsFunc(f.Prefixes, prefixIs4) {
			// IPv4-mapped addresses are IPv4 ones to the filter, though they should
			// never be on a wire.
			a.prefix6(off, [16]byte{10: 0xff, 11: 0xff}, 96)
		}
	}
	a.jump(refuse)
}

// prefix6 lets a packet through whose address at off is in the prefix.
func (a *assembler) prefix6(off uint32, addr [16]byte, bits int) {
	words := max(1, (bits+31)/32)
	// Each word takes three instructions, and the last one's jump another.
	for i := range words {
		mask := uint32(uint64(0xffffffff) << (32 - min(32, bits-32*i)))
		a.emit(bpf.LoadAbsolute{Off: off + uint32(4*i), Size: 4}, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask})
		want := binary.BigEndian.Uint32(addr[4*i:]) & mask
		if i == words-1 {
			a.when(bpf.JumpEqual, want, accept)
			continue
		}
		rest := words - 1 - i
		a.emit(bpf.JumpIf{Cond: bpf.JumpEqual, Val: want, SkipFalse: uint8(3*rest + 1)})
	}
}
