package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/cmd/postern/certs"
	"github.com/postern-mail/postern/internal/safefile"
	"github.com/postern-mail/postern/internal/tlsprofile"
	"github.com/postern-mail/postern/internal/yamldoc"
	"github.com/postern-mail/postern/smtpd/auth"
)

// Dovecot is a Dovecot server that checks passwords.
type Dovecot struct {
	Options auth.DovecotOptions
	Cache   time.Duration // how long a successful login is remembered; 0 for one minute, negative for not at all
}

// LDAP is a directory that checks passwords.
type LDAP struct {
	Options          auth.LDAPOptions // except for what the fields below say
	CA, ServerName   string           // of ldaps:// and StartTLS
	BindPasswordFile string           // its first line is the password
	Cache            time.Duration
}

// RADIUS is a group of servers that check passwords.
type RADIUS struct {
	Options    auth.RADIUSOptions // without Secret
	SecretFile string             // its first line is the secret
	Cache      time.Duration
}

// AuthLimits slow down and refuse clients that guess passwords. A field that is 0 has the default of auth.Throttle.
type AuthLimits struct {
	Free     int           // failures without a delay; 2
	MaxDelay time.Duration // before the reply to a login; 8 s
	Refuse   int           // number of failures from which an address is refused; 30
	HalfLife time.Duration // of the number of failures; 5 minutes
	Exempt   []netip.Prefix
}

// RecentLogins is the socket on which a POP or IMAP server reports logins.
type RecentLogins struct {
	Socket string // path of a unix datagram socket; "" for none
	Mode   os.FileMode
	Group  string
	Life   time.Duration
}

// Open reads the files that l names and makes the backend.
func (l *LDAP) Open(o auth.LDAPOptions) (*auth.LDAP, error) {
	o.Cache.Life = l.Cache
	o.TLS = tlsprofile.New()
	o.TLS.ServerName = l.ServerName
	if l.CA != "" {
		pool, err := certs.LoadPool(l.CA)
		if err != nil {
			return nil, err
		}
		o.TLS.RootCAs = pool
	}
	if l.BindPasswordFile != "" {
		secret, err := safefile.ReadSecret(l.BindPasswordFile)
		if err != nil {
			return nil, err
		}
		o.BindPassword = secret
	}
	return auth.NewLDAP(o)
}

// Open reads the file with the secret and makes the backend.
func (r *RADIUS) Open(o auth.RADIUSOptions) (_ *auth.RADIUS, err error) {
	if o.Secret, err = safefile.ReadSecret(r.SecretFile); err != nil {
		return nil, err
	}
	return auth.NewRADIUS(o)
}

// Bounds of the values of backends.
const (
	maxTimeout = 2 * time.Minute
	maxConns   = 1024
)

func (r *reader) dovecot(n yamldoc.Node, d *Dovecot) {
	o := &d.Options
	r.section(n, yamldoc.Keys{
		"address": func(n yamldoc.Node) {
			s, ok := n.Text(maxText)
			switch {
			case !ok:
			case !strings.Contains(s, "/"):
				if problem := badAddress(s, false); problem != "" {
					n.Fail(fmt.Sprintf("%q: %s", s, problem), "write the path of a socket, such as /run/dovecot/auth-client, or host:port")
					return
				}
				o.Address = s
			case len(r.join(s)) > maxSocket:
				n.Fail(fmt.Sprintf("the path of the socket is longer than %d bytes", maxSocket), "use a shorter path")
			default:
				o.Address = r.join(s)
			}
		},
		"service":     func(n yamldoc.Node) { r.word(n, &o.Service) },
		"groups":      func(n yamldoc.Node) { r.word(n, &o.Groups) },
		"timeout":     func(n yamldoc.Node) { set(&o.Timeout)(n.Duration(100*time.Millisecond, maxTimeout)) },
		"connections": func(n yamldoc.Node) { set(&o.Conns)(n.Int(1, maxConns)) },
		"cache":       func(n yamldoc.Node) { r.life(n, &d.Cache) },
	})
	if o.Address == "" && !r.failed(n) {
		n.Fail("has no address", "add address: /run/dovecot/auth-client")
	}
}

// word reads a name that is sent in a protocol.
func (r *reader) word(n yamldoc.Node, to *string) {
	if s, ok := n.Text(64); ok {
		if strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
			n.Fail(fmt.Sprintf("%q is not a name", s), "write letters, digits, - and _")
			return
		}
		*to = s
	}
}

