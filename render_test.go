package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"whyreset/capture"
)

// renderFrame returns the whole Ethernet frame of a segment. Payload that was
// not captured is zeros.
func renderFrame(s *capture.Segment) []byte {
	src, dst := s.Src.AddrPort(), s.Dst.AddrPort()
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()),
		Seq: s.Seq, Ack: s.Ack, Window: s.Window,
		FIN: s.Has(capture.FIN), SYN: s.Has(capture.SYN), RST: s.Has(capture.RST), PSH: s.Has(capture.PSH),
		ACK: s.Has(capture.ACK), URG: s.Has(capture.URG), ECE: s.Has(capture.ECE), CWR: s.Has(capture.CWR),
	}
	option := func(kind layers.TCPOptionKind, data ...byte) {
		n := uint8(2 + len(data))
		if kind == layers.TCPOptionKindNop {
			n = 1
		}
		tcp.Options = append(tcp.Options, layers.TCPOption{OptionType: kind, OptionLength: n, OptionData: data})
	}
	if s.Has(capture.SYN) && s.HasOpts {
		option(layers.TCPOptionKindMSS, 0x05, 0xb4)
		if s.WScale >= 0 {
			option(layers.TCPOptionKindNop)
			option(layers.TCPOptionKindWindowScale, byte(s.WScale))
		}
	}
	if s.HasTS {
		ms := uint32(s.Time / 1e6)
		option(layers.TCPOptionKindNop)
		option(layers.TCPOptionKindNop)
		option(layers.TCPOptionKindTimestamps, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, ms), ms-50)...)
	} else if s.HasOpts && len(tcp.Options) == 0 {
		for range 4 {
			option(layers.TCPOptionKindNop)
		}
	}
	ether := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0}
	var ip gopacket.SerializableLayer
	if src.Addr().Is6() {
		ether[12], ether[13] = 0x86, 0xdd
		ip6 := &layers.IPv6{Version: 6, HopLimit: s.TTL, NextHeader: layers.IPProtocolTCP, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
		tcp.SetNetworkLayerForChecksum(ip6)
		ip = ip6
	} else {
		ip4 := &layers.IPv4{
			Version: 4, TTL: s.TTL, Protocol: layers.IPProtocolTCP, Id: s.IPID, Flags: layers.IPv4DontFragment,
			SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice(),
		}
		tcp.SetNetworkLayerForChecksum(ip4)
		ip = ip4
	}
	payload := make(gopacket.Payload, s.Len)
	copy(payload, s.Payload)
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, ip, tcp, payload); err != nil {
		panic(err) // the layers above are ours: nothing a scenario says can cause it
	}
	return append(ether, buf.Bytes()...) // layers.Ethernet would pad short frames
}

// renderPCAP returns a nanosecond pcap file with the segments as they are.
func renderPCAP(segs []capture.Segment) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b23c4d)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	b = le.AppendUint32(b, 262144)
	b = le.AppendUint32(b, 1) // Ethernet
	for i := range segs {
		s := &segs[i]
		frame := renderFrame(s)
		b = le.AppendUint32(b, uint32(s.Time/1e9))
		b = le.AppendUint32(b, uint32(s.Time%1e9))
		b = le.AppendUint32(b, uint32(len(frame)-s.Len+len(s.Payload)))
		b = le.AppendUint32(b, uint32(len(frame)))
		b = append(b, frame[:len(frame)-s.Len+len(s.Payload)]...)
	}
	return b
}

// The race as text, and what tcpdump makes of its bytes: this holds the language
// and the renderer to what an independent program reads.
const tinyFlow = `
at client rtt=100ms
0s     > HANDSHAKE
+0s    > GET /a
+100ms < 200 "ok"
+0s    > ACK
1.2s   > POST /b "hello"
1.25s  < FIN CROSS
+0s    > ACK
1.3s   < RST-REPLY
1.35s  < RST-REPLY
`

const tinyDump = `
IP (tos 0x0, ttl 64, id 101, offset 0, flags [DF], proto TCP (6), length 60) 10.0.0.1.40000 > 10.0.0.2.80: Flags [S], seq 1000, win 64240, options [mss 1460,nop,wscale 7,nop,nop,TS
IP (tos 0x0, ttl 57, id 701, offset 0, flags [DF], proto TCP (6), length 60) 10.0.0.2.80 > 10.0.0.1.40000: Flags [S.], seq 5000, ack 1001, win 64240, options [mss 1460,nop,wscale 7,nop,nop,TS
IP (tos 0x0, ttl 64, id 102, offset 0, flags [DF], proto TCP (6), length 52) 10.0.0.1.40000 > 10.0.0.2.80: Flags [.], ack 5001, win 502, options [nop,nop,TS
IP (tos 0x0, ttl 64, id 103, offset 0, flags [DF], proto TCP (6), length 80) 10.0.0.1.40000 > 10.0.0.2.80: Flags [P.], seq 1001:1029, ack 5001, win 502, options [nop,nop,TS
IP (tos 0x0, ttl 57, id 702, offset 0, flags [DF], proto TCP (6), length 96) 10.0.0.2.80 > 10.0.0.1.40000: Flags [P.], seq 5001:5045, ack 1029, win 502, options [nop,nop,TS
IP (tos 0x0, ttl 64, id 104, offset 0, flags [DF], proto TCP (6), length 52) 10.0.0.1.40000 > 10.0.0.2.80: Flags [.], ack 5045, win 502, options [nop,nop,TS
IP (tos 0x0, ttl 64, id 105, offset 0, flags [DF], proto TCP (6), length 105) 10.0.0.1.40000 > 10.0.0.2.80: Flags [P.], seq 1029:1082, ack 5045, win 502, options [nop,nop,TS
IP (tos 0x0, ttl 57, id 703, offset 0, flags [DF], proto TCP (6), length 52) 10.0.0.2.80 > 10.0.0.1.40000: Flags [F.], seq 5045, ack 1029, win 502, options [nop,nop,TS
IP (tos 0x0, ttl 64, id 106, offset 0, flags [DF], proto TCP (6), length 52) 10.0.0.1.40000 > 10.0.0.2.80: Flags [.], ack 5046, win 502, options [nop,nop,TS
IP (tos 0x0, ttl 57, id 0, offset 0, flags [DF], proto TCP (6), length 40) 10.0.0.2.80 > 10.0.0.1.40000: Flags [R], seq 5045, win 0, length 0
IP (tos 0x0, ttl 57, id 0, offset 0, flags [DF], proto TCP (6), length 40) 10.0.0.2.80 > 10.0.0.1.40000: Flags [R], seq 5046, win 0, length 0
`

