package auth

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/internal/tlsprofile"
)

// LDAPOptions configure an LDAP backend. Either DN or both Base and Filter are set. Zero fields mean the defaults.
//
// In DN and in the filters, {login} stands for the login, {local} and {domain} for the parts before and after its last @. In
// Groups.Filter, {dn} stands for the DN of the user's entry. Values are escaped.
type LDAPOptions struct {
	// URLs are servers with the same content, in order of preference: ldap://host:389, ldaps://host:636, ldapi:///path.
	URLs []string
	// StartTLS starts TLS on ldap:// before anything else is sent. Without it, ldap:// is allowed for loopback only.
	StartTLS bool
	// TLS is for ldaps:// and StartTLS. If its ServerName is empty, it is the host of the URL. nil: the system's authorities.
	TLS *tls.Config

	// DN is the DN of a user, such as "uid={login},ou=people,dc=example,dc=com".
	DN string
	// BindDN and BindPassword are the account that searches; empty: anonymous.
	BindDN, BindPassword string
	// Base and Filter find a user below Base, such as "(&(objectClass=person)(uid={login}))".
	Base, Filter string

	// LoginAttribute names the attribute of the entry that is the login in the Identity; "": the login that the client sent.
	LoginAttribute string
	// Attributes are the attributes of the entry that become facts.
	Attributes []string
	Groups     LDAPGroups

	// Timeout of a check at one server; 0: 5 s.
	Timeout time.Duration
	// Conns is how many checks may run at a time; 0: 8. Each uses at most two connections, which are kept open.
	Conns int
	// Cache is for successful checks with Base and Filter. The entry is searched for in any case, and the cache saves only the
	// bind if the entry has not changed. It is not used with DN; use NewCached there.
	Cache CacheOptions
	// Logger gets a record of servers that fail; nil: nothing is logged.
	Logger *slog.Logger
}

// LDAPGroups says where a user's groups are found; all empty: there are none.
type LDAPGroups struct {
	// Attribute names an attribute of the user's entry, such as "memberOf". If Under is set, a value that is a DN directly below
	// Under gives the value of its first RDN, and other values are ignored. If Under is empty, values are used unchanged.
	Attribute, Under string
	// Base and Filter find the entries of groups, such as "(member={dn})". Name is the attribute with the group's name; "": cn.
	Base, Filter, Name string
}

// Bounds of what a server may send.
const (
	ldapAnswer  = 4 << 20 // bytes on a connection for one check
	ldapEntries = maxGroups
)

const ldapName = "ldap" // of the backend

// errServer marks errors after which the next server is asked.
var errServer = errors.New("LDAP server failed")

// expand replaces each {name} by its escaped value. Values are not expanded themselves.
func expand(template string, values map[string]string, escape func(string) string) string {
	var pairs []string
	for name, v := range values {
		pairs = append(pairs, "{"+name+"}", escape(v))
	}
	return strings.NewReplacer(pairs...).Replace(template)
}

// ldapServer is one server with its idle connections. Those in searches are bound as the account that searches, those in binds as
// one user after another.
type ldapServer struct {
	o                *LDAPOptions
	cache            *cache
	scheme, host     string
	network, address string
	name             string // for logs

	mu              sync.Mutex
	closed          bool
	binds, searches []*ldapConn
}

// ldapConn bounds what is received, because the library accepts any length that a server announces.
type ldapConn struct {
	*ldap.Conn
	limit *limitedConn
}

type limitedConn struct {
	net.Conn
	left atomic.Int64
}

func (c *limitedConn) Read(b []byte) (int, error) {
	if c.left.Load() <= 0 {
		return 0, errors.New("the server sends too much")
	}
	n, err := c.Conn.Read(b)
	c.left.Add(-int64(n))
	return n, err
}

// with calls f with a connection of one kind. If an idle connection turns out to be closed, f is called again with another.
// Errors of the network, and those that say that the server cannot answer, wrap errServer.
func (s *ldapServer) with(ctx context.Context, kind *[]*ldapConn, f func(*ldap.Conn) error) error {
	for {
		c, reused, err := s.take(ctx, kind)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", errServer, s.name, err)
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		err = f(c.Conn)
		alive := stop() && !c.IsClosing()
		if alive && !ldap.IsErrorAnyOf(err, ldap.ErrorNetwork, ldap.ErrorUnexpectedResponse, ldap.ErrorUnexpectedMessage) && !serverTrouble(err) {
			s.give(kind, c)
			return err
		}
		c.Close()
		if err == nil {
			return nil // the answer was complete before ctx ended
		}
		if reused && ctx.Err() == nil && !serverTrouble(err) {
			continue
		}
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(err, cause)
		}
		return fmt.Errorf("%w: %s: %w", errServer, s.name, err)
	}
}

// serverTrouble reports whether an error of the server is a reason to ask another one.
func serverTrouble(err error) bool {
	return ldap.IsErrorAnyOf(err, ldap.LDAPResultBusy, ldap.LDAPResultUnavailable, ldap.LDAPResultOperationsError, ldap.LDAPResultOther,
		ldap.LDAPResultTimeLimitExceeded, ldap.LDAPResultProtocolError)
}

func (s *ldapServer) take(ctx context.Context, kind *[]*ldapConn) (c *ldapConn, reused bool, err error) {
	s.mu.Lock()
	for n := len(*kind); n > 0 && c == nil; n-- {
		c, *kind = (*kind)[n-1], (*kind)[:n-1]
		if c.IsClosing() {
			c.Close()
			c = nil
		}
	}
	s.mu.Unlock()
	if c != nil {
		c.limit.left.Store(ldapAnswer)
		return c, true, nil
	}
	c, err = s.dial(ctx)
	if err != nil || kind != &s.searches || s.o.BindDN == "" {
		return c, false, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if err := c.Bind(s.o.BindDN, s.o.BindPassword); err != nil {
		c.Close()
		return nil, false, fmt.Errorf("bind as %s to search: %w", s.o.BindDN, err)
	}
	return c, false, nil
}

func (s *ldapServer) give(kind *[]*ldapConn, c *ldapConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return
	}
	*kind = append(*kind, c)
}

