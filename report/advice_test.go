package report

import (
	"strconv"
	"strings"
	"testing"

	"whyreset/capture"
	"whyreset/correlate"
)

// TestFixRecorded has no advice on how to capture packets for what a recorder in the
// kernel did not keep.
func TestFixRecorded(t *testing.T) {
	f := &correlate.Finding{Verdict: correlate.CaptureIncomplete, Lost: true, Connection: correlate.Connection{Client: addr("10.0.0.1:1"), Server: addr("10.0.0.2:80")}}
	text := func(recorded bool) string {
		var b strings.Builder
		if err := NewText(&b, Options{Recorded: recorded}).Finding(f); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if got := text(false); !strings.Contains(got, "keep whole packets (tcpdump -s 0)") {
		t.Error(got)
	}
	if got := text(true); strings.Contains(got, "tcpdump") || strings.Contains(got, "-B ") || !strings.Contains(got, "leave out --ebpf") || !strings.Contains(got, strconv.Itoa(capture.MaxKept)+" bytes") {
		t.Error(got)
	}
}
