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

// Bounds of what a directory may send.
const (
	ldapAnswer  = 4 << 20 // octets on a connection for one check
	ldapEntries = maxGroups
)

const ldapName = "ldap" // of the backend

// errServer marks errors after which the next server may know better.
var errServer = errors.New("LDAP server failed")

// expand replaces {name} by its value, escaped for where it is put. Values are not expanded again.
func expand(template string, values map[string]string, escape func(string) string) string {
	var pairs []string
	for name, v := range values {
		pairs = append(pairs, "{"+name+"}", escape(v))
	}
	return strings.NewReplacer(pairs...).Replace(template)
}

// ldapServer is one server with its idle connections: those that searches use, bound as whom we search as, and those that are
// bound as one user after another.
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

// ldapConn counts what comes in, because the library would take whatever length a server announces.
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
		return 0, errors.New("the server says more than it was asked for")
	}
	n, err := c.Conn.Read(b)
	c.left.Add(-int64(n))
	return n, err
}

// with calls f with a connection of one kind. A kept one that turns out to be dead is replaced. Errors of the network, and those
// that say that the server cannot answer, wrap errServer.
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
			return nil // the answer was whole before ctx ended
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

// serverTrouble says that the server answered, but that another may do better.
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

// dial connects, with TLS where it is to be.
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

// bindError is what the result of a user's bind means. All that the server says about this user is a refusal; the rest is
// left for with to judge.
func bindError(err error) error {
	if ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultNoSuchObject, ldap.LDAPResultInvalidDNSyntax,
		ldap.LDAPResultInappropriateAuthentication, ldap.LDAPResultConstraintViolation, ldap.LDAPResultUnwillingToPerform,
		ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultNamingViolation) {
		return fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	return err
}

// find looks for the user; nil where there is none. Several are nobody's password: the filter is wrong.
func (s *ldapServer) find(c *ldap.Conn, values map[string]string) (*ldap.Entry, error) {
	wanted := append([]string{"entryCSN", "modifyTimestamp"}, s.o.wanted()...)
	found, err := s.search(c, s.o.Base, ldap.ScopeWholeSubtree, expand(s.o.Filter, values, ldap.EscapeFilter), wanted, 2)
	switch {
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) || len(found) > 1:
		return nil, unavailable("ldap: the filter finds several entries for one login: make it unambiguous")
	case err != nil || len(found) == 0:
		return nil, err
	case found[0].DN == "":
		return nil, unavailable("ldap: the entry found has an empty DN, as whom anybody may bind")
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

// wanted are the attributes of the user's entry that are read.
func (o *LDAPOptions) wanted() (names []string) {
	for _, name := range append([]string{o.LoginAttribute, o.Groups.Attribute}, o.Attributes...) {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// identity is what user's entry says, and the groups found beside it.
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
		// Never half of the groups: a rule may forbid by group as well as allow.
		return Identity{}, unavailable("ldap: groups of %s: %w", user.DN, err)
	}
	for _, e := range found {
		if name := e.GetEqualFoldAttributeValue(o.Groups.Name); factText(name) {
			id.Groups = append(id.Groups, name)
		}
	}
	return id.inGroups(id.Groups)
}

// groupsOf makes names of the values of a group attribute.
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
