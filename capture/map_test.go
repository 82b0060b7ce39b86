package capture

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestMapped reads a large capture both ways, through a mapping and as a stream:
// with large packets alone, small ones alone, and both in turn, with headers that
// do not fit into the copied beginning, and cut off anywhere near the end.
func TestMapped(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	w := newPcap(binary.LittleEndian, 0xa1b2c3d4, 1)
	for i := 0; w.Len() < 4*mapThreshold; i++ {
		n := 40
		if i/50%2 == 0 || rng.IntN(10) == 0 {
			n = 20000 + rng.IntN(40000)
		}
		text := make([]byte, n)
		for j := range text {
			text[j] = byte(rng.Uint32())
		}
		frame := frameOf(uint32(i), string(text))
		if i%37 == 0 { // further in than the beginning that is copied
			frame = ether(0x86dd, ip6(60, slices.Concat([]byte{6, 74}, make([]byte, 598), tcpHeader(PSH|ACK, timestamps, string(text)))))
		}
		w.packet(1700000000, uint32(i), frame, len(frame))
	}
	whole := w.Bytes()
	for _, cut := range []int{0, 1, 17, 300, 30000} {
		data := whole[:len(whole)-cut]
		name := filepath.Join(t.TempDir(), "large.pcap")
		if err := os.WriteFile(name, data, 0o666); err != nil {
			t.Fatal(err)
		}
		src, err := OpenFiles([]string{name}, nil, Filter{})
		if err != nil {
			t.Fatal(err)
		}
		if !src.Lasting() {
			t.Fatal("not mapped")
		}
		got, gotErr := readAll(t, src)
		want, _, wantErr := read(t, data)
		if (gotErr == nil) != (wantErr == nil) || len(got) != len(want) {
			t.Fatalf("cut %d: %d segments, %v; as a stream %d, %v", cut, len(got), gotErr, len(want), wantErr)
		}
		for i := range got {
			if !bytes.Equal(got[i].Payload, want[i].Payload) {
				t.Fatalf("cut %d: frame %d: %d bytes of payload differ from %d", cut, got[i].Frame, len(got[i].Payload), len(want[i].Payload))
			}
			got[i].Payload, want[i].Payload = nil, nil
			if got[i].String() != want[i].String() || got[i].Frame != want[i].Frame || got[i].Len != want[i].Len {
				t.Fatalf("cut %d: %v, as a stream %v", cut, &got[i], &want[i])
			}
		}
		src.Close()
	}
}
