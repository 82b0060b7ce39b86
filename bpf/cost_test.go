//go:build linux

package bpf

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"whyreset/capture"
)

// BenchmarkFacts reports how long the kernel says that each program takes each time
// (kernel.bpf_stats_enabled), beside one that does nothing on the same tracepoint as
// set_state, and what a connection takes at both ends: of those that are closed when
// all was read, and of those that are not.
func BenchmarkFacts(b *testing.B) {
	needRoot(b)
	ns, inode := newNamespace(b)
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Skipf("SKIPPED: the kernel does not count: %v", err)
	}
	defer stats.Close()
	for _, c := range []struct {
		name           string
		closes, unread bool
	}{{"read", false, false}, {"read, every close", true, false}, {"unread", false, true}} {
		b.Run(c.name, func(b *testing.B) {
			f := openFor(b, FactsConfig{Namespaces: []uint64{inode}, Closes: c.closes})
			empty := emptyProgram(b)
			stop := make(chan struct{})
			done := make(chan error, 1)
			go func() {
				for {
					select {
					case <-stop:
						done <- nil
						return
					default:
					}
					if err := f.Read(10*time.Millisecond, func(*capture.SocketFact) {}); err != nil {
						done <- err
						return
					}
				}
			}()
			if err := ns.Enter(func() error { return converse(b, c.unread) }); err != nil {
				b.Fatal(err)
			}
			close(stop)
			if err := <-done; err != nil {
				b.Fatal(err)
			}
			total := 0.0
			for name, p := range map[string]*ebpf.Program{
				"empty":      empty,
				"send_reset": f.objects.SendReset, "receive_reset": f.objects.ReceiveReset,
				"set_state": f.objects.SetState, "destroy_sock": f.objects.DestroySock,
			} {
				s, err := p.Stats()
				if err != nil {
					b.Fatal(err)
				}
				if p != empty {
					total += float64(s.Runtime)
				}
				if s.RunCount > 0 {
					b.ReportMetric(float64(s.Runtime)/float64(s.RunCount), "ns/"+name)
				}
			}
			b.ReportMetric(total/float64(b.N), "ns-bpf/conn")
			b.ReportMetric(float64(f.Stats().Facts)/float64(b.N), "facts/conn")
			b.ReportMetric(float64(f.Stats().Lost), "lost")
		})
	}
}

// emptyProgram attaches a program that does nothing.
func emptyProgram(b *testing.B) *ebpf.Program {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "inet_sock_set_state",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}, License: "GPL",
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	l, err := link.AttachTracing(link.TracingOptions{Program: p})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	return p
}

// converse makes one connection after another and ends it, by the server.
func converse(b *testing.B, unread bool) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	buf := make([]byte, 1024)
	for range b.N {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			return err
		}
		s, err := ln.Accept()
		if err != nil {
			return err
		}
		_, err = c.Write([]byte(request))
		if !unread {
			_, e := s.Read(buf)
			err = errors.Join(err, e)
		}
		s.Close()
		c.Read(buf)
		c.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