func (s *ldapServer) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, c := range append(s.binds, s.searches...) {
		c.Close()
	}
	s.binds, s.searches = nil, nil
}

// dial connects, with TLS if the options ask for it.
func (s *ldapServer) dial(ctx context.Context) (*ldapConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, s.network, s.address)
	if err != nil {
		return nil, err
	}
	c := &limitedConn{Conn: conn}
	c.left.Store(ldapAnswer)
	config := tlsprofile.New()
	if s.o.TLS != nil {
		config = s.o.TLS.Clone()
	}
	config.ServerName = cmp.Or(config.ServerName, s.host)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if s.scheme == "ldaps" {
		secure := tls.Client(c, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		l := ldap.NewConn(secure, true)
		l.Start()
		return &ldapConn{l, c}, nil
	}
	l := ldap.NewConn(c, false)
	l.Start()
	if s.o.StartTLS {
		if err := l.StartTLS(config); err != nil {
			l.Close()
			return nil, fmt.Errorf("StartTLS: %w", err)
		}
	}
	return &ldapConn{l, c}, nil
}

// bindError returns the error for the result of a user's bind. A result about this user is ErrCredentials; other errors are
// returned unchanged for with.
func bindError(err error) error {
	if ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultNoSuchObject, ldap.LDAPResultInvalidDNSyntax,
		ldap.LDAPResultInappropriateAuthentication, ldap.LDAPResultConstraintViolation, ldap.LDAPResultUnwillingToPerform,
		ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultNamingViolation) {
		return fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	return err
}

// find searches for the entry of the user; nil if there is none. Several entries are an error, because the filter is wrong.
func (s *ldapServer) find(c *ldap.Conn, values map[string]string) (*ldap.Entry, error) {
	wanted := append([]string{"entryCSN", "modifyTimestamp"}, s.o.wanted()...)
	found, err := s.search(c, s.o.Base, ldap.ScopeWholeSubtree, expand(s.o.Filter, values, ldap.EscapeFilter), wanted, 2)
	switch {
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) || len(found) > 1:
		return nil, unavailable("ldap: the filter finds several entries for one login; make it unambiguous")
	case err != nil || len(found) == 0:
		return nil, err
	case found[0].DN == "":
		return nil, unavailable("ldap: the entry has an empty DN, with which every bind succeeds")
	}
	return found[0], nil
}

func (s *ldapServer) search(c *ldap.Conn, base string, scope int, filter string, attributes []string, most int) ([]*ldap.Entry, error) {
	r, err := c.Search(ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, most, 0, false, filter, attributes, nil))
	if err != nil {
		return nil, err
	}
	return r.Entries, nil
}

// wanted returns the attributes of the user's entry that are read.
func (o *LDAPOptions) wanted() (names []string) {
	for _, name := range append([]string{o.LoginAttribute, o.Groups.Attribute}, o.Attributes...) {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// identity returns the identity in user's entry, with the groups that are found elsewhere.
func (s *ldapServer) identity(c *ldap.Conn, user *ldap.Entry, values map[string]string) (Identity, error) {
	o, attributes := s.o, facts{}
	id := Identity{Login: values["login"], Backend: ldapName}
	if o.LoginAttribute != "" {
		login, ok := Login(user.GetEqualFoldAttributeValue(o.LoginAttribute))
		if !ok {
			return Identity{}, unavailable("ldap: %s has no %s that is a login", user.DN, o.LoginAttribute)
		}
		id.Login = login
	}
	for _, name := range o.Attributes {
		for _, v := range user.GetEqualFoldAttributeValues(name) {
			attributes.add(name, v)
		}
	}
	id.Attributes = attributes
	if o.Groups.Attribute != "" {
		id.Groups = groupsOf(user.GetEqualFoldAttributeValues(o.Groups.Attribute), o.Groups.Under)
	}
	if o.Groups.Base == "" {
		return id.inGroups(id.Groups)
	}
	filter := map[string]string{"dn": user.DN}
	for name, v := range values {
		filter[name] = v
	}
	found, err := s.search(c, o.Groups.Base, ldap.ScopeWholeSubtree, expand(o.Groups.Filter, filter, ldap.EscapeFilter), []string{o.Groups.Name}, ldapEntries)
	if err != nil {
		// Never return only some of the groups, because a rule may refuse a group as well as allow one.
		return Identity{}, unavailable("ldap: groups of %s: %w", user.DN, err)
	}
	for _, e := range found {
		if name := e.GetEqualFoldAttributeValue(o.Groups.Name); factText(name) {
			id.Groups = append(id.Groups, name)
		}
	}
	return id.inGroups(id.Groups)
}

// groupsOf returns the names of groups in the values of a group attribute.
func groupsOf(values []string, under string) (names []string) {
	parent, err := ldap.ParseDN(under)
	for _, v := range values {
		if under != "" {
			dn, derr := ldap.ParseDN(v)
			if err != nil || derr != nil || len(dn.RDNs) != len(parent.RDNs)+1 || !parent.AncestorOfFold(dn) || len(dn.RDNs[0].Attributes) != 1 {
				continue
			}
			v = dn.RDNs[0].Attributes[0].Value
		}
		if v = strings.TrimSpace(v); factText(v) {
			names = append(names, v)
		}
	}
	return names
}
