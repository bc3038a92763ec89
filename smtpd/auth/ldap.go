package auth

import (
	"cmp"
	"context"
	"crypto/tls"
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
)

// LDAPOptions configure an LDAP backend: either DN, or Base and Filter. Zero fields mean the defaults.
//
// In DN and in the filters, {login}, {local} and {domain} stand for the login and for what is before and after its last @,
// and in Groups.Filter {dn} for the user's entry, each escaped for its place.
type LDAPOptions struct {
	// URLs of servers with the same content, in order of preference: ldap://host:389, ldaps://host:636, ldapi:///path.
	URLs []string
	// StartTLS before anything else is said over ldap://. Without it ldap:// is taken for loopback only.
	StartTLS bool
	// TLS of ldaps:// and StartTLS; its ServerName, where empty, is the host of the URL. nil: the system's authorities.
	TLS *tls.Config

	// DN of a user: "uid={login},ou=people,dc=example,dc=com".
	DN string
	// BindDN and BindPassword are whom we search as; empty: anonymous.
	BindDN, BindPassword string
	// Base and Filter find a user below Base: "(&(objectClass=person)(uid={login}))".
	Base, Filter string

	// LoginAttribute of the entry is the login that is proved; empty: the login as it was given.
	LoginAttribute string
	// Attributes of the entry that become facts.
	Attributes []string
	Groups     LDAPGroups

	// Timeout of a check at one server; 5 s.
	Timeout time.Duration
	// Checks at once; 8. Each uses at most two connections, which are kept.
	Conns int
	// Cache of successes. With Base and Filter, the entry is looked up all the same, and only the bind is spared where it has
	// not changed since; with DN it is for NewCached to remember.
	Cache CacheOptions
	// Logger hears of servers that fail; none.
	Logger *slog.Logger
}

// LDAPGroups says where a user's groups are; all empty: nowhere.
type LDAPGroups struct {
	// Attribute of the user's entry: "memberOf". Values that are DNs right below Under become the value of their first RDN,
	// and all others nothing; with Under empty, values are taken as they are.
	Attribute, Under string
	// Base and Filter find the groups' entries: "(member={dn})"; their Name attribute, "cn", is the group's name.
	Base, Filter, Name string
}

// LDAP is a Backend that proves a password by binding with it (RFC 4513 §5.1.3). An empty password never gets there: that
// would be an anonymous bind, which succeeds (§5.1.2). Make one with NewLDAP; it is safe for concurrent use.
type LDAP struct {
	o       LDAPOptions
	slots   slots
	servers []*ldapServer
	first   atomic.Int32 // the server that answered last
	cache   *cache
}

// Bounds of what a directory may send.
const (
	ldapAnswer  = 4 << 20 // octets on a connection for one check
	ldapEntries = maxGroups
)

// errServer marks errors after which the next server may know better.
var errServer = errors.New("LDAP server failed")

