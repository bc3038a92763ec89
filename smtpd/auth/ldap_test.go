package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testauth"
	"github.com/postern-mail/postern/internal/testenv"
)

const ldapPeople = `dn: uid=alice,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: A
mail: alice@example.com
mail: press@example.com
employeeType: staff
userPassword: correct horse

dn: uid=bob,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: bob
cn: Bob
sn: B
mail: bob@example.com
userPassword: b

dn: uid=star\2Cou=x,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: star,ou=x
cn: Star
sn: S
mail: (star)*@example.com
userPassword: s

dn: uid=twin1,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: twin1
cn: Twin
sn: T
mail: twin@example.com
userPassword: t

dn: uid=twin2,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: twin2
cn: Twin
sn: T
mail: twin@example.com
userPassword: t

dn: uid=nopass,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: nopass
cn: N
sn: N

dn: cn=sales,ou=groups,dc=example,dc=com
objectClass: groupOfNames
cn: sales
member: uid=alice,ou=people,dc=example,dc=com
member: uid=star\2Cou=x,ou=people,dc=example,dc=com

dn: cn=sales,ou=people,dc=example,dc=com
objectClass: groupOfNames
cn: admins
member: uid=alice,ou=people,dc=example,dc=com
`

const (
	byDN     = "uid={login},ou=people,dc=example,dc=com"
	people   = "ou=people,dc=example,dc=com"
	byUID    = "(&(objectClass=inetOrgPerson)(uid={login}))"
	byMail   = "(mail={login})"
	groupsDN = "ou=groups,dc=example,dc=com"
	manager  = "cn=manager,dc=example,dc=com"
)

