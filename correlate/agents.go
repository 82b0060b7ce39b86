package correlate

import (
	"bytes"
	"cmp"
	"slices"
)

// Which programs the clients of a server are decides where their idle timeout is
// set. The User-Agent names the program that made the request, which need not be
// the one that keeps the connection: proxies hand the field on.

const (
	// forwarded is the agent of a client that passes on what others asked: its own
	// name is not known.
	forwarded = 1
	// maxAgents bounds the different names that are kept; of more nothing is said.
	maxAgents = 1 << 10
	// maxAgentName bounds one of them.
	maxAgentName = 64
	// agentRequests is how many requests of a connection are looked at: more than
	// one, since only several different names tell a proxy that adds no field.
	agentRequests = 16
	// serverAgents is how many different clients of one server are counted.
	serverAgents = 8
)

// agents numbers the names of clients. 0 is no name.
type agents struct {
	names []string
	ids   map[string]uint16
	last  uint16 // the latest that was asked for: most often the next one too
}

func newAgents() agents { return agents{names: []string{"", ""}, ids: map[string]uint16{}} }

// id returns the number of a client's name, such as Go-http-client/1.1.
func (a *agents) id(product []byte) uint16 {
	if a.names[a.last] == string(product) {
		return a.last
	}
	id, ok := a.ids[string(product)]
	if !ok {
		if len(a.names) >= maxAgents {
			return 0
		}
		id = uint16(len(a.names))
		a.names = append(a.names, string(product))
		a.ids[a.names[id]] = id
	}
	a.last = id
	return id
}

// who is what a head says of programs.
type who struct {
	agent     []byte // User-Agent
	via       []byte // Via
	forwarded bool   // there is a field that proxies add to requests
}

// field takes in one of the few header fields that name programs.
func (w *who) field(line []byte) {
	if len(line) > 10 && line[10] == ':' && equalFold(line[:10], "user-agent") {
		w.agent = trim(line[11:])
	} else if v, ok := field(line, "via"); ok {
		w.via, w.forwarded = v, true
	} else if _, ok := field(line, "forwarded"); ok || len(line) > 12 && equalFold(line[:12], "x-forwarded-") {
		w.forwarded = true
	}
}

// wantsWho returns where the head of c's next message, a request or a response,
// is to say who sent it; nil if that is known, so that steady connections do
// without.
func (t *Tracker) wantsWho(c *conn, request bool) *who {
	if request && (c.requests >= agentRequests || c.agent == forwarded) || !request && c.server != nil && c.server.described {
		return nil
	}
	t.who = who{}
	return &t.who
}

// noteAgent keeps which program the client of c is, as the head of a request says.
func (t *Tracker) noteAgent(c *conn, w *who) {
	product := products(w.agent)
	switch {
	case w.forwarded:
		c.agent = forwarded
	case len(product) == 0:
	case c.agent == 0:
		c.agent = t.agents.id(product)
	case t.agents.names[c.agent] != string(product):
		c.agent = forwarded // one program does not change its name
	}
}

// products returns the products of a User-Agent, with their versions, up to the
// first comment (RFC 9110, section 10.1.5): Python/3.11 aiohttp/3.8.4.
func products(v []byte) []byte {
	if i := bytes.IndexByte(v, '('); i >= 0 {
		v = v[:i]
	}
	return trim(v[:min(len(v), maxAgentName)])
}

// nearest returns the name of the nearest proxy in a Via field, in lower case: each
// adds itself at the end (RFC 9110, section 7.6.3).
func nearest(v []byte) string {
	v = trim(v[bytes.LastIndexByte(v, ',')+1:])
	if _, by, ok := bytes.Cut(v, []byte(" ")); ok { // the protocol is before it
		v = trim(by)
	}
	name, _, _ := bytes.Cut(v, []byte(" "))
	return string(bytes.ToLower(name[:min(len(name), maxAgentName)]))
}

// An agentCount counts the connections of one client program.
type agentCount struct {
	agent uint16
	n     uint32
}

// countAgent counts c for its client's program.
func (s *server) countAgent(agent uint16) {
	if agent == 0 {
		return
	}
	for i := range s.agents {
		a := &s.agents[i]
		if a.n == 0 || a.agent == agent {
			a.agent = agent
			a.n++
			return
		}
	}
}

// clientsOf returns the programs that use s, the commonest first.
func (t *Tracker) clientsOf(s *server) []ClientCount {
	var list []ClientCount
	for _, a := range s.agents {
		if a.n > 0 {
			list = append(list, ClientCount{t.agents.names[a.agent], a.agent == forwarded, uint64(a.n)})
		}
	}
	slices.SortStableFunc(list, func(a, b ClientCount) int {
		return cmp.Or(cmp.Compare(b.Connections, a.Connections), cmp.Compare(a.Product, b.Product))
	})
	return list[:min(3, len(list))]
}
