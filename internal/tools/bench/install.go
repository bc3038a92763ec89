package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/testload"
)

// Debian's packages of the peers. Exim conflicts with Postfix, so that it is unpacked beside the system.
var (
	peerPackages = []string{"postfix", "dovecot-core", "rspamd", "mimedefang", "libnet-dns-perl"}
	eximPackages = []string{"exim4-daemon-light"}
)

// lacks says what is left out, and how to get it; the report repeats it.
func (o options) lacks(what, why string) {
	if why == "not installed" {
		why += "; `go run ./internal/tools/bench -install-peers` installs it (Debian, as root)"
	}
	note := what + ": " + why
	*o.left = append(*o.left, note)
	fmt.Fprintf(os.Stderr, "bench: not measured: %s\n", note)
}

// installPeers installs what is not there yet, says what, and starts none of it.
func installPeers(o options) error {
	if os.Getuid() != 0 {
		return errors.New("-install-peers needs root: it calls apt-get")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	restore, err := noDaemons()
	if err != nil {
		return err
	}
	defer restore()
	var missing []string
	for _, p := range peerPackages {
		if out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Status}", p).Output(); err != nil || string(out) != "install ok installed" {
			missing = append(missing, p)
		}
	}
	if _, err := exec.LookPath("npm"); err != nil {
		missing = append(missing, "nodejs", "npm")
	}
	if len(missing) > 0 {
		if err := aptInstall(ctx, missing...); err != nil {
			return err
		}
	}
	if !exists(eximPath()) {
		if err := unpackExim(ctx); err != nil {
			return err
		}
	}
	if _, err := user.Lookup("Debian-exim"); err != nil {
		if err := command(ctx, "", "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", "Debian-exim"); err != nil {
			return err
		}
	}
	if !exists(harakaPath(o)) {
		dir := filepath.Join(o.cache, "haraka")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := command(ctx, dir, "npm", "install", "--prefix", dir, "--no-audit", "--no-fund", "--omit=dev", "--omit=optional", "--ignore-scripts", "--loglevel=error",
			"Haraka@"+harakaVersion); err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stderr, "bench: all peers are there; Exim in %s, Haraka in %s\n", unpackRoot(), o.cache)
	return nil
}

// noDaemons keeps packages from starting what they bring.
func noDaemons() (restore func(), err error) {
	const policy = "/usr/sbin/policy-rc.d"
	if exists(policy) {
		return func() {}, nil
	}
	if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
		return nil, err
	}
	return func() { _ = os.Remove(policy) }, nil
}

func aptInstall(ctx context.Context, packages ...string) error {
	if err := command(ctx, "", "apt-get", "-o", "DPkg::Lock::Timeout=300", "update", "-qq"); err != nil {
		return err
	}
	return command(ctx, "", "apt-get", append([]string{"-o", "DPkg::Lock::Timeout=300", "install", "-y", "-qq", "--no-install-recommends"}, packages...)...)
}

// unpackExim installs the libraries that Exim needs and puts its programs beside the system.
func unpackExim(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "apt-cache", append([]string{"depends"}, eximPackages...)...).Output()
	if err != nil {
		return fmt.Errorf("apt-cache depends: %w", err)
	}
	var libraries []string
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: lib"); ok && !strings.ContainsAny(name, "<>") {
			libraries = append(libraries, "lib"+name)
		}
	}
	if err := aptInstall(ctx, libraries...); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "postern-bench-debs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := command(ctx, dir, "apt-get", append([]string{"-o", "APT::Sandbox::User=root", "download", "-qq"}, eximPackages...)...); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if err := command(ctx, "", "dpkg-deb", "-x", deb, unpackRoot()); err != nil {
			return err
		}
	}
	return os.Chmod(filepath.Join(unpackRoot(), "usr/sbin/exim4"), 0o755) // not setuid: root starts it
}

// command runs a program, and says so.
func command(ctx context.Context, dir, name string, arg ...string) error {
	fmt.Fprintf(os.Stderr, "bench: %s %s\n", name, strings.Join(arg, " "))
	cmd := exec.CommandContext(ctx, name, arg...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, testload.Tail(string(out)))
	}
	return nil
}
