package capture

import (
	"errors"
	"fmt"
	"io"
)

// Sizes of the buffers that files are read into: of a single one, see [input], and
// of one of several.
const (
	bufferAlone   = 1 << 20
	bufferOneOfIt = 256 << 10
)

// OpenFiles opens saved captures. "-" is stdin. One file is read in its order;
// several are merged in the order of packet times, and packets of equal times in
// the order of names.
//
// pcap and pcapng are recognised by their contents, compressed with gzip or zstd
// or not. Every file is checked to begin as a capture at once; a damaged or
// cut-off one yields what is before the damage. With several files, the others
// are then read to their ends, and Next returns the errors joined instead of
// io.EOF.
//
// Stats may be called between calls of Next, not during one.
func OpenFiles(names []string, stdin io.Reader, f Filter) (Source, error) {
	switch len(names) {
	case 0:
		return nil, errors.New("no capture is named")
	case 1:
		file, err := open(names[0], 0, stdin, f, new(Zones))
		if err != nil {
			return nil, err
		}
		file.useMap()
		if err := file.start(bufferAlone); err != nil {
			file.Close()
			return nil, err
		}
		return file, nil
	}
	return openMerged(names, stdin, f)
}

// openMerged opens several captures.
func openMerged(names []string, stdin io.Reader, f Filter) (_ Source, err error) {
	m := &merged{zones: new(Zones), errs: make([]error, len(names))}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	for i, name := range names {
		if name == "-" {
			for _, earlier := range names[:i] {
				if earlier == "-" {
					return nil, fmt.Errorf("read capture %s: named twice", displayName(name))
				}
			}
		}
		file, err := open(name, i, stdin, f, m.zones)
		if err != nil {
			return nil, err
		}
		m.files = append(m.files, file)
		// One that is cut off in its header is no worse than one that is cut off
		// later: rotating captures leave empty files behind.
		if err := file.start(bufferOneOfIt); err != nil && !errors.Is(err, ErrTruncated) {
			return nil, err
		}
		m.add(file)
	}
	return m, nil
}
