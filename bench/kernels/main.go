//go:build linux

// Kernels runs the tests of package bpf on other kernels than this machine's: each
// one from Debian's package, in a virtual machine of QEMU that emulates the
// processor, so that nothing but QEMU is needed.
//
// The machine has no disk and no network. It begins with an archive in memory that
// holds this program, as the init of that machine, the test's binary with
// testdata, and ip with its libraries, and ends when the tests have. Tests may
// make network namespaces in it as on any machine.
//
//	kernels                    # all of them
//	kernels -only '5.10' -run Facts -v
//
// It needs apt-get (once: kernels are kept in the user's cache directory) and
// qemu-system-x86_64.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A kernel is one that Debian has.
type kernel struct {
	name   string // such as "5.10"
	suite  string // Debian's release
	images *regexp.Regexp
	lacks  string // what makes it worth the while
}

// kernels are those of the releases that Debian still has, oldest first.
var kernels = []kernel{
	{"5.10", "bullseye-security", regexp.MustCompile(`^linux-image-5\.10\.0-\d+-cloud-amd64$`), "no TCX, no reset reasons, no lengths of what sockets receive"},
	{"6.1", "bookworm-security", regexp.MustCompile(`^linux-image-6\.1\.0-\d+-cloud-amd64$`), "no TCX, no reset reasons, no lengths of what sockets receive"},
	{"6.12", "trixie", regexp.MustCompile(`^linux-image-6\.12\.[0-9.]+\+deb13-cloud-amd64$`), ""},
}

func main() {
	if os.Getpid() == 1 {
		boot() // does not return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("kernels", flag.ContinueOnError)
	only := fs.String("only", "", "only the kernels whose name matches this `expression`")
	tests := fs.String("run", "", "only the tests whose name matches this `expression`")
	verbose := fs.Bool("v", false, "print what the kernels and the tests print")
	limit := fs.Duration("limit", 5*time.Minute, "how long one kernel may take")
	if err := fs.Parse(args); err != nil {
		return err
	}
	chosen, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	cache = filepath.Join(cache, "whyreset", "kernels")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "kernels")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	common, err := pack(ctx, temp)
	if err != nil {
		return err
	}
	var failed []error
	any := false
	for _, k := range kernels {
		if !chosen.MatchString(k.name) {
			continue
		}
		any = true
		dir, err := k.fetch(ctx, cache)
		var archive string
		if err == nil {
			archive, err = withModules(common, filepath.Join(temp, k.name), dir)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("kernel %s: %w", k.name, err))
			continue
		}
		start := time.Now()
		m := machine{image: filepath.Join(dir, imageName), archive: archive, run: *tests, limit: *limit}
		r, err := m.start(ctx)
		if *verbose || err != nil || r.status != 0 {
			fmt.Fprintf(stdout, "%s\n", r.output)
		}
		if err == nil && r.status != 0 {
			err = fmt.Errorf("the tests ended with status %d", r.status)
		}
		if err == nil && r.passed == 0 {
			err = errors.New("no test passed: all were skipped, or there are none of that name")
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("kernel %s: %w", k.name, err))
			continue
		}
		fmt.Fprintf(stdout, "Linux %s: %d tests passed, %d skipped, in %.1f s\n", r.release, r.passed, len(r.skipped), time.Since(start).Seconds())
		for _, s := range r.skipped {
			fmt.Fprintf(stdout, "  %s\n", s)
		}
	}
	if !any {
		return fmt.Errorf("no kernel is called %q", *only)
	}
	return errors.Join(failed...)
}

// In the cache, a kernel's directory holds its image and the modules that tests need.
const imageName = "vmlinuz"

// neededModules are what Debian's kernels do not have built in. Each needs no other.
var neededModules = []string{"kernel/drivers/net/veth.ko"}

// fetch returns the directory of the kernel, from the cache or else from Debian.
func (k *kernel) fetch(ctx context.Context, cache string) (string, error) {
	dir := filepath.Join(cache, k.name)
	if _, err := os.Stat(filepath.Join(dir, imageName)); err == nil {
		return dir, nil
	}
	lists := filepath.Join(cache, "apt-"+k.name)
	for _, d := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(lists, d), 0o755); err != nil {
			return "", err
		}
	}
	defer os.RemoveAll(lists)
	// Sources of its own, so that the kernels do not depend on the machine's.
	archive := "http://deb.debian.org/debian"
	if strings.HasSuffix(k.suite, "-security") {
		archive += "-security"
	}
	sources := filepath.Join(lists, "sources.list")
	line := fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", archive, k.suite)
	if err := os.WriteFile(sources, []byte(line), 0o644); err != nil {
		return "", err
	}
	apt := func(program string, args ...string) (string, error) {
		args = append([]string{"-q", "-o", "Dir::Etc::sourcelist=" + sources, "-o", "Dir::Etc::sourceparts=-",
			"-o", "Dir::State::lists=" + filepath.Join(lists, "lists"), "-o", "Dir::Cache=" + filepath.Join(lists, "cache"),
			"-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"}, args...)
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Dir = lists
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)))
		}
		return string(out), nil
	}
	if _, err := apt("apt-get", "update"); err != nil {
		return "", err
	}
	out, err := apt("apt-cache", "search", "--names-only", "^linux-image-.*-cloud-amd64$")
	if err != nil {
		return "", err
	}
	newest := ""
	for line := range strings.Lines(out) {
		name, _, _ := strings.Cut(line, " ")
		if k.images.MatchString(name) && versionLess(newest, name) {
			newest = name
		}
	}
	if newest == "" {
		return "", fmt.Errorf("no package %v in Debian %s", k.images, k.suite)
	}
	if _, err := apt("apt-get", "download", newest); err != nil {
		return "", err
	}
	debs, _ := filepath.Glob(filepath.Join(lists, newest+"_*.deb"))
	if len(debs) != 1 {
		return "", fmt.Errorf("apt-get downloaded %d files for %s", len(debs), newest)
	}
	root := filepath.Join(lists, "root")
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", debs[0], root).CombinedOutput(); err != nil {
		return "", fmt.Errorf("dpkg-deb: %w: %s", err, out)
	}
	found, _ := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	for _, m := range neededModules {
		for _, lib := range []string{"lib", "usr/lib"} {
			files, _ := filepath.Glob(filepath.Join(root, lib, "modules", "*", m+"*")) // may be compressed
			found = append(found, files...)
		}
	}
	if len(found) != 1+len(neededModules) {
		return "", fmt.Errorf("%s holds only %q", newest, found)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for i, file := range slices.Backward(found) { // the image last: it says that all are there
		name := filepath.Base(file)
		if i == 0 {
			name = imageName
		}
		if err := os.Rename(file, filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// number is a run of digits in a version.
var number = regexp.MustCompile(`\d+`)

// versionLess compares the numbers in two names of packages.
func versionLess(a, b string) bool {
	x, y := number.FindAllString(a, -1), number.FindAllString(b, -1)
	for i := range min(len(x), len(y)) {
		if len(x[i]) != len(y[i]) {
			return len(x[i]) < len(y[i])
		}
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return len(x) < len(y)
}
