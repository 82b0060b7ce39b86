//go:build linux

// Package netns makes network namespaces for benches and tests and runs things
// inside them.
//
// A namespace that this package makes has a name that nobody else uses, a
// loopback interface that is up, and nothing else. It needs root and the ip
// program of iproute2.
package netns

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Namespace is a network namespace. Its methods may be called from several
// goroutines at once.
type Namespace struct {
	// Name is what ip netns knows it by.
	Name string

	fd     int // of the namespace, kept open for setns
	ctx    context.Context
	cancel context.CancelFunc
}

// New makes a namespace whose name begins with prefix.
func New(prefix string) (*Namespace, error) {
	var b [4]byte
	rand.Read(b[:])
	name := fmt.Sprintf("%s-%d-%s", prefix, os.Getpid(), hex.EncodeToString(b[:]))
	if err := ip("netns", "add", name); err != nil {
		return nil, err
	}
	n := &Namespace{Name: name, fd: -1}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	fd, err := unix.Open("/run/netns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("open namespace %s: %w", name, err)
	}
	n.fd = fd
	if err := n.IP("link", "set", "lo", "up"); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// Close stops the commands that [Namespace.Command] made and removes the
// namespace. Sockets that are still open in it keep working until they are
// closed.
func (n *Namespace) Close() error {
	n.cancel()
	if n.fd >= 0 {
		unix.Close(n.fd)
		n.fd = -1
	}
	return ip("netns", "del", n.Name)
}

// Do runs fn on a thread that is inside the namespace, and returns its error.
// The thread is thrown away afterwards: a thread whose namespace could not be
// restored must never run anything else. Sockets that fn opens stay in the
// namespace; goroutines that it starts do not run there.
func (n *Namespace) Do(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := errors.New("the function left its goroutine")
		defer func() { done <- err }()
		if e := unix.Setns(n.fd, unix.CLONE_NEWNET); e != nil {
			err = fmt.Errorf("enter namespace %s: %w", n.Name, e)
			return
		}
		err = fn()
	}()
	return <-done
}

// Listen is net.Listen inside the namespace.
func (n *Namespace) Listen(network, addr string) (ln net.Listener, err error) {
	err = n.Do(func() error {
		ln, err = net.Listen(network, addr)
		return err
	})
	return ln, err
}

// DialContext is net.Dialer.DialContext inside the namespace. The address must
// be a literal one: looking up a name, or trying several addresses at once,
// would leave the thread.
func (n *Namespace) DialContext(ctx context.Context, network, addr string) (c net.Conn, err error) {
	err = n.Do(func() error {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// Command returns a command that will run a program inside the namespace. When
// ctx is done, or the namespace is closed, the program is interrupted, and
// killed if that does not end it within two seconds.
func (n *Namespace) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(n.ctx, cancel)
	// ip replaces itself by the program, so the process is the program's own.
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.Name, name}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// IP runs the ip program on the namespace: n.IP("link", "set", "lo", "up").
func (n *Namespace) IP(args ...string) error {
	return ip(append([]string{"-n", n.Name}, args...)...)
}

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
