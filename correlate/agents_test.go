package correlate

import (
	"fmt"
	"testing"
)

// lostBy returns the finding of a connection whose last request, the last of
// heads, was reset.
func lostBy(t *testing.T, tr *Tracker, found *[]*Finding, n int, heads ...string) *Finding {
	t.Helper()
	k := newTalk(tr, newWire(), n)
	k.handshake()
	for i, h := range heads {
		request := []byte("GET / HTTP/1.1\r\nHost: a\r\n" + h + "\r\n")
		if i < len(heads)-1 {
			k.exchange(request, ok)
			continue
		}
		k.send(cli, psh, request)
		k.send(srv, rst|ack, nil)
	}
	before := len(*found)
	tr.Tick(k.wire.now + 10e9)
	tr.Finish()
	if len(*found) != before+1 {
		t.Fatalf("%d findings, want 1", len(*found)-before)
	}
	return (*found)[before]
}

func TestClientProduct(t *testing.T) {
	const goClient = "User-Agent: Go-http-client/1.1\r\n"
	for _, tt := range []struct {
		heads    []string
		product  string
		forwards bool
	}{
		{[]string{goClient}, "Go-http-client/1.1", false},
		{[]string{goClient, goClient, goClient}, "Go-http-client/1.1", false},
		{[]string{"user-agent:Apache-HttpClient/4.5.14 (Java/17)\r\n"}, "Apache-HttpClient/4.5.14", false},
		{[]string{"User-Agent: Python/3.11 aiohttp/3.8.4\r\n"}, "Python/3.11 aiohttp/3.8.4", false},
		{[]string{"User-Agent: (odd)\r\n"}, "", false},
		{[]string{"User-Agent:\r\n"}, "", false},
		{[]string{""}, "", false},
		{[]string{"", goClient}, "Go-http-client/1.1", false},
		{[]string{goClient + "X-Forwarded-For: 10.0.0.9\r\n"}, "", true},
		{[]string{goClient + "Via: 1.1 a\r\n"}, "", true},
		{[]string{goClient + "forwarded: for=10.0.0.9\r\n"}, "", true},
		{[]string{goClient, goClient + "x-forwarded-proto: http\r\n"}, "", true},
		{[]string{goClient, "User-Agent: curl/8.0\r\n"}, "", true},
		{[]string{goClient + "X-Request-Id: 1\r\nVary: a\r\nFrom: b\r\n"}, "Go-http-client/1.1", false},
	} {
		var found []*Finding
		tr := New(Config{}, func(f *Finding) { found = append(found, f) })
		c := lostBy(t, tr, &found, 1, tt.heads...).Programs
		if c.Client != tt.product || c.ClientForwards != tt.forwards {
			t.Errorf("%q: got %q, forwards %v", tt.heads, c.Client, c.ClientForwards)
		}
	}
}

func TestNearestProxy(t *testing.T) {
	for v, want := range map[string]string{
		"1.1 google": "google", "1.1 a, 1.1 Varnish (7.1)": "varnish", "HTTP/1.1 x.example:80": "x.example:80", "": "", "odd": "odd",
	} {
		if got := nearest([]byte(v)); got != want {
			t.Errorf("%q: got %q, want %q", v, got, want)
		}
	}
}

// Names are bounded, and so are those counted of one server.
func TestClientsAreBounded(t *testing.T) {
	var a = newAgents()
	for n := range 2 * maxAgents {
		a.id(fmt.Appendf(nil, "client%d", n))
	}
	if len(a.names) != maxAgents || len(a.ids) != maxAgents-2 {
		t.Errorf("%d names, %d numbers", len(a.names), len(a.ids))
	}
	if id := a.id([]byte("client7")); a.names[id] != "client7" {
		t.Errorf("client7 is now %q", a.names[id])
	}
	tr := New(Config{}, ignore)
	tr.agents = a
	var s server
	for n := range 1000 {
		for range n%20 + 1 {
			s.countAgent(uint16(2 + n%20))
		}
	}
	if list := tr.clientsOf(&s); len(list) != 3 || list[0].Product != "client7" || list[0].Connections != 400 {
		t.Errorf("got %v", list)
	}
}
