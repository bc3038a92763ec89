package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/cmd/postern/certs"
	"github.com/postern-mail/postern/cmd/postern/systemd"
	"github.com/postern-mail/postern/internal/netaddr"
	"github.com/postern-mail/postern/internal/safefile"
	"github.com/postern-mail/postern/internal/yamldoc"
	"github.com/postern-mail/postern/smtpd/auth"
)

// validator collects findings about a Config.
type validator struct {
	c     *Config
	found yamldoc.Findings
}

// Validate checks the files that the configuration names, and keys that contradict each other. It reads certificates and users files, but does
// not read the bundle, which package gate compiles. Some findings are warnings.
func (c *Config) Validate() yamldoc.Findings {
	v := &validator{c: c}
	v.listeners()
	if c.Submission.Enabled() {
		v.tls()
		v.limits()
		v.extensions()
		v.auth()
		v.recentSocket()
	} else if c.Written("auth") && len(c.Auth) > 0 {
		v.warn("auth", "auth is only for a submission server, and there is none", "remove auth:, or add submission: {listen: ...}")
	}
	v.relay()
	v.milter()
	v.policy()
	v.decisionLog()
	v.places()
	if v.c.Admin.Autoconfig.Domain != "" && v.c.Admin.Listen == "" {
		v.add("admin.autoconfig", "there is no listener to serve it", "add listen: 127.0.0.1:8880")
	}
	return v.found.Sorted()
}

// add adds a finding, with the place of the nearest key in the file. It leaves the finding out if there is already one about the key.
func (v *validator) add(key, problem, mend string) {
	if v.c.doc != nil {
		for _, f := range v.c.doc.Findings() {
			if f.Key != "" && strings.HasPrefix(f.Key, key) {
				return
			}
		}
	}
	f := yamldoc.Finding{File: v.c.File, Key: key, Problem: problem, Mend: mend}
	for at := key; at != "" && v.c.doc != nil; at = parent(at) {
		if pos, ok := v.c.at[at]; ok {
			f = v.c.doc.Finding(pos, key, problem, mend)
			break
		}
	}
	v.found = append(v.found, f)
}

func (v *validator) warn(key, problem, mend string) {
	before := len(v.found)
	v.add(key, problem, mend)
	for i := range v.found[before:] {
		v.found[before+i].Warning = true
	}
}

func parent(key string) string {
	return key[:max(strings.LastIndexAny(key, ".["), 0)]
}

// listeners finds two listeners that need the same socket.
func (v *validator) listeners() {
	type listener struct{ key, network, address string }
	var all []listener
	for i, a := range v.c.Submission.Listen {
		all = append(all, listener{v.element("submission.listen", i), network(a), a})
	}
	for i, a := range v.c.Submission.ListenTLS {
		all = append(all, listener{v.element("submission.listen_tls", i), network(a), a})
	}
	for i, l := range v.c.Milter.Listen {
		if l.Address != "" {
			a := l.Address
			if l.Network == "systemd" {
				a = l.Spec()
			}
			all = append(all, listener{milterKey(i), l.Network, a})
		}
	}
	if a := v.c.Admin.Listen; a != "" {
		all = append(all, listener{"admin.listen", network(a), a})
		if network(a) == "tcp" && !v.c.Admin.MayListen(a) {
			v.add("admin.listen", a+" can be reached from other machines, and the admin server asks nobody for a password", "write 127.0.0.1:8880, or add public: true if a firewall keeps strangers out")
		}
	}
	if !v.c.Submission.Enabled() && len(v.c.Milter.Listen) == 0 {
		v.add("submission.listen", "there is no listener", `write submission.listen: [":587"], submission.listen_tls: [":465"] or milter.listen: ["unix:/run/postern/milter.sock"]`)
	}
	for i, b := range all {
		for _, a := range all[:i] {
			if a.network == b.network && (a.network != "tcp" && a.address == b.address || a.network == "tcp" && overlap(a.address, b.address)) {
				v.add(b.key, fmt.Sprintf("%s is used by %s, too", b.address, a.key), "give each listener its own port")
				break
			}
		}
	}
}

// element returns the key of an element of a list, or of the single value that was written instead of the list.
func (v *validator) element(list string, i int) string {
	key := fmt.Sprintf("%s[%d]", list, i)
	if _, ok := v.c.at[key]; !ok {
		return list
	}
	return key
}

