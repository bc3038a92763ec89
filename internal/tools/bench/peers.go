package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/postern-mail/postern/internal/testload"
)

// peer is a server that Postern is compared with. It has the same duties: STARTTLS with the same certificate, AUTH PLAIN, a
// table of 10,000 users that says which sender belongs to which login, and smtp-sink as the next hop.
type peer struct {
	what string
	does string // how it differs from the others
	// missing returns why it cannot run, and "" if it can.
	missing func(o options) string
	start   func(o options, s site) (*running, error)
}

// site is what a peer is started with.
type site struct {
	dir  string // a directory for this peer alone
	sink string // host:port of smtp-sink
	cert string // PEM files, the same for all peers
	key  string
}

// running is a peer that has been started.
type running struct {
	addr    string
	process *testload.Process
	idle    func() bool   // whether all work is done; nil: it is done when the client has the last reply
	output  func() string // what the server logged
}

const (
	login    = "user1"
	password = "bench password"
	salt     = "bench salt"
	users    = 10_000
)

// senders calls each for every address and the user who may send as it.
func senders(each func(address, user string)) {
	for i := range users {
		each(fmt.Sprintf("user%d@example.com", i), fmt.Sprintf("user%d", i))
		each(fmt.Sprintf("alias%d@example.com", i), fmt.Sprintf("user%d", i))
	}
}

// submissionPeers returns the peers of the submission server.
func submissionPeers() []peer {
	return []peer{
		{"postfix, queue", "250 after its queue file is on disk, then the relay; Dovecot checks the password (a single SHA-256), a hash table the sender",
			postfixMissing, func(_ options, s site) (*running, error) { return startPostfixPeer(s, "") }},
		{"postfix, proxy", "smtpd_proxy_filter: 250 after that of the sink; otherwise like the queue",
			postfixMissing, func(_ options, s site) (*running, error) { return startPostfixPeer(s, s.sink) }},
		{"exim, cutthrough", "250 after that of the sink, but the message also goes through a spool file; a single SHA-256 and CDB tables", eximMissing, startExim},
		{"haraka", "smtp_forward: 250 after that of the sink; one Node process; the password is in a file in plain text, the senders in memory",
			harakaMissing, startHaraka},
	}
}

// owned creates directories and makes the user their owner.
func owned(name string, dirs ...string) error {
	owner, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(owner.Gid)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if err := os.Chown(d, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// put writes files into dir.
func put(dir string, files map[string]string) error {
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// startDovecot starts a Dovecot that only checks logins, on a loopback TCP port.
func startDovecot(dir string) (p *testload.Process, addr string, err error) {
	sum := sha256.Sum256([]byte(password + salt))
	hash := base64.StdEncoding.EncodeToString(append(sum[:], salt...))
	addr = testload.FreeAddr()
	_, port, _ := bytes.Cut([]byte(addr), []byte(":"))
	if err := put(dir, map[string]string{
		"users":        fmt.Sprintf("%s:{SSHA256}%s\n", login, hash),
		"dovecot.conf": fmt.Sprintf(dovecotConf, dir, port),
	}); err != nil {
		return nil, "", err
	}
	p, err = testload.Start("dovecot", addr, dir, tool("dovecot"), "-F", "-c", filepath.Join(dir, "dovecot.conf"))
	return p, addr, err
}

const dovecotConf = `base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = /dev/stderr
protocols =
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain
auth_username_chars =
passdb {
  driver = passwd-file
  args = %[1]s/users
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}
service auth {
  inet_listener {
    address = 127.0.0.1
    port = %[2]s
  }
}
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
`

// cdb returns a constant database (Bernstein's format), which Exim reads without other tools.
func cdb(pairs [][2]string) []byte {
	type slot struct{ hash, at uint32 }
	var tables [256][]slot
	out := make([]byte, 2048)
	for _, p := range pairs {
		h := uint32(5381)
		for i := range len(p[0]) {
			h = (h<<5 + h) ^ uint32(p[0][i])
		}
		tables[h&255] = append(tables[h&255], slot{h, uint32(len(out))})
		out = binary.LittleEndian.AppendUint32(out, uint32(len(p[0])))
		out = binary.LittleEndian.AppendUint32(out, uint32(len(p[1])))
		out = append(append(out, p[0]...), p[1]...)
	}
	for i, t := range tables {
		n := uint32(2 * len(t))
		binary.LittleEndian.PutUint32(out[8*i:], uint32(len(out)))
		binary.LittleEndian.PutUint32(out[8*i+4:], n)
		slots := make([]slot, n)
		for _, s := range t {
			at := s.hash >> 8 % n
			for slots[at].at != 0 {
				at = (at + 1) % n
			}
			slots[at] = s
		}
		for _, s := range slots {
			out = binary.LittleEndian.AppendUint32(out, s.hash)
			out = binary.LittleEndian.AppendUint32(out, s.at)
		}
	}
	return out
}
