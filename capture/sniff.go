package capture

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// maxNesting bounds how often a capture may be compressed.
	maxNesting = 3
	// maxZstdWindow bounds what decoding zstd keeps in memory. zstd uses 8 MiB at
	// most unless it is called with --ultra or --long.
	maxZstdWindow = 32 << 20
)

// decompress looks at the beginning of r and undoes any compression that it
// finds there. The bytes of the returned reader are those of a capture, if it is
// one; it can be peeked into.
func decompress(r io.Reader) (*bufio.Reader, error) {
	for depth := 0; ; depth++ {
		// Larger reads than this buffer bypass it.
		br := bufio.NewReaderSize(r, 64<<10)
		magic, _ := br.Peek(4) // a shorter stream matches nothing, and is told of later
		switch {
		case len(magic) < 4:
			return br, nil
		case magic[0] == 0x1f && magic[1] == 0x8b:
			z, err := gzip.NewReader(br)
			if err != nil {
				return nil, decompressError(err)
			}
			r = decompressor{z}
		case binary.LittleEndian.Uint32(magic) == 0xfd2fb528,
			binary.LittleEndian.Uint32(magic)&^0xf == 0x184d2a50: // a skippable frame, which pzstd begins with
			z, err := zstd.NewReader(br,
				zstd.WithDecoderConcurrency(1), // starts no goroutine
				zstd.WithDecoderLowmem(true),
				zstd.WithDecoderMaxWindow(maxZstdWindow))
			if err != nil {
				return nil, decompressError(err)
			}
			r = decompressor{z}
		default:
			return br, nil
		}
		if depth == maxNesting {
			return nil, malformed("compressed more than %d times over", maxNesting)
		}
	}
}

// A decompressor says in its errors that it is the compression that is damaged.
type decompressor struct{ io.Reader }

func (d decompressor) Read(b []byte) (int, error) {
	n, err := d.Reader.Read(b)
	if err != nil && err != io.EOF {
		err = decompressError(err)
	}
	return n, err
}

func decompressError(err error) error {
	var stored *storedError
	switch {
	case errors.Is(err, ErrFormat), errors.Is(err, ErrTruncated), errors.As(err, &stored):
		return err // of the compression around this one, or of the file
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return truncated("the compressed file is cut off")
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded): // the latter of a frame that is one segment
		return malformed("its zstd window is larger than %d MiB; decompress it first: zstd -dc --long=31 FILE | whyreset -r -", maxZstdWindow>>20)
	}
	return malformed("the compressed file is damaged: %v", err)
}

// notCapture says what a file is that does not begin as a capture does, as far
// as that is easy, and what to do about it.
func notCapture(name string, br *bufio.Reader) error {
	if _, err := br.Peek(1); err != nil {
		switch {
		case err == io.EOF && name == "-":
			return truncated("nothing was written to it")
		case err == io.EOF:
			return truncated("the file is empty")
		}
		return err
	}
	head, _ := br.Peek(br.Buffered()) // what is there: more would block on a pipe
	if len(head) < 4 {
		return truncated("the file ends inside its header, after %d bytes", len(head))
	}
	for _, f := range foreignFormats {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return malformed("a %s file; %s", f.name, f.advice)
		}
	}
	if len(head) > 262 && string(head[257:262]) == "ustar" {
		return malformed("a tar archive; unpack it first")
	}
	if isText(head) {
		return malformed("text, not a capture; tcpdump writes a capture with -w FILE")
	}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".erf":
		return malformed("an Endace ERF file; %s", convert)
	case ".etl":
		return malformed("a Windows trace file; convert it with etl2pcapng or pktmon etl2pcap")
	}
	return malformed("neither a pcap nor a pcapng file: it begins with %x", head[:min(4, len(head))])
}

const convert = "convert it with editcap -F pcapng FILE NEW"

var foreignFormats = []struct{ magic, name, advice string }{
	{"snoop\x00\x00\x00", "snoop", convert},
	{"btsnoop\x00", "Bluetooth snoop", "it holds no TCP"},
	{"RTSS", "Microsoft Network Monitor", convert},
	{"GMBU", "Microsoft Network Monitor", convert},
	{"XCP\x00", "NetXray", convert},
	{"TRSNIFF data", "Sniffer", convert},
	{"ObserverPktBuffe", "Network Instruments Observer", convert},
	{"iptrace ", "AIX iptrace", convert},
	{"\x7fver", "OmniPeek", convert},
	{"\x1c\x00\x01\xab", "IXIA lcap", convert},
	{"\x1c\x00\x01\xac", "IXIA lcap", convert},
	{"\x01\x10\x4c\x00", "LANalyzer", convert},
	{"\x05VNF", "Visual Networks", convert},
	{"BZh", "bzip2", "decompress it first: bunzip2 -c FILE | whyreset -r -"},
	{"\xfd7zXZ\x00", "xz", "decompress it first: xz -dc FILE | whyreset -r -"},
	{"\x04\x22\x4d\x18", "lz4", "decompress it first: lz4 -dc FILE | whyreset -r -"},
	{"PK\x03\x04", "zip", "unpack it first"},
	{"7z\xbc\xaf\x27\x1c", "7-Zip", "unpack it first"},
	{"\x7fELF", "program", "name a capture"},
}

// isText reports whether b reads like text: the output of tcpdump or tshark,
// JSON, a log.
func isText(b []byte) bool {
	for len(b) >= utf8.UTFMax { // a character may be cut off at the end
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 || r < ' ' && r != '\n' && r != '\r' && r != '\t' && r != '\x1b' {
			return false
		}
		b = b[n:]
	}
	return true
}

// readError says which capture an error is about.
func readError(name string, err error) error {
	return fmt.Errorf("read capture %s: %w", displayName(name), err)
}

func displayName(name string) string {
	if name == "-" {
		return "standard input"
	}
	return name
}
