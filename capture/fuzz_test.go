package capture

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// FuzzFile reads any bytes as a capture: it must end, without panic, and its
// counts must add up.
func FuzzFile(f *testing.F) {
	pcap := pcapOf(1, frameOf(1, "one"), frameOf(2, "two"))
	w := newPcapng(binary.BigEndian)
	w.iface(1, 0, w.opt(9, 0x8a))
	w.enhanced(0, 1, frameOf(1, "a"), 0, w.opt(4, w.u64(3)...))
	w.simple(frameOf(2, "b"), 99)
	w.obsolete(0, 1, 1, frameOf(3, "c"))
	w.block(blockStatistics, w.u32(0), w.u64(0), w.opt(5, w.u64(10)...))
	w.section(binary.LittleEndian)
	f.Add(pcap)
	f.Add(w.Bytes())
	f.Add(compressed(f, "gzip", pcap))
	f.Add(compressed(f, "zstd", w.Bytes()))
	f.Fuzz(func(t *testing.T, data []byte) {
		src, err := OpenFiles([]string{"-"}, bytes.NewReader(data), Filter{})
		if err != nil {
			return
		}
		defer src.Close()
		var s Segment
		var n uint64
		for {
			if err = src.Next(&s); err != nil {
				break
			}
			n++
			if s.Len < len(s.Payload) {
				t.Fatalf("%d bytes of a payload of %d", len(s.Payload), s.Len)
			}
		}
		st := src.Stats()
		if st.Segments != n || st.Segments+st.Other+st.Fragments+st.Undecodable != st.Packets {
			t.Errorf("%d segments, %+v", n, st)
		}
		if again := src.Next(&s); again != err {
			t.Errorf("%v after %v", again, err)
		}
	})
}

// FuzzDecode decodes any bytes as a packet of any link type, and holds the result
// against gopacket's where both can be had.
func FuzzDecode(f *testing.F) {
	for _, c := range carriers {
		f.Add(uint16(c.link), uint16(0), c.data)
		f.Add(uint16(c.link), uint16(1000), c.data[:len(c.data)-10])
	}
	f.Fuzz(func(t *testing.T, number, more uint16, data []byte) {
		var d decoder
		var s Segment
		p := packet{link: linkFor(uint32(number)), data: data, wire: len(data) + int(more)}
		before := bytes.Clone(data)
		o := d.decode(&p, &s)
		if !bytes.Equal(before, data) {
			t.Fatal("the packet was written to")
		}
		switch o {
		case isTCP:
			if s.Len < len(s.Payload) {
				t.Fatalf("%d bytes of a payload of %d", len(s.Payload), s.Len)
			}
		case isBad:
			if d.why == "" {
				t.Fatal("bad for no reason")
			}
		}
		if more == 0 {
			compare(t, number, data, o, d.why, &s)
		}
	})
}

// compare compares a decoded packet with what gopacket makes of it, as far as
// gopacket reads the same headers, and all of them.
func compare(t *testing.T, number uint16, data []byte, o outcome, why string, s *Segment) {
	var first gopacket.Decoder
	switch number {
	case 1:
		first = layers.LayerTypeEthernet
	case 228:
		first = layers.LayerTypeIPv4
	case 229:
		first = layers.LayerTypeIPv6
	case 113:
		first = layers.LayerTypeLinuxSLL
	default:
		return
	}
	p := gopacket.NewPacket(data, first, gopacket.DecodeOptions{NoCopy: true})
	if p.ErrorLayer() != nil || p.Metadata().Truncated {
		return
	}
	var ip4 *layers.IPv4
	var ip6 *layers.IPv6
	var tcp *layers.TCP
	for _, l := range p.Layers() {
		switch l := l.(type) {
		case *layers.IPv4:
			ip4, ip6 = l, nil
			if l.Version != 4 {
				return // gopacket does not mind
			}
		case *layers.IPv6:
			ip4, ip6 = nil, l
			if l.Version != 6 || l.Length == 0 {
				return // as above; read by another rule
			}
		case *layers.TCP:
			tcp = l
		case *layers.Ethernet, *layers.Dot1Q, *layers.LinuxSLL, gopacket.Payload, *gopacket.Payload:
		case *layers.VXLAN:
			if !l.ValidIDFlag {
				return // gopacket does not mind
			}
		case *layers.UDP:
			if l.DstPort != portVXLAN {
				return // other tunnels: gopacket goes by either port
			}
		default:
			return // what is not in the list is read by other rules
		}
	}
	if tcp == nil {
		return
	}
	if o != isTCP {
		t.Fatalf("outcome %d %q, gopacket has a segment: %v", o, why, p)
	}
	if s.Src.Port != uint16(tcp.SrcPort) || s.Dst.Port != uint16(tcp.DstPort) || s.Seq != tcp.Seq || s.Ack != tcp.Ack || s.Window != tcp.Window {
		t.Fatalf("%v, gopacket has %v", s, p)
	}
	flags := []bool{tcp.FIN, tcp.SYN, tcp.RST, tcp.PSH, tcp.ACK, tcp.URG, tcp.ECE, tcp.CWR}
	for i, set := range flags {
		if s.Has(1<<i) != set {
			t.Fatalf("%v, gopacket has %v", s, p)
		}
	}
	src, dst := s.Src.AddrPort().Addr(), s.Dst.AddrPort().Addr()
	if ip4 != nil && (!ip4.SrcIP.Equal(src.AsSlice()) || !ip4.DstIP.Equal(dst.AsSlice()) || ip4.TTL != s.TTL || ip4.Id != s.IPID) ||
		ip6 != nil && (!ip6.SrcIP.Equal(src.AsSlice()) || !ip6.DstIP.Equal(dst.AsSlice()) || ip6.HopLimit != s.TTL) {
		t.Fatalf("%v, gopacket has %v", s, p)
	}
	if !bytes.Equal(s.Payload, tcp.Payload) || s.Len != len(tcp.Payload) {
		t.Fatalf("%d bytes of %d, gopacket has %v", len(s.Payload), s.Len, p)
	}
}

func benchmarkRead(b *testing.B, data []byte, packets int) {
	b.SetBytes(int64(len(data) / packets))
	b.ReportAllocs()
	var s Segment
	var src Source
	for n := 0; b.Loop(); n++ {
		if n%packets == 0 {
			var err error
			if src, err = OpenFiles([]string{"-"}, bytes.NewReader(data), Filter{}); err != nil {
				b.Fatal(err)
			}
		}
		if err := src.Next(&s); err != nil {
			b.Fatal(err)
		}
	}
	if err := src.Next(&s); err != nil && err != io.EOF {
		b.Fatal(err)
	}
}

const benchPackets = 200000

// benchFrame is a packet of the size that requests and answers on kept-alive
// connections have on average.
func benchFrame() []byte { return frameOf(1, string(make([]byte, 360))) }

func BenchmarkReadPcap(b *testing.B) {
	w := newPcap(binary.LittleEndian, 0xa1b2c3d4, 1)
	f := benchFrame()
	for i := range uint32(benchPackets) {
		w.packet(i, 0, f, len(f))
	}
	benchmarkRead(b, w.Bytes(), benchPackets)
}

func BenchmarkReadPcapng(b *testing.B) {
	w := newPcapng(binary.LittleEndian)
	w.iface(1, 0)
	f := benchFrame()
	for i := range uint64(benchPackets) {
		w.enhanced(0, i, f, len(f))
	}
	benchmarkRead(b, w.Bytes(), benchPackets)
}