// overlap reports whether two TCP addresses cannot be bound at once: their port is the same, and their host is the same or one is every
// interface. Port 0 is a different port at each bind.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	every := func(h string) bool { return h == "" || h == "0.0.0.0" || h == "::" }
	return errA == nil && errB == nil && portA == portB && portA != "0" && (hostA == hostB || every(hostA) || every(hostB))
}

func network(address string) string {
	if strings.HasPrefix(address, systemd.Prefix) {
		return "systemd"
	}
	return "tcp"
}

// MayListen reports whether the admin server may listen on host:port.
func (a Admin) MayListen(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return a.Public || err == nil && netaddr.IsLoopback(host)
}

// Systemd returns the names of the sockets that systemd opens.
func (c *Config) Systemd() (names []string) {
	addresses := append(slices.Concat(c.Submission.Listen, c.Submission.ListenTLS), c.Admin.Listen)
	for _, l := range c.Milter.Listen {
		addresses = append(addresses, l.Spec())
	}
	for _, a := range addresses {
		if name, is := strings.CutPrefix(a, systemd.Prefix); is {
			names = append(names, name)
		}
	}
	return names
}

func (v *validator) tls() {
	t := v.c.Submission.TLS
	switch {
	case (t.Cert == "") != (t.Key == ""):
		v.add("submission.tls", "cert and key go together", "write both, or neither for a self-signed certificate")
	case t.Cert != "":
		// A missing file has a finding at its own key.
		if !v.file("submission.tls.cert", t.Cert) || !v.file("submission.tls.key", t.Key) {
			break
		}
		if _, err := certs.Load(t.Cert, t.Key, time.Now()); errors.Is(err, certs.ErrExpired) {
			v.warn("submission.tls.cert", err.Error(), "")
		} else if err != nil {
			v.add("submission.tls.cert", err.Error(), "")
		}
		v.private("submission.tls.key", t.Key)
	}
	if t.ClientCA != "" && v.file("submission.tls.client_ca", t.ClientCA) {
		if _, err := certs.LoadPool(t.ClientCA); err != nil {
			v.add("submission.tls.client_ca", err.Error(), "")
		}
	}
}

func (v *validator) auth() {
	if len(v.c.Auth) == 0 && v.c.Submission.RequireAuth {
		v.add("auth", "nobody could submit mail, because authentication is required and there is no backend", "write auth: [{file: users.yaml}], or submission: {require_auth: false}")
	}
	v.mechanisms()
	for i, a := range v.c.Auth {
		switch {
		case a.OAuth != nil:
			v.oauth(fmt.Sprintf("auth[%d].oauth", i), a.OAuth)
			continue
		case a.Certificate != nil:
			v.certificate(fmt.Sprintf("auth[%d].certificate", i), a.Certificate)
			continue
		case a.File == "":
			v.backend(i, a)
			continue
		}
		key := fmt.Sprintf("auth[%d].file", i)
		if _, err := os.Stat(a.File); errors.Is(err, fs.ErrNotExist) {
			if v.c.File != "" {
				v.add(key, a.File+" does not exist", "make it with postern passwd NAME --file "+a.File)
			}
			continue
		}
		_, err := auth.OpenFile(a.File, auth.FileOptions{})
		var inner yamldoc.Findings
		if errors.As(err, &inner) {
			v.found = append(v.found, inner...)
		} else if err != nil {
			v.add(key, err.Error(), "")
		}
		v.private(key, a.File)
	}
}

func (v *validator) relay() {
	for i, t := range v.c.Relay.To {
		key := targetKey(i)
		if dir, is := strings.CutPrefix(t.URL, "maildir:"); is {
			v.directory(key, dir)
			if t.Username != "" || t.CA != "" || v.c.Written(key+".starttls") {
				v.add(key, "a Maildir has neither starttls, ca nor a login", "remove them")
			}
			continue
		}
		u, err := url.Parse(t.URL)
		if err != nil {
			v.add(key, "this is not the URL of a next hop", urlMend)
			continue
		}
		if u.Scheme == "smtps" && t.StartTLS != "auto" {
			v.add(key+".starttls", "smtps:// always uses TLS", "remove starttls:, or write smtp://")
		}
		if t.Username != "" && t.StartTLS == "off" && u.Scheme != "smtps" && u.Scheme != "lmtp+unix" && !netaddr.IsLoopback(u.Hostname()) {
			v.add(key+".starttls", "the password would cross the network unencrypted", "write starttls: required")
		}
		if t.CA != "" && v.file(key+".ca", t.CA) {
			if _, err := certs.LoadPool(t.CA); err != nil {
				v.add(key+".ca", err.Error(), "")
			}
		}
		v.secret(key+".password_file", t.PasswordFile)
	}
	v.directory("relay.quarantine", v.c.Relay.Quarantine)
	v.timeouts()
}

