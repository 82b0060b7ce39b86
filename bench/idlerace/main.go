// Idlerace is the program that this project started from: a client that posts to
// a server whose idle timeout is about as long as the client's pauses, and that
// now and then reads "http: server closed idle connection", "EOF" or "read:
// connection reset by peer".
//
// It prints each request that was lost or retried, and a count at the end. With
// -log and -truth it writes down what client and server saw of every request.
//
//	idlerace                                     # as it was: 100 posts, 200 ms apart
//	idlerace -pause 300ms -jitter 2ms            # around the timeout
//	idlerace -pause 300ms -jitter 2ms -seek      # to where the races are
//	idlerace -mode no-keepalives                 # the first fix
//	idlerace -mode idle-conn-timeout             # the second
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"time"

	"whyreset/bench/trial"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "idlerace:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) (err error) {
	fs := flag.NewFlagSet("idlerace", flag.ContinueOnError)
	addr := fs.String("addr", "127.0.0.1:9000", "listen on, and connect to, this `address`")
	only := fs.String("only", "", "be only the `server`, or only the client")
	idle := fs.Duration("idle-timeout", 300*time.Millisecond, "the server's IdleTimeout")
	unread := fs.Bool("unread", false, "have the server close each connection with its request unread")
	mode := fs.String("mode", string(trial.Faulty), fmt.Sprint("the client's transport: one of ", trial.Modes()))
	method := fs.String("method", "POST", "POST, which net/http does not retry, or GET, which it does")
	n := fs.Int("n", 100, "requests per client")
	workers := fs.Int("clients", 1, "clients, each with a connection of its own")
	var s trial.Schedule
	fs.DurationVar(&s.Pause, "pause", 200*time.Millisecond, "between a response and the next request")
	fs.DurationVar(&s.Jitter, "jitter", 0, "spread the pause by this much either way")
	fs.BoolVar(&s.Seek, "seek", false, "move the pause to where requests are lost; -jitter is the first step")
	logName := fs.String("log", "", "write what client and server see to this `file`, as JSON lines")
	truthName := fs.String("truth", "", "write one line per attempt at a request to this `file`")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if s.Seek && s.Jitter == 0 {
		return fmt.Errorf("-seek needs a -jitter to begin with")
	}

	var out io.Writer
	if *logName != "" {
		f, err := os.Create(*logName)
		if err != nil {
			return err
		}
		defer func() {
			if e := f.Close(); err == nil {
				err = e
			}
		}()
		out = f
	}
	log := trial.NewLog(out)

	if *only != "client" {
		ln, err := net.Listen("tcp", *addr)
		if err != nil {
			return err
		}
		if *unread {
			defer ln.Close()
			go hangUp(ln)
		} else {
			srv := trial.Serve(ln, *idle, log)
			defer srv.Close()
		}
		if *only == "server" {
			<-ctx.Done()
			return log.Err()
		}
	}
	clients := make([]*trial.Client, *workers)
	for i := range clients {
		if clients[i], err = trial.NewClient("http://"+*addr, trial.Mode(*mode), new(net.Dialer).DialContext, log); err != nil {
			return err
		}
		defer clients[i].Close()
	}
	total, failed, retried := 0, 0, 0
	trial.Run(ctx, clients, *n, 1, *method, s, func(id int, o trial.Outcome) {
		total++
		switch {
		case o.Err != nil:
			failed++
			fmt.Fprintf(stdout, "request %d: %v\n", id, o.Err)
		case o.Tries > 1:
			retried++
			fmt.Fprintf(stdout, "request %d: answered at attempt %d\n", id, o.Tries)
		}
	})
	fmt.Fprintf(stdout, "%d requests, %d failed, %d silently retried\n", total, failed, retried)
	if *truthName != "" {
		f, err := os.Create(*truthName)
		if err != nil {
			return err
		}
		if err := trial.WriteTruth(f, trial.Merge(log.Events())); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return log.Err()
}

// hangUp closes each connection when its request has come, without reading it: the
// kernel then resets.
func hangUp(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		time.AfterFunc(50*time.Millisecond, func() { c.Close() })
	}
}
