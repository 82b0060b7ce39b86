package correlate

import "time"

// vantage tells where the capture was made: to whom the handshake's answers
// came at once.
func vantage(d1, d2 time.Duration) Vantage {
	const here = 200 * time.Microsecond
	switch rtt := d1 + d2; {
	case d1 < here && d2 < here:
		return Local
	case d2 < max(here, rtt/20):
		return AtClient
	case d1 < max(here, rtt/20):
		return AtServer
	}
	return InMiddle
}

// vantageByTTL tells the same from the TTLs (hop limits) of the client's and the
// server's segments, where the handshake was not captured: a host's own still have
// the value that they were sent with, and each router on the way takes one off.
// It says nothing where both are whole, since hosts on one link cannot be told
// apart, nor where one hop is missing, which may be the bridge of a container.
func vantageByTTL(client, server uint8) Vantage {
	c, s := hops(client), hops(server)
	switch {
	case client == 0 || server == 0:
	case c == 0 && s >= 2:
		return AtClient
	case s == 0 && c >= 2:
		return AtServer
	case c >= 2 && s >= 2:
		return InMiddle
	}
	return NoVantage
}

// hops returns how many routers a segment with this TTL has passed, given that
// systems send with 64, 128 or 255.
func hops(ttl uint8) int {
	switch {
	case ttl <= 64:
		return 64 - int(ttl)
	case ttl <= 128:
		return 128 - int(ttl)
	}
	return 255 - int(ttl)
}
