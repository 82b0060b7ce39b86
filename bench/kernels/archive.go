//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// pack writes the archive that a machine boots from.
func pack(ctx context.Context, to, temp string) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	tree := strings.TrimSpace(string(root))
	test, init := filepath.Join(temp, "bpf.test"), filepath.Join(temp, "init")
	for _, args := range [][]string{{"test", "-c", "-o", test, "./bpf"}, {"build", "-o", init, "./bench/kernels"}} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = tree
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w: %s", args[0], err, out)
		}
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	a := &archive{w: bufio.NewWriter(f), dirs: map[string]bool{}}
	a.node("dev", 0o040755, 0, 0, nil)
	a.node("dev/console", 0o020600, 5, 1, nil) // for init's output, before /dev is mounted
	a.file("init", init)
	a.file("src/bpf/bpf.test", test)
	// Of the captures only those: emulation is slow.
	if err := a.tree(filepath.Join(tree, "testdata", "pcap"), "src/testdata/pcap"); err != nil {
		return err
	}
	if err := a.program(ctx, "ip"); err != nil {
		return err
	}
	a.node("TRAILER!!!", 0, 0, 0, nil)
	if a.err != nil {
		return a.err
	}
	if err := a.w.Flush(); err != nil {
		return err
	}
	return f.Close()
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

// tree adds all files below a directory.
func (a *archive) tree(from, to string) error {
	return filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		below, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		a.file(path.Join(to, filepath.ToSlash(below)), file)
		return a.err
	})
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
