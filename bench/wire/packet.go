//go:build linux

package wire

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// A Packet is one IP packet that has entered the wire.
type Packet struct {
	Toward   Side           // the end that it travels to
	Src, Dst netip.AddrPort // without ports if it is not TCP
	TTL      uint8          // or hop limit
	TCP      *layers.TCP    // nil if it is not TCP; Payload is its data
	Data     []byte         // the whole packet, from the IP header
}

// parse decodes what a TUN device delivered. A packet that it cannot read has
// neither addresses nor TCP, and travels all the same.
func parse(toward Side, data []byte) *Packet {
	p := &Packet{Toward: toward, Data: data}
	first := layers.LayerTypeIPv4
	if len(data) > 0 && data[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	g := gopacket.NewPacket(data, first, gopacket.DecodeOptions{NoCopy: true})
	var src, dst netip.Addr
	switch ip := g.NetworkLayer().(type) {
	case *layers.IPv4:
		src, _ = netip.AddrFromSlice(ip.SrcIP.To4())
		dst, _ = netip.AddrFromSlice(ip.DstIP.To4())
		p.TTL = ip.TTL
	case *layers.IPv6:
		src, _ = netip.AddrFromSlice(ip.SrcIP)
		dst, _ = netip.AddrFromSlice(ip.DstIP)
		p.TTL = ip.HopLimit
	default:
		return p
	}
	if tcp, ok := g.Layer(layers.LayerTypeTCP).(*layers.TCP); ok {
		p.TCP = tcp
		p.Src = netip.AddrPortFrom(src, uint16(tcp.SrcPort))
		p.Dst = netip.AddrPortFrom(dst, uint16(tcp.DstPort))
		return p
	}
	p.Src, p.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	return p
}

// A Header holds the fields of a forged packet that are not TCP's own.
type Header struct {
	Src, Dst netip.AddrPort
	TTL      uint8  // 64 if it is 0
	IPID     uint16 // IPv4 only
}

// Forge returns an IP packet with a TCP segment as given: sequence and
// acknowledgement numbers, flags and window are taken from tcp, ports and
// addresses from h; lengths and checksums are right.
func Forge(h Header, tcp layers.TCP, payload []byte) ([]byte, error) {
	if h.TTL == 0 {
		h.TTL = 64
	}
	tcp.SrcPort, tcp.DstPort = layers.TCPPort(h.Src.Port()), layers.TCPPort(h.Dst.Port())
	var ip gopacket.SerializableLayer
	src, dst := net.IP(h.Src.Addr().AsSlice()), net.IP(h.Dst.Addr().AsSlice())
	if h.Src.Addr().Is4() {
		v4 := &layers.IPv4{Version: 4, TTL: h.TTL, Id: h.IPID, Protocol: layers.IPProtocolTCP, SrcIP: src, DstIP: dst}
		tcp.SetNetworkLayerForChecksum(v4)
		ip = v4
	} else {
		v6 := &layers.IPv6{Version: 6, HopLimit: h.TTL, NextHeader: layers.IPProtocolTCP, SrcIP: src, DstIP: dst}
		tcp.SetNetworkLayerForChecksum(v6)
		ip = v6
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, ip, &tcp, gopacket.Payload(payload)); err != nil {
		return nil, fmt.Errorf("forge a packet from %s to %s: %w", h.Src, h.Dst, err)
	}
	return buf.Bytes(), nil
}

// age takes hops off the packet's TTL or hop limit, as that many routers would,
// and reports whether it is still alive.
func age(data []byte, hops uint8) bool {
	switch {
	case hops == 0 || len(data) < 20:
		return true
	case data[0]>>4 == 6:
		if data[7] <= hops {
			return false
		}
		data[7] -= hops
		return true
	case data[8] <= hops:
		return false
	}
	data[8] -= hops
	// The header's checksum is a one's complement sum of 16-bit words, and the
	// TTL is the upper half of one (RFC 1624, equation 3).
	sum := uint32(^binary.BigEndian.Uint16(data[10:])) + uint32(^(uint16(hops) << 8))
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(data[10:], ^uint16(sum))
	return true
}