// life reads how long successful logins are remembered: a duration, or off.
func (r *reader) life(n yamldoc.Node, to *time.Duration) {
	if s, ok := n.Text(16); ok && s == "off" {
		*to = -1
	} else if ok {
		set(to)(n.Duration(time.Second, time.Hour))
	}
}

func (r *reader) ldap(n yamldoc.Node, l *LDAP) {
	o := &l.Options
	r.section(n, yamldoc.Keys{
		"urls":               func(n yamldoc.Node) { r.list(n, func(_ yamldoc.Node, s string) { o.URLs = append(o.URLs, s) }) },
		"starttls":           func(n yamldoc.Node) { set(&o.StartTLS)(n.Bool()) },
		"ca":                 func(n yamldoc.Node) { r.path(n, &l.CA) },
		"server_name":        func(n yamldoc.Node) { r.hostname(n, &l.ServerName) },
		"dn":                 func(n yamldoc.Node) { set(&o.DN)(n.Text(maxText)) },
		"bind_dn":            func(n yamldoc.Node) { set(&o.BindDN)(n.Text(maxText)) },
		"bind_password_file": func(n yamldoc.Node) { r.path(n, &l.BindPasswordFile) },
		"base":               func(n yamldoc.Node) { set(&o.Base)(n.Text(maxText)) },
		"filter":             func(n yamldoc.Node) { set(&o.Filter)(n.Text(maxText)) },
		"login_attribute":    func(n yamldoc.Node) { r.word(n, &o.LoginAttribute) },
		"attributes": func(n yamldoc.Node) {
			r.list(n, func(_ yamldoc.Node, s string) { o.Attributes = append(o.Attributes, s) })
		},
		"groups":      func(n yamldoc.Node) { r.ldapGroups(n, &o.Groups) },
		"timeout":     func(n yamldoc.Node) { set(&o.Timeout)(n.Duration(100*time.Millisecond, maxTimeout)) },
		"connections": func(n yamldoc.Node) { set(&o.Conns)(n.Int(1, maxConns)) },
		"cache":       func(n yamldoc.Node) { r.life(n, &l.Cache) },
	})
	if (o.BindDN == "") != (l.BindPasswordFile == "") && !r.failed(n) {
		n.Fail("bind_dn and bind_password_file go together", "write both, or neither to search anonymously")
	}
}

func (r *reader) ldapGroups(n yamldoc.Node, g *auth.LDAPGroups) {
	r.section(n, yamldoc.Keys{
		"attribute": func(n yamldoc.Node) { r.word(n, &g.Attribute) },
		"under":     func(n yamldoc.Node) { set(&g.Under)(n.Text(maxText)) },
		"base":      func(n yamldoc.Node) { set(&g.Base)(n.Text(maxText)) },
		"filter":    func(n yamldoc.Node) { set(&g.Filter)(n.Text(maxText)) },
		"name":      func(n yamldoc.Node) { r.word(n, &g.Name) },
	})
}

func (r *reader) radius(n yamldoc.Node, a *RADIUS) {
	o := &a.Options
	r.section(n, yamldoc.Keys{
		"servers": func(n yamldoc.Node) {
			r.list(n, func(n yamldoc.Node, s string) {
				if problem := badAddress(s, false); problem != "" {
					n.Fail(fmt.Sprintf("%q: %s", s, problem), "write host:port, such as radius.example.com:1812")
					return
				}
				o.Servers = append(o.Servers, s)
			})
		},
		"secret_file":    func(n yamldoc.Node) { r.path(n, &a.SecretFile) },
		"nas_identifier": func(n yamldoc.Node) { r.word(n, &o.NASIdentifier) },
		"attributes": func(n yamldoc.Node) {
			r.list(n, func(_ yamldoc.Node, s string) { o.Attributes = append(o.Attributes, s) })
		},
		"groups":      func(n yamldoc.Node) { set(&o.Groups)(n.Text(64)) },
		"timeout":     func(n yamldoc.Node) { set(&o.Timeout)(n.Duration(100*time.Millisecond, maxTimeout)) },
		"tries":       func(n yamldoc.Node) { set(&o.Tries)(n.Int(1, 20)) },
		"connections": func(n yamldoc.Node) { set(&o.Conns)(n.Int(1, maxConns)) },
		"cache":       func(n yamldoc.Node) { r.life(n, &a.Cache) },
	})
	if a.SecretFile == "" && !r.failed(n) {
		n.Fail("has no secret_file", "add secret_file: radius.secret, whose first line is the secret")
	}
}

