package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/postern-mail/postern/internal/testload"
	"github.com/postern-mail/postern/policies"
)

const (
	password = "soak password"
	logins   = 5 // users with a password; senders has 10,000 users
)

// site is a Postern in a temporary directory.
type site struct {
	dir               string
	plain, tls, admin string // addresses
	unix, tcp         string // milter sockets
	hash              string // of password
	log               *logReader
	process           *testload.Process
}

// rules obey a header field of the message, which says what policy has to do with it.
const rules = `package postern.message

import data.postern.lib.soak

quarantine contains "soak.hold" if "hold" in input.message.header["x-soak-plan"]

reject contains {
	"rule": "soak.refuse",
	"code": 550,
	"status": "5.7.1",
	"message": "Refused by the policy of the soak",
} if "refuse" in input.message.header["x-soak-plan"]

defer contains {
	"rule": "soak.postpone",
	"code": 451,
	"status": "4.7.1",
	"message": "Postponed by the policy of the soak",
} if "postpone" in input.message.header["x-soak-plan"]

edit contains {"op": "add_header", "name": "X-Soak-Code", "value": soak.code} if input.message.header["x-soak-id"]
`

// config gives policies long time-outs, because a busy machine is not what is tested here.
const config = `hostname: soak.example.com
submission:
  listen: [%q]
  listen_tls: [%q]
  tls: {cert: cert.pem, key: key.pem}
  limits: {connections: 8000, connections_per_ip: 8000, unused_per_ip: 8000, idle: 1m}
  auth_limits: {exempt: ["127.99.0.0/16"]}
auth:
  - file: users.yaml
relay:
  to: [%q, %q]
  quarantine: maildir:held
milter:
  listen: ["unix:%s", "tcp:%s"]
policy: {bundle: bundle, data: [senders.yaml], timeout: 10s, test_timeout: 5m}
decision_log: {file: decisions.jsonl, rotate: {size: 4MiB, keep: 3}}
admin: {listen: %q}
log: {level: warn, format: json}
`

// newSite writes the files and starts the program, which relays to the two hops.
func newSite(dir, postern string, hops [2]string) (*site, error) {
	s := &site{dir: dir, plain: testload.FreeAddr(), tls: testload.FreeAddr(), admin: testload.FreeAddr(), tcp: testload.FreeAddr(),
		unix: filepath.Join(dir, "milter.sock"), log: newLogReader()}
	cmd := exec.Command(postern, "passwd", "user0")
	cmd.Stdin = strings.NewReader(password + "\n")
	line, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("postern passwd: %w", err)
	}
	_, s.hash, _ = strings.Cut(strings.TrimSpace(string(line)), ": ")
	if err := s.write(hops); err != nil {
		return nil, err
	}
	tmp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return nil, err
	}
	s.process, err = testload.StartTo(s.log, []string{"TMPDIR=" + tmp}, "postern", s.plain, dir, postern, "serve", "--config", filepath.Join(dir, "postern.yaml"))
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, s.log.tail())
	}
	return s, nil
}

func (s *site) write(hops [2]string) error {
	err := fs.WalkDir(policies.FS, ".", func(path string, d fs.DirEntry, err error) error {
		to := filepath.Join(s.dir, "bundle", path)
		if err != nil || d.IsDir() {
			return cmp.Or(err, os.MkdirAll(to, 0o700))
		}
		b, err := fs.ReadFile(policies.FS, path)
		return cmp.Or(err, os.WriteFile(to, b, 0o600))
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(s.dir, "bundle/postern/lib/soak"), 0o700); err != nil {
		return err
	}
	text := fmt.Sprintf(config, s.plain, s.tls, "smtp://"+hops[0], "smtp://"+hops[1], s.unix, s.tcp, s.admin)
	for name, content := range map[string]string{"bundle/postern/message/soak.rego": rules, "postern.yaml": text, codeFile: code(0), usersFile: s.users(0), dataFile: senders(0)} {
		if err := s.put(name, content); err != nil {
			return err
		}
	}
	return testload.Certificate(s.dir, "soak.example.com", 1)
}

const (
	codeFile  = "bundle/postern/lib/soak/code.rego"
	dataFile  = "senders.yaml"
	usersFile = "users.yaml"
)

func (s *site) put(name, content string) error {
	return testload.Replace(filepath.Join(s.dir, name), []byte(content))
}

// The n-th version of each reloaded file.

func code(n int) string { return fmt.Sprintf("package postern.lib.soak\n\ncode := \"c%d\"\n", n) }

func senders(n int) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "settings: {domain: example.com}\nsenders:\n  guest%d: [guest@example.com]\n", n)
	for i := range 10_000 {
		fmt.Fprintf(&b, "  user%d: [user%d@example.com, alias%d@example.com, \"@team%d.example.com\"]\n", i, i, i, i%100)
	}
	return b.String()
}

func (s *site) users(n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "users:\n  guest%d: %s\n", n, s.hash)
	for i := range logins {
		fmt.Fprintf(&b, "  user%d: %s\n", i, s.hash)
	}
	return b.String()
}
