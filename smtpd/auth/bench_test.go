package auth

import (
	"context"
	"crypto/rand"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testauth"
)

// BenchmarkLogin is what a login costs by backend, without and with what is remembered: its time when one comes after another, and
// the CPU time of this process; the other side's is not in it.
func BenchmarkLogin(b *testing.B) {
	hash, err := HashPassword(rand.Reader, "correct horse")
	if err != nil {
		b.Fatal(err)
	}
	_, dovecot := testauth.Dovecot(b, dovecotUsers)
	slapd := testauth.Slapd(b, ldapPeople)
	_, radius := testauth.Radius(b, radiusSecret, radiusUsers)
	search := LDAPOptions{URLs: []string{slapd.URL}, BindDN: manager, BindPassword: "manager", Base: people, Filter: byUID}
	uncached := search
	uncached.Cache.Life = -1
	remember := func(backend Backend) Backend { return NewCached(backend, CacheOptions{Life: time.Hour}) }
	for _, c := range []struct {
		name    string
		backend Backend
	}{
		{"backend=file-argon2id/way=asked", open(b, "users: {alice: '"+hash+"'}", FileOptions{CacheLife: -1})},
		{"backend=file-argon2id/way=remembered", open(b, "users: {alice: '"+hash+"'}", FileOptions{CacheLife: time.Hour})},
		{"backend=dovecot/way=asked", newDovecot(b, DovecotOptions{Address: dovecot})},
		{"backend=dovecot/way=remembered", remember(newDovecot(b, DovecotOptions{Address: dovecot}))},
		{"backend=ldap-dn/way=asked", newLDAP(b, LDAPOptions{URLs: []string{slapd.URL}, DN: byDN})},
		{"backend=ldap-dn/way=remembered", remember(newLDAP(b, LDAPOptions{URLs: []string{slapd.URL}, DN: byDN}))},
		{"backend=ldap-search/way=asked", newLDAP(b, uncached)},
		{"backend=ldap-search/way=remembered", newLDAP(b, search)},
		{"backend=radius/way=asked", newRADIUS(b, RADIUSOptions{Servers: []string{radius}})},
		{"backend=radius/way=remembered", remember(newRADIUS(b, RADIUSOptions{Servers: []string{radius}}))},
	} {
		b.Run(c.name, func(b *testing.B) {
			login := func() {
				if _, err := c.backend.Password(context.Background(), "alice", "correct horse"); err != nil {
					b.Fatal(err)
				}
			}
			login()
			before := cpu(b)
			for b.Loop() {
				login()
			}
			b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "logins/s")
		})
	}
}

// cpu is the CPU time of this process.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
