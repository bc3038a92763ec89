package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/postern-mail/postern/internal/testload"
)

// configure writes into dir a postern.yaml with the given listeners, a users file with one user, the senders of n users and a
// certificate. passwd are options of postern passwd.
func configure(postern, dir, listeners string, n int, passwd ...string) error {
	cmd := exec.Command(postern, append([]string{"passwd", login}, passwd...)...)
	cmd.Stdin = bytes.NewBufferString(password + "\n")
	line, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("postern passwd: %w", err)
	}
	var senders bytes.Buffer
	senders.WriteString("settings: {domain: example.com, max_recipients: 1000}\nsenders:\n")
	for i := range n {
		fmt.Fprintf(&senders, "  user%d: [user%d@example.com, alias%d@example.com, \"@team%d.example.com\"]\n", i, i, i, i%100)
	}
	// The time-out is long, because on a busy machine a decision can wait for a processor and still has to be measured.
	config := "hostname: bench.example.com\n" + listeners +
		"policy:\n  data: [senders.yaml]\n  timeout: 2s\ndecision_log: {file: decisions.jsonl}\nlog: {level: warn}\n"
	for name, content := range map[string][]byte{
		"postern.yaml": []byte(config), "users.yaml": append([]byte("users:\n"), line...), "senders.yaml": senders.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return testload.Certificate(dir, "bench.example.com", 1)
}

// startPostern configures a build of Postern in the new directory dir and starts it.
func startPostern(build, dir, addr, listeners string) (*testload.Process, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if err := configure(build, dir, listeners, users); err != nil {
		return nil, err
	}
	return testload.Start("postern", addr, dir, build, "serve", "--config", filepath.Join(dir, "postern.yaml"))
}

// first returns the first process, nil if there is none.
func first(list []*testload.Process) *testload.Process {
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

// submissionAt is the configuration of a submission server at addr that relays to next.
func submissionAt(addr, next string) string {
	return fmt.Sprintf("submission:\n  listen: [%q]\n  tls: {cert: cert.pem, key: key.pem}\n"+
		"  limits: {connections: 12000, connections_per_ip: 12000, unused_per_ip: 12000, recipients: 1000, message_bytes: 256MiB, idle: 1h}\nauth:\n  - file: users.yaml\nrelay:\n  to: %s\n", addr, next)
}

// tool returns the path of an installed program, sbin directories included.
func tool(name string) string {
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"} {
		if p := filepath.Join(dir, name); exists(p) {
			return p
		}
	}
	return name
}

func exists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

// sinkCommand runs Postfix's smtp-sink at addr, which refuses to run as root.
func sinkCommand(addr string) []string {
	if os.Getuid() == 0 {
		return []string{tool("smtp-sink"), "-u", "postfix", "-c", addr, "1000"}
	}
	return []string{tool("smtp-sink"), "-c", addr, "1000"}
}
