package auth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/internal/netaddr"
	"github.com/postern-mail/postern/internal/spelling"
)

// LDAP is a Backend that checks a password by a bind (RFC 4513 §5.1.3). It never sends an empty password, which would be an
// anonymous bind and succeed (§5.1.2). Make one with NewLDAP; it is safe for concurrent use.
type LDAP struct {
	o       LDAPOptions
	slots   slots
	servers []*ldapServer
	first   atomic.Int32 // the server that answered last
	cache   *cache
}

// NewLDAP checks the options. It does not connect.
func NewLDAP(o LDAPOptions) (*LDAP, error) {
	o.Timeout, o.Conns, o.Cache = cmp.Or(o.Timeout, 5*time.Second), cmp.Or(o.Conns, 8), o.Cache.withDefaults()
	o.Groups.Name = cmp.Or(o.Groups.Name, "cn")
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &LDAP{o: o, slots: newSlots(o.Conns), cache: newCache(o.Cache.Life, o.Cache.Size)}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("ldap: %w", err)
	}
	for _, raw := range o.URLs {
		s, err := newLDAPServer(l, raw)
		if err != nil {
			return nil, fmt.Errorf("ldap: %w", err)
		}
		l.servers = append(l.servers, s)
	}
	return l, nil
}

// check checks the options without asking a server.
func (l *LDAP) check() error {
	o := l.o
	some := map[string]string{"login": "a", "local": "a", "domain": "a", "dn": "dc=a"}
	switch {
	case len(o.URLs) == 0:
		return errors.New("the URL of a server is missing")
	case (o.DN == "") == (o.Base == ""):
		return errors.New("give a DN, or a base and a filter to search with")
	case (o.Base == "") != (o.Filter == ""):
		return errors.New("base and filter go together")
	case o.DN != "" && o.BindDN != "":
		return errors.New("with a DN nothing is searched for, so it takes no bind DN")
	case (o.BindDN == "") != (o.BindPassword == ""):
		return errors.New("bind DN and bind password go together")
	case (o.Groups.Base == "") != (o.Groups.Filter == ""):
		return errors.New("base and filter of groups go together")
	}
	for _, dn := range []string{expand(o.DN, some, ldap.EscapeDN), o.BindDN, o.Base, o.Groups.Base, o.Groups.Under} {
		if _, err := ldap.ParseDN(dn); err != nil {
			return fmt.Errorf("%q is not a DN: %w", dn, err)
		}
	}
	for _, filter := range []string{o.Filter, o.Groups.Filter} {
		if filter == "" {
			continue
		}
		if _, err := ldap.CompileFilter(expand(filter, some, ldap.EscapeFilter)); err != nil {
			return fmt.Errorf("filter %q: %w", filter, err)
		}
	}
	for what, template := range map[string]string{"DN": o.DN, "filter": o.Filter} {
		if template != "" && !strings.Contains(template, "{login}") && !strings.Contains(template, "{local}") {
			return fmt.Errorf("%s %q has neither {login} nor {local}, so all logins would be the same user", what, template)
		}
	}
	return nil
}

// Name implements Backend.
func (l *LDAP) Name() string { return ldapName }

// Flush forgets all successful checks.
func (l *LDAP) Flush() { l.cache.empty() }

// Close closes idle connections.
func (l *LDAP) Close() error {
	for _, s := range l.servers {
		s.close()
	}
	return nil
}

// Password implements Backend. It asks one server after another until one answers.
func (l *LDAP) Password(ctx context.Context, login, password string) (Identity, error) {
	login, ok := Login(login)
	if !ok || password == "" || len(password) > MaxPassword || strings.IndexByte(password, 0) >= 0 {
		return Identity{}, ErrCredentials
	}
	if l.o.LoginAttribute == "" && !spelling.OneCase(login) { // the directory ignores case, and so has this login in lower case, too
		return Identity{}, fmt.Errorf("%w: without login_attribute, a login must be in lower case", ErrCredentials)
	}
	values := map[string]string{"login": login, "local": login}
	if i := strings.LastIndexByte(login, '@'); i >= 0 {
		values["local"], values["domain"] = login[:i], login[i+1:]
	} else if strings.Contains(l.o.DN+l.o.Filter, "{domain}") {
		return Identity{}, fmt.Errorf("%w: the login has no domain", ErrCredentials)
	}
	give, err := l.slots.take(ctx)
	if err != nil {
		return Identity{}, err
	}
	defer give()
	first, failed := int(l.first.Load()), error(nil)
	for i := range l.servers {
		n := (first + i) % len(l.servers)
		bounded, cancel := context.WithTimeout(ctx, l.o.Timeout)
		id, err := l.servers[n].password(bounded, values, password)
		cancel()
		if !errors.Is(err, errServer) {
			l.first.Store(int32(n))
			if err != nil && !errors.Is(err, ErrCredentials) && !errors.Is(err, ErrUnavailable) {
				err = unavailable("%s: %w", l.servers[n].name, err)
			}
			return id, err
		}
		l.o.Logger.Warn("LDAP server", "url", l.servers[n].name, "error", err)
		failed = errors.Join(failed, err)
	}
	return Identity{}, unavailable("%w", failed)
}