func (r *reader) authLimits(n yamldoc.Node) {
	l := &r.c.Submission.AuthLimits
	r.section(n, yamldoc.Keys{
		"free":      func(n yamldoc.Node) { set(&l.Free)(n.Int(1, 1000)) },
		"max_delay": func(n yamldoc.Node) { set(&l.MaxDelay)(n.Duration(time.Millisecond, time.Minute)) },
		"refuse":    func(n yamldoc.Node) { set(&l.Refuse)(n.Int(3, 100_000)) },
		"half_life": func(n yamldoc.Node) { set(&l.HalfLife)(n.Duration(time.Second, 24*time.Hour)) },
		"exempt":    func(n yamldoc.Node) { r.prefixes(n, &l.Exempt, "name the machines through which many people connect") },
	})
}

func (r *reader) recentLogins(n yamldoc.Node) {
	l := &r.c.Submission.RecentLogins
	r.section(n, yamldoc.Keys{
		"socket": func(n yamldoc.Node) {
			if r.path(n, &l.Socket); len(l.Socket) > maxSocket {
				n.Fail(fmt.Sprintf("the path of the socket is longer than %d bytes", maxSocket), "use a shorter path")
			}
		},
		"mode": func(n yamldoc.Node) {
			socket := MilterListener{Mode: l.Mode}
			r.mode(n, &socket)
			l.Mode = socket.Mode
		},
		"group": func(n yamldoc.Node) { set(&l.Group)(n.Text(255)) },
		"life":  func(n yamldoc.Node) { set(&l.Life)(n.Duration(time.Second, 24*time.Hour)) },
	})
	if l.Socket == "" && !n.Empty() && !r.failed(n) {
		n.Fail("has no socket", "add socket: /run/postern/recent.sock")
	}
}

// backend checks a backend that is not a users file. It does everything except for connecting.
func (v *validator) backend(i int, a Auth) {
	key := fmt.Sprintf("auth[%d]", i)
	var err error
	switch {
	case a.Dovecot != nil:
		_, err = auth.NewDovecot(a.Dovecot.Options)
		key += ".dovecot"
	case a.LDAP != nil:
		_, err = a.LDAP.Open(a.LDAP.Options)
		key += ".ldap"
		v.secret(key+".bind_password_file", a.LDAP.BindPasswordFile)
		if a.LDAP.CA != "" {
			v.file(key+".ca", a.LDAP.CA)
		}
	case a.RADIUS != nil:
		_, err = a.RADIUS.Open(a.RADIUS.Options)
		key += ".radius"
		v.secret(key+".secret_file", a.RADIUS.SecretFile)
	}
	var missing *fs.PathError
	if err != nil && !errors.As(err, &missing) {
		v.add(key, err.Error(), "see docs/how-to/"+key[strings.LastIndexByte(key, '.')+1:]+".md for examples")
	}
}

// recentSocket checks directory, mode and group of the socket.
func (v *validator) recentSocket() {
	l := v.c.Submission.RecentLogins
	if l.Socket == "" {
		return
	}
	v.parentOf("submission.recent_logins.socket", l.Socket)
	if l.Mode&0o002 != 0 {
		v.warn("submission.recent_logins.mode", fmt.Sprintf("every user of this machine can report logins (mode %04o)", l.Mode), `write mode: "0660" and group:`)
	}
	if l.Group != "" {
		v.group("submission.recent_logins.group", l.Group)
	}
}

// Gid returns the number of a group that is written as a name or a number.
func Gid(group string) (int, error) {
	n, err := lookupGroup(group)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(n)
}

// Autoconfig is what mail programs learn about a domain.
type Autoconfig struct {
	Domain     string // "" to serve nothing
	Name       string // for people; default: Domain
	IMAP, POP3 string // hosts with implicit TLS on ports 993 and 995; "" for none
}

func (r *reader) autoconfig(n yamldoc.Node) {
	a := &r.c.Admin.Autoconfig
	r.section(n, yamldoc.Keys{
		"domain": func(n yamldoc.Node) { r.hostname(n, &a.Domain) },
		"name":   func(n yamldoc.Node) { set(&a.Name)(n.Text(128)) },
		"imap":   func(n yamldoc.Node) { r.hostname(n, &a.IMAP) },
		"pop3":   func(n yamldoc.Node) { r.hostname(n, &a.POP3) },
	})
	if a.Domain == "" && !n.Empty() && !r.failed(n) {
		n.Fail("has no domain", "add domain: example.com, the part after the @ of addresses")
	}
	if a.Name == "" {
		a.Name = a.Domain
	}
}
