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

// Debian packages of the peers. Exim conflicts with Postfix, so it is unpacked into a directory instead of installed.
var (
	peerPackages = []string{"postfix", "dovecot-core", "rspamd", "mimedefang", "libnet-dns-perl"}
	eximPackages = []string{"exim4-daemon-light"}
)

// skip prints and records that something is not measured, and why.
func (o options) skip(what, why string) {
	if why == "not installed" {
		why += "; `make bench-peers` installs it (Debian, as root)"
	}
	note := what + ": " + why
	*o.skipped = append(*o.skipped, note)
	fmt.Fprintf(os.Stderr, "bench: not measured: %s\n", note)
}

// installPeers installs the peers that are missing, prints each command, and starts no service.
func installPeers(o options) error {
	if os.Getuid() != 0 {
		return errors.New("-install-peers needs root, because it calls apt-get")
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
	fmt.Fprintf(os.Stderr, "bench: all peers are installed; Exim is in %s, Haraka in %s\n", unpackRoot(), o.cache)
	return nil
}

// noDaemons keeps packages from starting services. restore ends that.
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

// unpackExim installs the libraries that Exim needs, and unpacks its programs below unpackRoot.
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
	return os.Chmod(filepath.Join(unpackRoot(), "usr/sbin/exim4"), 0o755) // without the setuid bit: root starts it
}

// command prints a command and runs it.
func command(ctx context.Context, dir, name string, arg ...string) error {
	fmt.Fprintf(os.Stderr, "bench: %s %s\n", name, strings.Join(arg, " "))
	cmd := exec.CommandContext(ctx, name, arg...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, testload.Tail(string(out)))
	}
	return nil
}
