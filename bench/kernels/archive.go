//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// pack writes the archive that all machines boot from, but for their modules.
func pack(ctx context.Context, temp string) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("go list: %w", err)
	}
	tree := strings.TrimSpace(string(root))
	test, init := filepath.Join(temp, "bpf.test"), filepath.Join(temp, "init")
	for _, args := range [][]string{{"test", "-c", "-o", test, "./bpf"}, {"build", "-o", init, "./bench/kernels"}} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = tree
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go %s: %w: %s", args[0], err, out)
		}
	}
	to := filepath.Join(temp, "archive")
	return to, write(to, func(a *archive) error {
		a.node("dev", 0o040755, 0, 0, nil)
		a.node("dev/console", 0o020600, 5, 1, nil) // for init's output, before /dev is mounted
		a.file("init", init)
		a.file("src/bpf/bpf.test", test)
		// Of the captures only some: emulation is slow.
		for _, some := range []string{"pcap/get-*", "pcap/faulty-5ms*"} {
			files, err := filepath.Glob(filepath.Join(tree, "testdata", some))
			if err != nil || len(files) == 0 {
				return fmt.Errorf("testdata holds no %s: %v", some, err)
			}
			for _, f := range files {
				a.file(path.Join("src/testdata", path.Dir(some), filepath.Base(f)), f)
			}
		}
		return a.program(ctx, "ip")
	})
}

// withModules writes the archive with the modules of a kernel, whose directory they
// are in.
func withModules(common, to, dir string) (string, error) {
	first, err := os.ReadFile(common)
	if err != nil {
		return "", err
	}
	err = write(to, func(a *archive) error {
		files, err := filepath.Glob(filepath.Join(dir, "*.ko*"))
		for _, f := range files {
			a.file(path.Join("modules", filepath.Base(f)), f)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	second, err := os.ReadFile(to)
	if err != nil {
		return "", err
	}
	return to, os.WriteFile(to, append(first, second...), 0o644) // the kernel unpacks both
}

// write writes an archive that fill fills.
func write(to string, fill func(*archive) error) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	a := &archive{w: bufio.NewWriter(f), dirs: map[string]bool{}}
	if err := fill(a); err != nil {
		return err
	}
	a.node("TRAILER!!!", 0, 0, 0, nil)
	return errors.Join(a.err, a.w.Flush(), f.Close())
}

// An archive is a cpio archive in the form that kernels unpack into their first
// file system (Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	w    *bufio.Writer
	ino  int
	dirs map[string]bool
	err  error
}

// node adds an entry with its header; mode has the kind of file as in stat(2).
func (a *archive) node(name string, mode uint32, major, minor int, data []byte) {
	a.ino++
	head := "070701"
	for _, field := range []int{a.ino, int(mode), 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name) + 1, 0} {
		head += fmt.Sprintf("%08X", field)
	}
	head += name + "\x00"
	for len(head)%4 != 0 {
		head += "\x00"
	}
	a.w.WriteString(head)
	a.w.Write(data)
	for n := len(data); n%4 != 0; n++ {
		a.w.WriteByte(0)
	}
}

// file adds a file and the directories that it is in.
func (a *archive) file(name, from string) {
	data, err := os.ReadFile(from)
	if err != nil {
		a.err = err
		return
	}
	a.parents(name)
	a.node(name, 0o100755, 0, 0, data)
}

func (a *archive) parents(name string) {
	dir := path.Dir(name)
	if dir == "." || a.dirs[dir] {
		return
	}
	a.dirs[dir] = true
	a.parents(dir)
	a.node(dir, 0o040755, 0, 0, nil)
}

var library = regexp.MustCompile(`(/\S+) \(0x[0-9a-f]+\)`)

// program adds a program of this machine, with the libraries that it needs.
func (a *archive) program(ctx context.Context, name string) error {
	file, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "ldd", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ldd %s: %w: %s", file, err, out)
	}
	a.file("sbin/"+name, file)
	for _, m := range library.FindAllStringSubmatch(string(out), -1) {
		a.file(strings.TrimPrefix(m[1], "/"), m[1])
	}
	return a.err
}
