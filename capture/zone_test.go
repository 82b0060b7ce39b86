package capture

import (
	"net/netip"
	"testing"
)

// TestZones holds which addresses are of a namespace, and whose numbers are equal.
func TestZones(t *testing.T) {
	var a, b Zones
	web, db := a.addInterface("web/lo"), a.addInterface("/run/netns/db/lo")
	if web == 0 || db == 0 || web == db || b.Add("/run/netns/db") != db || a.addInterface("eth0") != 0 || a.addInterface("") != 0 {
		t.Errorf("web %d, db %d", web, db)
	}
	for addr, zone := range map[string]uint16{
		"127.0.0.1:80": db, "127.9.9.9:80": db, "[::1]:80": db, "10.0.0.1:80": 0, "[fe80::1]:80": 0, "[::]:80": 0, "128.0.0.1:80": 0, "[::127.0.0.1]:80": 0,
	} {
		s := Segment{Src: EndpointFrom(netip.MustParseAddrPort(addr)), Dst: EndpointFrom(netip.MustParseAddrPort(addr))}
		s.Src.Zone = web // left over
		s.setZone(db)
		if s.Src.Zone != zone || s.Dst.Zone != zone {
			t.Errorf("%s: %d and %d, want %d", addr, s.Src.Zone, s.Dst.Zone, zone)
		}
		f := SocketFact{Local: s.Src, Remote: Endpoint{Addr: s.Dst.Addr, Zone: web}}
		if a.Locate(&f, "/run/netns/db"); f.Local != s.Src || f.Remote.Zone != zone {
			t.Errorf("%s: a fact of it is of %d and %d, want %d", addr, f.Local.Zone, f.Remote.Zone, zone)
		}
		if name := a.Name(s.Dst); (zone == 0) != (name == "") || name != "" && name != "/run/netns/db" {
			t.Errorf("%s: %q", addr, name)
		}
	}
	if (*Zones)(nil).Name(Endpoint{Zone: 1}) != "" {
		t.Error("no zones have a name")
	}
}
