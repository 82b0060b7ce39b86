package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"

	"whyreset/capture"
	"whyreset/correlate"
	"whyreset/report"
)

// The captures of the demo are real ones; testdata/pcap/README.md tells their
// origin.
//
//go:embed testdata/pcap/original-50ms.client.pcap
//go:embed testdata/pcap/short-idle-20ms.client.pcap.gz
var demoCaptures embed.FS

// demoFindings is how many findings of a capture the demo shows in full.
const demoFindings = 2

const demoFaulty = `A Go program posts to a Go server every 200 ms, 100 ms of round trip away:

    server := http.Server{IdleTimeout: 300 * time.Millisecond}
    resp, err := http.Post("http://10.77.0.2:9000/test", "text/json", nil)

Now and then err is "EOF". The network? An overloaded server? A firewall? The
log says the same for all of them. This is what the packets say:

$ whyreset original-50ms.client.pcap
`

const demoFixed = `
200 ms of pause and 100 ms of travel are just the server's 300 ms: the request and
the server's close cross. The client cannot know, and no log can tell. The remedy
is to make the client's idle timeout the shorter one. The same program with

    http.Transport{IdleConnTimeout: 100 * time.Millisecond}

and pauses from 0 to 320 ms:

$ whyreset short-idle-20ms.client.pcap.gz
`

const demoEnd = `
Your turn:    tcpdump -i any -s 0 -w web.pcap 'tcp port 8080'
              whyreset web.pcap
More on it:   whyreset explain idle-race
`

// demo runs a faulty program and explains what happens, or if it may not, what
// comes with the program; with the story around it.
func (c *command) demo(ctx context.Context) int {
	c.maxConnections = correlate.DefaultMaxConnections
	switch status, err := c.liveDemo(ctx); {
	case err == nil:
		return status
	case errors.Is(err, errNothingLost):
		if err := printf(c.stdout, "%s", demoLiveNone); err != nil {
			return c.finish(err)
		}
	case !errors.Is(err, errors.ErrUnsupported):
		c.complain(fmt.Errorf("these are captures of the program; as root the demo runs it and watches: %w", err))
	}
	c.live = nil
	for _, part := range []struct{ story, file string }{
		{demoFaulty, "original-50ms.client.pcap"},
		{demoFixed, "short-idle-20ms.client.pcap.gz"},
	} {
		if err := printf(c.stdout, "%s\n", part.story); err != nil {
			return c.finish(err)
		}
		data, err := demoCaptures.ReadFile("testdata/pcap/" + part.file)
		if err != nil {
			c.complain(err)
			return exitError
		}
		if status := c.explainDemo(ctx, data); status != exitOK {
			return status
		}
	}
	return c.finish(printf(c.stdout, "%s", demoEnd))
}

// explainDemo is read for a capture in memory, with few findings and all of the
// summary.
func (c *command) explainDemo(ctx context.Context, data []byte) int {
	src, err := capture.OpenFiles([]string{"-"}, bytes.NewReader(data), capture.Filter{})
	if err != nil {
		c.complain(err)
		return exitError
	}
	defer src.Close()
	j := newJob(c, report.Options{StreamIDs: true, Color: wantsColor(c.stdout)}, nil)
	few := &firstFindings{Writer: j.writer, out: j.out}
	j.writer = few
	return c.conclude(j, src, j.run(ctx, src))
}

// firstFindings lets demoFindings findings through and counts the others.
type firstFindings struct {
	report.Writer
	out      io.Writer
	n, shown int
}

func (w *firstFindings) Finding(f *correlate.Finding) error {
	if w.n++; w.shown == demoFindings {
		return nil
	}
	w.shown++
	return w.Writer.Finding(f)
}

func (w *firstFindings) Summary(s *report.Summary) error {
	var err error
	if more := w.n - w.shown; more > 0 {
		_, err = fmt.Fprintf(w.out, "\n… and %d more (the demo leaves them out)\n", more)
	}
	return errors.Join(err, w.Writer.Summary(s))
}
