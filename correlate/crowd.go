package correlate

import "whyreset/capture"

// maxAlike is how many connections that could not be opened are reported of one
// verdict and one server, and of one verdict and one client, whatever the ports:
// a scan, a flood, or a server that is down for an hour says no more with its
// thousandth connection than with its twentieth. The others are counted.
const maxAlike = 20

// A crowd is what connections that could not be opened have in common.
type crowd struct {
	verdict Verdict
	server  bool
	host    capture.Endpoint // the server's, or the client's address
}

// crowded reports whether enough was reported of what failed as f did.
func (t *Tracker) crowded(f *facts, v Verdict) bool {
	server, client := crowd{v, true, f.conn.Server}, crowd{v, false, f.conn.Client}
	client.host.Port = 0
	if t.crowds[server] >= maxAlike || t.crowds[client] >= maxAlike || len(t.crowds) >= maxServers {
		t.sum.Unlisted++
		return true
	}
	t.crowds[server]++
	t.crowds[client]++
	return false
}
