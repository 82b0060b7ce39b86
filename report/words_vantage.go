package report

import (
	"time"

	"whyreset/correlate"
)

// vantageLine explains what the place of the capture makes of the order and the
// times of packets, where a reader would draw the wrong conclusion from them.
func vantageLine(f *correlate.Finding) string {
	c := &f.Connection
	place := map[correlate.Vantage]string{
		correlate.AtClient: "captured at the client", correlate.AtServer: "captured at the server", correlate.InMiddle: "captured on the way",
	}[c.Vantage]
	if place == "" {
		return ""
	}
	if c.VantageByTTL {
		place += " (by the TTLs)"
	}
	at := func(client, server, middle string) string {
		line := map[correlate.Vantage]string{correlate.AtClient: client, correlate.AtServer: server, correlate.InMiddle: middle}[c.Vantage]
		if line == "" {
			return ""
		}
		return place + ": " + line
	}
	far := c.HasRTT && c.HandshakeRTT >= time.Millisecond
	switch f.Verdict {
	case correlate.IdleRace, correlate.IdleRaceRST, correlate.IdleRaceLingering, correlate.KeepaliveLimitRace, correlate.Idle408Race:
		close := "close"
		if f.Verdict == correlate.Idle408Race {
			close = "response"
		}
		return at("the request is seen before the "+close+" that it crossed",
			"the "+close+" is seen before the request that it crossed",
			"which of the two is seen first says nothing")
	case correlate.LateReuse:
		return at("", "a request that crossed the close would be seen behind it too, but would not acknowledge it", "")
	case correlate.AbortBeforeResponse, correlate.CloseBeforeResponse, correlate.IdleRaceUnread:
		if far {
			return at("of the time between the request and the close, "+seconds(c.HandshakeRTT)+" is the way to the server and back", "", "")
		}
	case correlate.ClientAbortBeforeResponse:
		if f.Response != nil && f.Response.Frame < f.Close.Frame {
			return at("", "the response is seen before the client's close, which was sent before it arrived", "")
		}
	case correlate.SimultaneousClose:
		return at("the client's close is seen first, and says nothing", "the server's close is seen first, and says nothing", "")
	}
	return ""
}
