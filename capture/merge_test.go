package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestMerge(t *testing.T) {
	for _, count := range []int{2, 3, 17} {
		t.Run(fmt.Sprint(count, " files"), func(t *testing.T) {
			dir := t.TempDir()
			rng := rand.New(rand.NewPCG(1, uint64(count)))
			var names []string
			var want []Segment
			var stdin []byte
			for i := range count {
				w := newPcap(binary.LittleEndian, 0xa1b23c4d, 1)
				now := uint32(rng.IntN(50))
				w.packet(now, 0, ether(0x0806, make([]byte, 46)), 0) // a first packet that is no segment
				for j := range 40 {
					now += uint32(rng.IntN(3)) // with equal times, in a file and across files
					w.packet(now, 0, frameOf(uint32(1000*i+j), "x"), 0)
					want = append(want, Segment{Time: Time(now) * 1e9, Seq: uint32(1000*i + j), File: i, Frame: uint64(j + 2)})
				}
				if i == 1 {
					names, stdin = append(names, "-"), w.Bytes()
					continue
				}
				names = append(names, filepath.Join(dir, fmt.Sprint(i)))
				if err := os.WriteFile(names[i], w.Bytes(), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			slices.SortStableFunc(want, func(a, b Segment) int { return int(a.Time - b.Time) })
			src, err := OpenFiles(names, bytes.NewReader(stdin), Filter{})
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			if !slices.Equal(src.Files(), names) {
				t.Errorf("files %q", src.Files())
			}
			got, err := readAll(t, src)
			if err != io.EOF || len(got) != len(want) {
				t.Fatalf("%d of %d segments, %v", len(got), len(want), err)
			}
			for i := range got {
				if got[i].Time != want[i].Time || got[i].Seq != want[i].Seq || got[i].File != want[i].File || got[i].Frame != want[i].Frame || string(got[i].Payload) != "x" {
					t.Fatalf("segment %d: %v of file %d, want %v of file %d", i, &got[i], got[i].File, &want[i], want[i].File)
				}
			}
			if st := src.Stats(); st.Packets != uint64(count)*41 || st.Other != uint64(count) || st.Segments != uint64(count)*40 || st.FileSize != 0 {
				t.Errorf("stats %+v", st)
			}
		})
	}
}

// One file that is cut off does not keep the others from being read.
func TestMergeCut(t *testing.T) {
	dir := t.TempDir()
	whole := pcapOf(1, frameOf(1, ""), frameOf(2, ""), frameOf(3, ""))
	var names []string
	for name, data := range map[string][]byte{"a": whole, "b": whole[:len(whole)-1], "c": nil, "d": whole} {
		names = append(names, filepath.Join(dir, name))
		os.WriteFile(filepath.Join(dir, name), data, 0o666)
	}
	slices.Sort(names)
	src, err := OpenFiles(names, nil, Filter{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	got, err := readAll(t, src)
	if len(got) != 3+2+3 || !errors.Is(err, ErrTruncated) {
		t.Errorf("%d segments, %v", len(got), err)
	}
	want := "read capture " + names[1] + ": packet 3: the file is cut off: 65 of 66 bytes of the packet are there\n" +
		"read capture " + names[2] + ": the file is empty"
	if err.Error() != want {
		t.Errorf("\n%v, want\n%v", err, want)
	}
	if st := src.Stats(); st.FileBytes != int64(3*len(whole)-1) {
		t.Errorf("%d bytes read", st.FileBytes)
	}
}

func TestMergeErrors(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.pcap")
	os.WriteFile(name, pcapOf(1), 0o666)
	text := filepath.Join(t.TempDir(), "a.txt")
	os.WriteFile(text, []byte("hello"), 0o666)
	for _, names := range [][]string{{name, text}, {name, name + "x"}, {"-", name, "-"}, {}} {
		if src, err := OpenFiles(names, bytes.NewReader(pcapOf(1)), Filter{}); err == nil {
			src.Close()
			t.Errorf("%q open", names)
		}
	}
}