// password asks one server.
func (s *ldapServer) password(ctx context.Context, values map[string]string, password string) (id Identity, err error) {
	if s.o.DN != "" {
		return s.bindDN(ctx, values, password)
	}
	var user *ldap.Entry
	err = s.with(ctx, &s.searches, func(c *ldap.Conn) (err error) {
		if user, err = s.find(c, values); err == nil && user != nil {
			id, err = s.identity(c, user, values)
		}
		return err
	})
	if err != nil {
		return Identity{}, err
	}
	if user == nil {
		// There is no such user. A bind is sent in any case, so that the time tells less. Its result does not count.
		decoy := "cn=" + ldap.EscapeDN(values["login"]) + ",cn=nobody," + s.o.Base
		err := s.with(ctx, &s.binds, func(c *ldap.Conn) error { return c.Bind(decoy, password) })
		if errors.Is(err, errServer) {
			return Identity{}, err
		}
		return Identity{}, ErrCredentials
	}
	// The state of the entry is part of the proof, so that the next check after any change is a bind again.
	state := user.GetAttributeValue("entryCSN") + user.GetAttributeValue("modifyTimestamp")
	p := s.cache.proof(values["login"], []byte(password), user.DN, state)
	if _, known := s.cache.recall(p, s.o.Cache.Now()); known && state != "" {
		return id, nil
	}
	if err := s.with(ctx, &s.binds, func(c *ldap.Conn) error { return bindError(c.Bind(user.DN, password)) }); err != nil {
		return Identity{}, err
	}
	if state != "" {
		s.cache.add(p, s.o.Cache.Now())
	}
	return id, nil
}

// bindDN binds as the user, and reads the entry and the groups of the user with that account.
func (s *ldapServer) bindDN(ctx context.Context, values map[string]string, password string) (id Identity, err error) {
	dn := expand(s.o.DN, values, ldap.EscapeDN)
	err = s.with(ctx, &s.binds, func(c *ldap.Conn) error {
		if err := bindError(c.Bind(dn, password)); err != nil {
			return err
		}
		user := &ldap.Entry{DN: dn}
		if len(s.o.wanted()) > 0 {
			found, err := s.search(c, dn, ldap.ScopeBaseObject, "(objectClass=*)", s.o.wanted(), 1)
			if err != nil {
				return err
			}
			if len(found) == 1 {
				user = found[0]
			}
		}
		id, err = s.identity(c, user, values)
		return err
	})
	if err != nil {
		return Identity{}, err
	}
	return id, nil
}

// newLDAPServer returns the server of one URL.
func newLDAPServer(l *LDAP, raw string) (*ldapServer, error) {
	u, err := url.Parse(raw)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not the URL of a server; write ldaps://ldap.example.com", redacted(u))
	}
	s := &ldapServer{o: &l.o, cache: l.cache, scheme: u.Scheme, host: u.Hostname(), name: u.Redacted()}
	ports := map[string]string{"ldap": "389", "ldaps": "636"}
	switch {
	case u.Scheme == "ldapi" && u.Host == "" && len(u.Path) > 1:
		s.network, s.address = "unix", u.Path
	case ports[u.Scheme] == "":
		return nil, fmt.Errorf("%s:// is not LDAP; write ldap://, ldaps:// or ldapi:///path", u.Scheme)
	case s.host == "" || u.Path != "" && u.Path != "/":
		return nil, fmt.Errorf("%q: %s:// takes a host and a port, and no path", s.name, u.Scheme)
	default:
		s.network, s.address = "tcp", net.JoinHostPort(s.host, cmp.Or(u.Port(), ports[u.Scheme]))
	}
	if u.Scheme == "ldap" && !l.o.StartTLS && !netaddr.IsLoopback(s.host) {
		return nil, fmt.Errorf("%s: passwords would cross the network unencrypted; write ldaps://, or set StartTLS", s.name)
	}
	if u.Scheme != "ldap" && l.o.StartTLS {
		return nil, fmt.Errorf("%s: StartTLS is for ldap://", s.name)
	}
	return s, nil
}

func redacted(u *url.URL) string {
	if u == nil {
		return "this"
	}
	return u.Redacted()
}
