package capture

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// A PortRange is a range of TCP ports, both ends included.
type PortRange struct {
	First, Last uint16
}

// A Filter says which segments a source yields. The zero Filter lets every
// segment through.
type Filter struct {
	Ports    []PortRange    // either endpoint's port is in one of them; none means any port
	Prefixes []netip.Prefix // either endpoint's address is in one of them; none means any address
}

// Match reports whether s passes the filter.
func (f *Filter) Match(s *Segment) bool {
	return (len(f.Ports) == 0 || f.port(s.Src.Port) || f.port(s.Dst.Port)) &&
		(len(f.Prefixes) == 0 || f.address(s.Src) || f.address(s.Dst))
}

func (f *Filter) port(p uint16) bool {
	for _, r := range f.Ports {
		if r.First <= p && p <= r.Last {
			return true
		}
	}
	return false
}

func (f *Filter) address(e Endpoint) bool {
	a := netip.AddrFrom16(e.Addr).Unmap()
	for _, p := range f.Prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// ParsePorts parses "8080", "80,443" and "8000-8100", and any mixture of them.
func ParsePorts(list string) ([]PortRange, error) {
	var ranges []PortRange
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		first, last, isRange := strings.Cut(item, "-")
		if !isRange {
			last = first
		}
		lo, err := parsePort(first)
		if err != nil {
			return nil, err
		}
		hi, err := parsePort(last)
		if err != nil {
			return nil, err
		}
		if lo > hi {
			return nil, fmt.Errorf("port range %q: its first port is above its last", item)
		}
		ranges = append(ranges, PortRange{lo, hi})
	}
	return ranges, nil
}

func parsePort(text string) (uint16, error) {
	text = strings.TrimSpace(text)
	n, err := strconv.ParseUint(text, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrSyntax):
		return 0, fmt.Errorf("port %q: not a port number; examples are 8080, 80,443 and 8000-8100", text)
	case err != nil || n < 1 || n > 65535:
		return 0, fmt.Errorf("port %s: a port is between 1 and 65535", text)
	}
	return uint16(n), nil
}

// ParsePrefixes parses a list of IP addresses and prefixes, such as
// "10.0.0.1,192.168.0.0/16,2001:db8::/32".
func ParsePrefixes(list string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for item := range strings.SplitSeq(list, ",") {
		p, err := parsePrefix(strings.TrimSpace(item))
		if err != nil {
			return nil, err
		}
		prefixes = append(prefixes, p)
	}
	return prefixes, nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("host %q: not an IP address or prefix; names are not looked up", text)
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("host %q: not an IP prefix such as 10.0.0.0/8 or 2001:db8::/32", text)
	}
	// An IPv4-mapped prefix is the IPv4 prefix that it maps, as for addresses.
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}
