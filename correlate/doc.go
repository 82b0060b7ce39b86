// Package correlate decides why connections that carry HTTP ended.
//
// Feed a [Tracker] segments in capture order. It follows both directions of
// every TCP connection in sequence space, frames the HTTP messages in them, and
// calls back with a [Finding] for each lost request and for each connection that
// ended with nothing lost.
//
// The package reads no clock and starts no goroutine: the only time it knows is
// the time stamp of each segment, so a live capture and the same capture read
// from a file give the same findings.
//
// Facts and verdicts are kept apart. The tracker collects facts: who sent which
// sequence numbers, who acknowledged what, who closed. A verdict is a pure
// function from those facts, written as an ordered table of rules (decide.go).
package correlate
