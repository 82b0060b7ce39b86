//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// A pcapFile is a capture as tcpdump writes it here: little-endian, one link type.
type pcapFile struct {
	head    []byte
	link    uint32
	records []record
}

// A record is one packet with its header of 16 bytes.
type record struct{ head, data []byte }

func readPcap(file string) (*pcapFile, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if len(b) < 24 || binary.LittleEndian.Uint32(b) != 0xa1b2c3d4 {
		return nil, fmt.Errorf("%s is no capture of tcpdump's", file)
	}
	p := &pcapFile{head: b[:24], link: binary.LittleEndian.Uint32(b[20:]) & 0xffff}
	for b = b[24:]; len(b) >= 16; {
		n := int(binary.LittleEndian.Uint32(b[8:]))
		if len(b) < 16+n {
			return nil, errors.New(file + " is cut off")
		}
		p.records = append(p.records, record{b[:16], b[16 : 16+n]})
		b = b[16+n:]
	}
	return p, nil
}

func (p *pcapFile) write(file string) error {
	out := append([]byte(nil), p.head...)
	for _, r := range p.records {
		out = append(append(out, r.head...), r.data...)
	}
	return os.WriteFile(file, out, 0o666)
}

// toServer reports whether a packet travels to one of the server's ports.
func (p *pcapFile) toServer(r record) bool {
	ip := r.data
	if p.link == 1 { // Ethernet; a TUN device has none
		ip = ip[min(14, len(ip)):]
	}
	if len(ip) < 20 || ip[0]>>4 != 4 {
		return false
	}
	tcp := ip[min(len(ip), int(ip[0]&15)*4):]
	if len(tcp) < 4 {
		return false
	}
	to := int(binary.BigEndian.Uint16(tcp[2:]))
	return to >= port && to < lastPort
}

// A damage is a way in which captures of others are incomplete.
type damage struct {
	name string
	do   func(p *pcapFile) []record
}

// damages returns all of them.
func damages() []damage {
	filter := func(keep func(p *pcapFile, i int, r record) bool) func(*pcapFile) []record {
		return func(p *pcapFile) []record {
			var all []record
			for i, r := range p.records {
				if keep(p, i, r) {
					all = append(all, r)
				}
			}
			return all
		}
	}
	return []damage{
		{"every-second-packet", filter(func(_ *pcapFile, i int, _ record) bool { return i%2 == 0 })},
		{"every-other-second-packet", filter(func(_ *pcapFile, i int, _ record) bool { return i%2 == 1 })},
		{"begun-late", filter(func(p *pcapFile, i int, _ record) bool { return i >= len(p.records)/3 })},
		{"only-to-server", filter(func(p *pcapFile, _ int, r record) bool { return p.toServer(r) })},
		{"only-to-client", filter(func(p *pcapFile, _ int, r record) bool { return !p.toServer(r) })},
		{"snap-96", func(p *pcapFile) []record {
			var all []record
			for _, r := range p.records {
				head := append([]byte(nil), r.head...)
				data := r.data[:min(96, len(r.data))]
				binary.LittleEndian.PutUint32(head[8:], uint32(len(data)))
				all = append(all, record{head, data})
			}
			return all
		}},
	}
}

// damaged writes a damaged copy of a capture.
func damaged(from, to string, d damage) error {
	p, err := readPcap(from)
	if err != nil {
		return err
	}
	p.records = d.do(p)
	return p.write(to)
}
