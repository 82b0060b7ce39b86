//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"whyreset/capture"
)

// Which filters are set, as in facts.h.
const (
	byPort = 1 << iota
	byPrefix
	byNetns
	byProcess
	byCgroup
)

// SetFilter changes what is told of, while it goes on: all but Closes and Buffer of
// c count. For a moment, both the old and the new filter do.
func (f *Facts) SetFilter(c FactsConfig) error {
	var set uint32
	for bit, n := range map[uint32]int{
		byPort: len(c.Filter.Ports), byPrefix: len(c.Filter.Prefixes), byNetns: len(c.Namespaces),
		byProcess: len(c.Processes), byCgroup: len(c.Cgroups),
	} {
		if n > 0 {
			set |= bit
		}
	}
	// A filter that is to go goes first, so that nothing is judged by an empty one.
	err := errors.Join(
		f.objects.Filters.Update(uint32(0), set&f.set(), ebpf.UpdateAny),
		f.objects.Ports.Update(uint32(0), portSet(c.Filter.Ports), ebpf.UpdateAny),
		replace(f.objects.Prefixes, prefixKeys(c.Filter.Prefixes)),
		replace(f.objects.Namespaces, numbers[uint32](c.Namespaces)),
		replace(f.objects.Processes, numbers[uint32](c.Processes)),
		replace(f.objects.Cgroups, numbers[uint64](c.Cgroups)),
		f.objects.Filters.Update(uint32(0), set, ebpf.UpdateAny),
	)
	if err != nil {
		return fmt.Errorf("set the filter of facts: %w", err)
	}
	f.filter = c
	return nil
}

// set returns which filters are set now.
func (f *Facts) set() (set uint32) {
	if f.objects.Filters.Lookup(uint32(0), &set) != nil {
		return 0
	}
	return set
}

// replace has a map hold the keys that are wanted and no others.
func replace[K comparable](m *ebpf.Map, wanted map[K]bool) error {
	var key K
	var value uint8
	have := map[K]bool{}
	for it := m.Iterate(); it.Next(&key, &value); {
		have[key] = true
	}
	for key := range wanted {
		if err := m.Update(key, uint8(1), ebpf.UpdateAny); err != nil {
			return err
		}
	}
	for key := range have {
		if !wanted[key] {
			if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return err
			}
		}
	}
	return nil
}

// portSet returns a bit for each port.
func portSet(ranges []capture.PortRange) (set [1024]uint64) {
	for _, r := range ranges {
		for p := int(r.First); p <= int(r.Last); p++ {
			set[p/64] |= 1 << (p % 64)
		}
	}
	return set
}

// A prefixKey is the key of a longest-prefix map, of IPv6 and IPv4-mapped addresses.
type prefixKey struct {
	Bits    uint32
	Address [16]byte
}

func prefixKeys(prefixes []netip.Prefix) map[prefixKey]bool {
	keys := map[prefixKey]bool{}
	for _, p := range prefixes {
		bits := p.Bits()
		if p.Addr().Is4() {
			bits += 96
		}
		keys[prefixKey{uint32(bits), p.Addr().As16()}] = true
	}
	return keys
}

// numbers returns a set of numbers as the kernel has them.
func numbers[K uint32 | uint64, N int | uint64](list []N) map[K]bool {
	return maps.Collect(func(yield func(K, bool) bool) {
		for n := range slices.Values(list) {
			if !yield(K(n), true) {
				return
			}
		}
	})
}