func TestFlowAgainstTcpdump(t *testing.T) {
	tcpdump, err := exec.LookPath("tcpdump")
	if err != nil {
		t.Skip("tcpdump is not installed")
	}
	name := filepath.Join(t.TempDir(), "flow.pcap")
	writeFile(t, name, renderFlow(t, tinyFlow))
	cmd := exec.Command(tcpdump, "-r", name, "-n", "-t", "-S", "-v", "-K")
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(strings.ReplaceAll(string(out), "\n    ", " ")) {
		if !strings.HasPrefix(line, "IP") {
			continue // HTTP, as tcpdump -v prints it
		}
		line, _, _ = strings.Cut(strings.TrimSpace(line), " val ")
		got = append(got, line)
	}
	if got := "\n" + strings.Join(got, "\n") + "\n"; got != tinyDump {
		t.Errorf("tcpdump reads%s\nwant%s", got, tinyDump)
	}
}

// The same without tcpdump: every field of every segment survives the bytes.
func TestRenderRoundTrip(t *testing.T) {
	const more = tinyFlow + `
conn six [2001:db8::1]:5000 [2001:db8::2]:8080 isn=4294967290,4294967295
2s    six> SYN
+100ms six< RST-REFUSE
conn part 10.0.0.3:1 10.0.0.2:80 midstream
3s    part> "GET /c" len=70000 snap=3 ttl=9 ipid=77 win=12
+0s   part> "d" opts=no seq=500 ack=900
`
	segs, err := parseFlow(more)
	if err != nil {
		t.Fatal(err)
	}
	data := renderPCAP(segs)[24:]
	for i := range segs {
		want := &segs[i]
		n, wire := binary.LittleEndian.Uint32(data[8:]), int(binary.LittleEndian.Uint32(data[12:]))
		frame := data[16 : 16+n]
		data = data[16+n:]
		p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
		tcp := p.TransportLayer().(*layers.TCP)
		header := 14 + len(p.NetworkLayer().LayerContents()) + int(tcp.DataOffset)*4
		got := capture.Segment{
			Time: want.Time, Src: want.Src, Dst: want.Dst, Frame: want.Frame, WScale: want.WScale, HasTS: want.HasTS,
			Seq: tcp.Seq, Ack: tcp.Ack, Flags: capture.Flags(tcp.Contents[13]), Window: tcp.Window,
			HasOpts: tcp.DataOffset > 5, Len: wire - header, Payload: tcp.Payload,
		}
		switch ip := p.NetworkLayer().(type) {
		case *layers.IPv4:
			got.TTL, got.IPID = ip.TTL, ip.Id
		case *layers.IPv6:
			got.TTL = ip.HopLimit
		}
		if !bytes.Equal(got.Payload, want.Payload) {
			t.Errorf("segment %d: payload %q, want %q", i+1, got.Payload, want.Payload)
		}
		if g, w := got.String(), want.String(); g != w || got.TTL != want.TTL || got.IPID != want.IPID || got.HasOpts != want.HasOpts {
			t.Errorf("segment %d: got %s, want %s", i+1, g, w)
		}
	}
	if len(data) != 0 {
		t.Errorf("%d bytes after the last segment", len(data))
	}
}

// What the language must refuse, because it would silently mean something else.
func TestFlowErrors(t *testing.T) {
	for _, test := range []struct{ flow, want string }{
		{"at client rtt=100ms\n0s > HANDSHAKE\n+0s > GET /a\n+10ms < 200", "only 1 can have arrived"},
		{"at server rtt=100ms\n0s > HANDSHAKE\n+0s < \"x\"\n+99ms > ACK", "only 1 can have arrived"},
		{"at client rtt=100ms\n0s > HANDSHAKE\n+0s > GET /a\n+100ms < 200 CROSS", "nothing is on its way"},
		{"1s > SYN\n0.5s < SYN", "time runs backwards"},
		{"0s < RST-REPLY", "no segment has arrived"},
		{"0s > NONSENSE", "unknown word"},
		{"0s x> SYN", "no such connection"},
		{"0s > \"open", "bad string"},
		{"0s > GET", "without a target"},
	} {
		if _, err := parseFlow(test.flow); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: error %v, want one with %q", test.flow, err, test.want)
		}
	}
}

// renderFlow returns the capture file of a flow.
func renderFlow(t testing.TB, text string) []byte {
	t.Helper()
	segs, err := parseFlow(text)
	if err != nil {
		t.Fatal(err)
	}
	return renderPCAP(segs)
}

func writeFile(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o666); err != nil {
		t.Fatal(err)
	}
}