func newLDAP(t testing.TB, o LDAPOptions) *LDAP {
	t.Helper()
	l, err := NewLDAP(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestLDAP(t *testing.T) {
	s := testauth.Slapd(t, ldapPeople)
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(s.CA)
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	secure := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	search := LDAPOptions{URLs: []string{s.URL}, BindDN: manager, BindPassword: "manager", Base: people, Filter: byUID}
	with := func(f func(*LDAPOptions)) LDAPOptions { o := search; f(&o); return o }
	for _, c := range []struct {
		name    string
		options LDAPOptions
		tries   [][3]string
	}{
		{"DN", LDAPOptions{URLs: []string{s.URL}, DN: byDN}, [][3]string{
			{"alice", "correct horse", "alice"}, {"Alice", "correct horse", "alice"}, {"alice", "wrong", "refused"}, {"alice", "", "refused"},
			{"mallory", "x", "refused"}, {"nopass", "x", "refused"}, {"star,ou=x", "s", "star,ou=x"},
			{"alice,ou=people,dc=example,dc=com", "correct horse", "refused"}, {"alice+uid=bob", "correct horse", "refused"}, {"*", "correct horse", "refused"},
			{"alice\x00", "correct horse", "refused"}, {"alice", "correct horse\x00", "refused"}, {"a\\2clice", "x", "refused"}, {"#616c696365", "correct horse", "refused"},
		}},
		{"search", search, [][3]string{
			{"alice", "correct horse", "alice"}, {"alice", "correct horse", "alice"}, {"alice", "wrong", "refused"}, {"alice", "", "refused"}, {"mallory", "x", "refused"},
			{"*", "correct horse", "refused"}, {"a*", "correct horse", "refused"}, {"alice)(uid=*", "correct horse", "refused"}, {"*)(objectClass=*", "manager", "refused"},
			{"alice\\", "correct horse", "refused"}, {"nopass", "x", "refused"}, {"star,ou=x", "s", "star,ou=x"}, {"{dn}", "x", "refused"}, {"{login}", "x", "refused"},
		}},
		{"by mail", with(func(o *LDAPOptions) { o.Filter, o.LoginAttribute = byMail, "uid" }), [][3]string{
			{"press@example.com", "correct horse", "alice"}, {"PRESS@example.com", "correct horse", "alice"}, {"bob@example.com", "b", "bob"},
			{"bob@example.com", "correct horse", "refused"}, {"(star)*@example.com", "s", "star,ou=x"}, {"twin@example.com", "t", "unavailable"}, {"*@example.com", "b", "refused"},
		}},
		{"local part and domain", with(func(o *LDAPOptions) { o.Filter = "(&(uid={local})(mail=*@{domain}))" }), [][3]string{
			{"alice@example.com", "correct horse", "alice@example.com"}, {"alice@example.net", "correct horse", "refused"}, {"alice", "correct horse", "refused"},
			{"alice@*", "correct horse", "refused"},
		}},
		{"StartTLS", with(func(o *LDAPOptions) { o.StartTLS, o.TLS = true, secure }), [][3]string{{"alice", "correct horse", "alice"}, {"alice", "x", "refused"}}},
		{"ldaps", with(func(o *LDAPOptions) { o.URLs, o.TLS = []string{s.TLSURL}, secure }), [][3]string{{"alice", "correct horse", "alice"}, {"alice", "x", "refused"}}},
		{"ldaps, authority unknown", with(func(o *LDAPOptions) { o.URLs = []string{s.TLSURL} }), [][3]string{{"alice", "correct horse", "unavailable"}}},
		{"StartTLS, authority unknown", with(func(o *LDAPOptions) { o.StartTLS = true }), [][3]string{{"alice", "correct horse", "unavailable"}}},
		{"StartTLS, another name", with(func(o *LDAPOptions) {
			o.StartTLS, o.TLS = true, &tls.Config{RootCAs: pool, ServerName: "other.example.com", MinVersion: tls.VersionTLS12}
		}), [][3]string{{"alice", "correct horse", "unavailable"}}},
		{"TLS to a server in the clear", with(func(o *LDAPOptions) { o.URLs = []string{"ldaps" + strings.TrimPrefix(s.URL, "ldap")} }), [][3]string{{"alice", "correct horse", "unavailable"}}},
		{"wrong search password", with(func(o *LDAPOptions) { o.BindPassword = "x" }), [][3]string{{"alice", "correct horse", "unavailable"}}},
		{"no right to search", with(func(o *LDAPOptions) { o.BindDN, o.BindPassword = "", "" }), [][3]string{{"alice", "correct horse", "unavailable"}}},
		{"base is not there", with(func(o *LDAPOptions) { o.Base = "ou=nowhere,dc=example,dc=com" }), [][3]string{{"alice", "correct horse", "unavailable"}}},
	} {
		l := newLDAP(t, c.options)
		for _, try := range c.tries {
			if got := outcome(l.Password(context.Background(), try[0], try[1])); got != try[2] {
				t.Errorf("%s: %q with %q: %s, want %s", c.name, try[0], try[1], got, try[2])
			}
		}
	}
}

func TestLDAPFacts(t *testing.T) {
	s := testauth.Slapd(t, ldapPeople)
	search := LDAPOptions{URLs: []string{s.URL}, BindDN: manager, BindPassword: "manager", Base: people, Filter: byUID, Attributes: []string{"mail", "employeetype"}}
	for name, c := range map[string]struct {
		set    func(*LDAPOptions)
		groups []string
	}{
		"none":            {func(o *LDAPOptions) {}, nil},
		"memberOf":        {func(o *LDAPOptions) { o.Groups = LDAPGroups{Attribute: "memberOf", Under: groupsDN} }, []string{"sales"}},
		"memberOf, whole": {func(o *LDAPOptions) { o.Groups = LDAPGroups{Attribute: "memberOf"} }, []string{"cn=sales,ou=groups,dc=example,dc=com", "cn=sales,ou=people,dc=example,dc=com"}},
		"group search":    {func(o *LDAPOptions) { o.Groups = LDAPGroups{Base: groupsDN, Filter: "(member={dn})"} }, []string{"sales"}},
		"as oneself": {func(o *LDAPOptions) {
			o.BindDN, o.BindPassword, o.Base, o.Filter, o.DN = "", "", "", "", byDN
		}, nil},
	} {
		o := search
		c.set(&o)
		id, err := newLDAP(t, o).Password(context.Background(), "alice", "correct horse")
		slices.Sort(id.Groups)
		if err != nil || id.Backend != "ldap" || !slices.Equal(id.Groups, c.groups) || !slices.Equal(id.Attributes["mail"], []string{"alice@example.com", "press@example.com"}) ||
			!slices.Equal(id.Attributes["employeetype"], []string{"staff"}) {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
	l := newLDAP(t, LDAPOptions{URLs: []string{s.URL}, BindDN: manager, BindPassword: "manager", Base: people, Filter: byUID, Groups: LDAPGroups{Base: groupsDN, Filter: "(member={dn})"}})
	if id, err := l.Password(context.Background(), "star,ou=x", "s"); err != nil || !slices.Equal(id.Groups, []string{"sales"}) {
		t.Errorf("a DN to be escaped: %+v, %v", id, err)
	}
	if id, err := l.Password(context.Background(), "bob", "b"); err != nil || len(id.Groups) != 0 {
		t.Errorf("bob: %+v, %v", id, err)
	}
}

// TestLDAPCache: what is remembered ends with any change of the entry, and the facts are never old.
func TestLDAPCache(t *testing.T) {
	s := testauth.Slapd(t, ldapPeople)
	l := newLDAP(t, LDAPOptions{URLs: []string{s.URL}, BindDN: manager, BindPassword: "manager", Base: people, Filter: byUID,
		Attributes: []string{"mail"}, Groups: LDAPGroups{Attribute: "memberOf", Under: groupsDN}, Cache: CacheOptions{Life: time.Hour}})
	check := func(when, password, want string) Identity {
		t.Helper()
		id, err := l.Password(context.Background(), "bob", password)
		if got := outcome(id, err); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
		return id
	}
	check("first", "b", "bob")
	check("again", "b", "bob")
	if len(l.cache.entries) != 1 {
		t.Errorf("%d successes are remembered", len(l.cache.entries))
	}
	check("wrong", "x", "refused")
	s.Modify(t, "ldapmodify", "dn: cn=sales,ou=groups,dc=example,dc=com\nchangetype: modify\nadd: member\nmember: uid=bob,ou=people,dc=example,dc=com\n")
	if id := check("in a group", "b", "bob"); !slices.Equal(id.Groups, []string{"sales"}) {
		t.Errorf("groups %q", id.Groups)
	}
	s.Modify(t, "ldapmodify", "dn: uid=bob,ou=people,dc=example,dc=com\nchangetype: modify\nreplace: userPassword\nuserPassword: new\n")
	check("the old password", "b", "refused")
	check("the new password", "new", "bob")
	s.Modify(t, "ldapmodify", "dn: uid=bob,ou=people,dc=example,dc=com\nchangetype: delete\n")
	check("gone", "new", "refused")
}

// TestLDAPComesAndGoes: several servers, those that are down, slow or restarted.
func TestLDAPComesAndGoes(t *testing.T) {
	s, second := testauth.Slapd(t, ldapPeople), testauth.Slapd(t, ldapPeople)
	o := LDAPOptions{URLs: []string{s.URL, second.URL}, BindDN: manager, BindPassword: "manager", Base: people, Filter: byUID, Timeout: 30 * time.Second, Cache: CacheOptions{Life: -1}}
	l := newLDAP(t, o)
	var group sync.WaitGroup
	for i := range 40 {
		group.Go(func() {
			password, want := "correct horse", "alice"
			if i%2 == 1 {
				password, want = "wrong", "refused"
			}
			if got := outcome(l.Password(context.Background(), "alice", password)); got != want {
				t.Errorf("%d: %s, want %s", i, got, want)
			}
		})
	}
	group.Wait()
	if n := len(l.servers[0].binds); n == 0 || n > 8 {
		t.Errorf("%d connections are kept", n)
	}
	s.Server.Stop()
	if got := outcome(l.Password(context.Background(), "alice", "correct horse")); got != "alice" || l.first.Load() != 1 {
		t.Errorf("the first is down: %s", got)
	}
	s.Start(t)
	second.Signal(syscall.SIGSTOP)
	o.Timeout = 500 * time.Millisecond
	o.URLs = []string{second.URL, s.URL}
	if got := outcome(newLDAP(t, o).Password(context.Background(), "alice", "correct horse")); got != "alice" {
		t.Errorf("the first is slow: %s", got)
	}
	o.URLs = []string{second.URL}
	if got := outcome(newLDAP(t, o).Password(context.Background(), "alice", "correct horse")); got != "unavailable" {
		t.Errorf("the only one is slow: %s", got)
	}
	second.Signal(syscall.SIGCONT)
	s.Server.Stop()
	s.Start(t)
	l.first.Store(0)
	if got := outcome(l.Password(context.Background(), "alice", "correct horse")); got != "alice" {
		t.Errorf("after a restart: %s", got)
	}
}

// TestLDAPLies: a server that sends nonsense lets nobody log in, and its answer does not count as a wrong password.
func TestLDAPLies(t *testing.T) {
	testenv.NotShort(t, "many time-outs")
	for name, answer := range map[string]string{
		"nothing":             "",
		"text":                "220 mail.example.com ESMTP\r\n",
		"garbage":             "\x00\xff\x30\x80\n\n",
		"endless length":      "\x30\x84\xff\xff\xff\xff\x02\x01\x01",
		"huge":                "\x30\x84\x40\x00\x00\x00\x04\x84\x3f\x00\x00\x00" + strings.Repeat("x", 5<<20),
		"success, other id":   "\x30\x0c\x02\x01\x63\x61\x07\x0a\x01\x00\x04\x00\x04\x00",
		"success, cut":        "\x30\x0c\x02\x01\x01\x61\x07\x0a\x01",
		"no result":           "\x30\x03\x02\x01\x01",
		"result of no kind":   "\x30\x05\x02\x01\x01\x61\x00",
		"deep":                strings.Repeat("\x30\x80", 5000),
		"notice of unbinding": "\x30\x1d\x02\x01\x00\x78\x18\x0a\x01\x34\x04\x00\x04\x00\x8a\x0f1.3.6.1.4.1.146",
	} {
		t.Run(name, func(t *testing.T) {
			addr := lying(t, func(conn net.Conn) {
				io.ReadFull(conn, make([]byte, 8))
				io.WriteString(conn, answer)
				io.Copy(io.Discard, conn)
			})
			for _, o := range []LDAPOptions{
				{DN: byDN}, {BindDN: manager, BindPassword: "manager", Base: people, Filter: byUID}, {Base: people, Filter: byUID},
			} {
				o.URLs, o.Timeout = []string{"ldap://" + addr}, 200*time.Millisecond
				if got := outcome(newLDAP(t, o).Password(context.Background(), "alice", "x")); got != "unavailable" {
					t.Errorf("%s, want unavailable", got)
				}
			}
		})
	}
}

func TestLDAPOptions(t *testing.T) {
	for want, o := range map[string]LDAPOptions{
		"URL of a server is missing":   {DN: byDN},
		"give a DN":                    {URLs: []string{"ldaps://a"}},
		"go together":                  {URLs: []string{"ldaps://a"}, Base: people},
		"takes no bind DN":             {URLs: []string{"ldaps://a"}, DN: byDN, BindDN: manager, BindPassword: "x"},
		"bind password go together":    {URLs: []string{"ldaps://a"}, Base: people, Filter: byUID, BindDN: manager},
		"is not a DN":                  {URLs: []string{"ldaps://a"}, DN: "{login}"},
		"filter":                       {URLs: []string{"ldaps://a"}, Base: people, Filter: "(uid={login}"},
		"neither {login}":              {URLs: []string{"ldaps://a"}, DN: "uid=alice,dc=example,dc=com"},
		"unencrypted":                  {URLs: []string{"ldap://ldap.example.com"}, DN: byDN},
		"is not LDAP":                  {URLs: []string{"http://ldap.example.com"}, DN: byDN},
		"takes a host":                 {URLs: []string{"ldaps://ldap.example.com/dc=x"}, DN: byDN},
		"StartTLS is for":              {URLs: []string{"ldaps://ldap.example.com"}, DN: byDN, StartTLS: true},
		"is not the URL of a server":   {URLs: []string{"ldaps://a:b@ldap.example.com"}, DN: byDN},
		"of groups go together":        {URLs: []string{"ldaps://a"}, DN: byDN, Groups: LDAPGroups{Base: groupsDN}},
		`"nothing" is not a DN`:        {URLs: []string{"ldaps://a"}, DN: byDN, Groups: LDAPGroups{Attribute: "memberOf", Under: "nothing"}},
		"all logins would be the same": {URLs: []string{"ldaps://a"}, Base: people, Filter: "(objectClass=*)"},
	} {
		if _, err := NewLDAP(o); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), ":b@") {
			t.Errorf("want %q: %v", want, err)
		}
	}
	if _, err := NewLDAP(LDAPOptions{URLs: []string{"ldapi:///run/slapd/ldapi", "ldap://[::1]", "ldap://localhost:1389"}, DN: byDN}); err != nil {
		t.Error(err)
	}
}
