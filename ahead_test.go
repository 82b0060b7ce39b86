package main

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"whyreset/capture"
)

// shrinking cuts its file off while it is being read, as tools do that rotate by
// copying and truncating.
type shrinking struct {
	capture.Source
	name string
	n    int
}

func (s *shrinking) Next(seg *capture.Segment) error {
	if s.n++; s.n == 100 {
		if err := os.Truncate(s.name, 4096); err != nil {
			return err
		}
	}
	return s.Source.Next(seg)
}

// TestFileShrinks holds that a mapped file which is truncated meanwhile ends with
// an error and not with the program.
func TestFileShrinks(t *testing.T) {
	name := filepath.Join(t.TempDir(), "shrinking.pcap")
	data := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	data = append(data, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 101, 0, 0, 0)
	for len(data) < 4<<20 {
		packet := make([]byte, 40+200)
		copy(packet, []byte{0x45, 0, 0, 240, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 156, 64, 0, 80})
		packet[32] = 5 << 4
		data = append(data, 0, 0, 0, 0, 0, 0, 0, 0, 240, 0, 0, 0, 240, 0, 0, 0)
		data = append(data, packet...)
	}
	if err := os.WriteFile(name, data, 0o666); err != nil {
		t.Fatal(err)
	}
	src, err := capture.OpenFiles([]string{name}, nil, capture.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if !src.Lasting() {
		t.Skip("this system does not map captures")
	}
	full, empty := readAhead(t.Context(), &shrinking{Source: src, name: name})
	for b := range full {
		if b.err != nil {
			if !errors.Is(b.err, errShrunk) {
				t.Fatalf("ends with %v, want %v", b.err, errShrunk)
			}
			return
		}
		empty <- b
	}
	t.Fatal("ends without an error")
}