// NewLDAP checks the options. It does not connect.
func NewLDAP(o LDAPOptions) (*LDAP, error) {
	o.Timeout, o.Conns, o.Cache = cmp.Or(o.Timeout, 5*time.Second), cmp.Or(o.Conns, 8), o.Cache.withDefaults()
	o.Groups.Name = cmp.Or(o.Groups.Name, "cn")
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &LDAP{o: o, slots: make(slots, o.Conns), cache: newCache(o.Cache.Life, o.Cache.Size)}
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

// check finds what can be wrong without asking a server.
func (l *LDAP) check() error {
	o := l.o
	some := map[string]string{"login": "a", "local": "a", "domain": "a", "dn": "dc=a"}
	switch {
	case len(o.URLs) == 0:
		return errors.New("no server")
	case (o.DN == "") == (o.Base == ""):
		return errors.New("give a DN, or a base and a filter to search with")
	case (o.Base == "") != (o.Filter == ""):
		return errors.New("base and filter go together")
	case o.DN != "" && o.BindDN != "":
		return errors.New("a DN needs nobody to search as")
	case (o.BindDN == "") != (o.BindPassword == ""):
		return errors.New("whom to search as needs a DN and a password")
	case (o.Groups.Base == "") != (o.Groups.Filter == ""):
		return errors.New("base and filter of groups go together")
	}
	for _, dn := range []string{expand(o.DN, some, ldap.EscapeDN), o.BindDN, o.Base, o.Groups.Base, o.Groups.Under} {
		if _, err := ldap.ParseDN(dn); err != nil {
			return fmt.Errorf("%q is no DN: %w", dn, err)
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
			return fmt.Errorf("%s %q has neither {login} nor {local} in it: everybody would be one user", what, template)
		}
	}
	return nil
}

// expand replaces {name} by its value, escaped for where it is put. Values are not expanded again.
func expand(template string, values map[string]string, escape func(string) string) string {
	var pairs []string
	for name, v := range values {
		pairs = append(pairs, "{"+name+"}", escape(v))
	}
	return strings.NewReplacer(pairs...).Replace(template)
}

// Name implements Backend.
func (l *LDAP) Name() string { return "ldap" }

// Flush forgets successes.
func (l *LDAP) Flush() { l.cache.empty() }

// Close closes idle connections.
func (l *LDAP) Close() error {
	for _, s := range l.servers {
		s.close()
	}
	return nil
}

// Password implements Backend: it asks one server after another until one answers.
func (l *LDAP) Password(ctx context.Context, login, password string) (Identity, error) {
	login, ok := Login(login)
	if !ok || password == "" || len(password) > MaxPassword || strings.IndexByte(password, 0) >= 0 {
		return Identity{}, ErrCredentials
	}
	values := map[string]string{"login": login, "local": login}
	if i := strings.LastIndexByte(login, '@'); i >= 0 {
		values["local"], values["domain"] = login[:i], login[i+1:]
	} else if strings.Contains(l.o.DN+l.o.Filter, "{domain}") {
		return Identity{}, fmt.Errorf("%w: the login has no domain", ErrCredentials)
	}
	if err := l.slots.take(ctx); err != nil {
		return Identity{}, err
	}
	defer l.slots.give()
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

// password checks at one server.
func (s *ldapServer) password(ctx context.Context, values map[string]string, password string) (id Identity, err error) {
	if s.l.o.DN != "" {
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
		// Nobody: a bind all the same, so that the time tells less. Its outcome says nothing.
		decoy := "cn=" + ldap.EscapeDN(values["login"]) + ",cn=nobody," + s.l.o.Base
		err := s.with(ctx, &s.binds, func(c *ldap.Conn) error { return c.Bind(decoy, password) })
		if errors.Is(err, errServer) {
			return Identity{}, err
		}
		return Identity{}, ErrCredentials
	}
	// The state of the entry is part of the proof: after any change of it the next check is a bind again.
	state := user.GetAttributeValue("entryCSN") + user.GetAttributeValue("modifyTimestamp")
	p := s.l.cache.proof(values["login"], []byte(password), user.DN, state)
	if _, known := s.l.cache.recall(p, s.l.o.Cache.Now()); known && state != "" {
		return id, nil
	}
	if err := s.with(ctx, &s.binds, func(c *ldap.Conn) error { return bindError(c.Bind(user.DN, password)) }); err != nil {
		return Identity{}, err
	}
	if state != "" {
		s.l.cache.add(p, s.l.o.Cache.Now())
	}
	return id, nil
}

// bindDN binds as the user, and then reads the user's own entry and groups as the user.
func (s *ldapServer) bindDN(ctx context.Context, values map[string]string, password string) (id Identity, err error) {
	dn := expand(s.l.o.DN, values, ldap.EscapeDN)
	err = s.with(ctx, &s.binds, func(c *ldap.Conn) error {
		if err := bindError(c.Bind(dn, password)); err != nil {
			return err
		}
		user := &ldap.Entry{DN: dn}
		if len(s.l.wanted()) > 0 {
			found, err := s.search(c, dn, ldap.ScopeBaseObject, "(objectClass=*)", s.l.wanted(), 1)
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

// newLDAPServer reads one URL.
func newLDAPServer(l *LDAP, raw string) (*ldapServer, error) {
	u, err := url.Parse(raw)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is no URL of a server: write ldaps://ldap.example.com", redacted(u))
	}
	s := &ldapServer{l: l, scheme: u.Scheme, host: u.Hostname(), name: u.Redacted()}
	ports := map[string]string{"ldap": "389", "ldaps": "636"}
	switch {
	case u.Scheme == "ldapi" && u.Host == "" && len(u.Path) > 1:
		s.network, s.address = "unix", u.Path
	case ports[u.Scheme] == "":
		return nil, fmt.Errorf("%s:// is no LDAP: write ldap://, ldaps:// or ldapi:///path", u.Scheme)
	case s.host == "" || u.Path != "" && u.Path != "/":
		return nil, fmt.Errorf("%q: %s:// takes a host and a port, no path", s.name, u.Scheme)
	default:
		s.network, s.address = "tcp", net.JoinHostPort(s.host, cmp.Or(u.Port(), ports[u.Scheme]))
	}
	if u.Scheme == "ldap" && !l.o.StartTLS && !netaddr.IsLoopback(s.host) {
		return nil, fmt.Errorf("%s: passwords would go over the network in the clear: write ldaps://, or set StartTLS", s.name)
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