func (v *validator) milter() {
	names := map[string]string{}
	for i, l := range v.c.Milter.Listen {
		key := milterKey(i)
		if other, twice := names[l.Name]; twice && l.Name != "" {
			v.add(key, fmt.Sprintf("has the same name as %s", other), "give each listener its own name")
		}
		names[l.Name] = key
		if own := l.Group != "" || l.Mode != 0o660; own && l.Network == "tcp" {
			v.add(key, "mode and group are only for unix sockets", "remove them from a tcp: listener")
		} else if own && l.Network == "systemd" {
			v.add(key, "systemd makes this socket", "remove mode and group, and write SocketMode= and SocketGroup= in its unit")
		}
		if l.Group != "" {
			v.group(key, l.Group)
		}
		if l.Network == "unix" {
			v.parentOf(key, l.Address)
		}
		if l.OnError == "accept" && v.c.Policy.OnError != "accept" {
			v.warn(key, "mail passes unchecked when policy fails here", "write on_error: defer")
		}
	}
}

func (v *validator) group(key, name string) {
	if _, err := lookupGroup(name); err != nil {
		v.add(key, fmt.Sprintf("there is no group %q", name), "write the name of a group of this system, often postfix")
	}
}

// lookupGroup returns the number of a group that is written as a name or a number.
func lookupGroup(name string) (gid string, err error) {
	if g, err := user.LookupGroup(name); err == nil {
		return g.Gid, nil
	}
	_, err = strconv.ParseUint(name, 10, 31)
	return name, err
}

func (v *validator) policy() {
	p := v.c.Policy
	v.remote()
	v.verify()
	if p.Bundle != "" && !p.remote() {
		v.bundleHere("policy.bundle", p.Bundle)
	}
	v.candidates()
	for i, path := range p.Data {
		v.file(v.element("policy.data", i), path)
	}
	if p.OnError == "accept" {
		v.warn("policy.on_error", "mail passes unchecked when policy fails", "write defer, so that clients try again")
	}
}

// places checks the directories that are written to.
func (v *validator) places() {
	v.directory("state_dir", v.c.StateDir)
	if f := v.c.DecisionLog.File; f != "" {
		if info, err := os.Stat(f); err == nil && info.IsDir() {
			v.add("decision_log.file", f+" is a directory", "name a file")
		} else if v.c.Written("decision_log.file") {
			v.parentOf("decision_log.file", f)
		}
	}
}

// file reports whether path can be read, and adds a finding if not.
func (v *validator) file(key, path string) bool {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		v.add(key, path+" is not a file", "name a file") // opening a pipe would wait for its writer
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		v.add(key, path+": "+reason(err), "name a file that this user may read")
		return false
	}
	f.Close()
	return true
}

// directory checks that path is a directory. It may be missing, because it will be made.
func (v *validator) directory(key, path string) {
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		v.add(key, path+" is not a directory", "name a directory, or a path that does not exist yet")
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		v.add(key, path+": "+reason(err), "name a directory that this user may use")
	}
}

func (v *validator) parentOf(key, path string) {
	dir := filepath.Dir(path)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		v.add(key, "the directory "+dir+" does not exist", "make it, and let the user who runs postern own it")
	}
}

// secret checks the file of a password, token or shared secret. path may be "".
func (v *validator) secret(key, path string) {
	if path == "" || !v.file(key, path) {
		return
	}
	if _, err := safefile.ReadSecret(path); err != nil {
		v.add(key, path+": "+reason(err), "")
		return
	}
	v.private(key, path)
}

// private warns about a secret that every user of the machine may read.
func (v *validator) private(key, path string) {
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o007 != 0 {
		v.warn(key, fmt.Sprintf("%s can be read by every user of this machine (mode %04o)", path, info.Mode().Perm()), "chmod 640 "+path)
	}
}

func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}
