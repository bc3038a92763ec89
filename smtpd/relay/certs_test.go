package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"sync"
	"time"
)

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

var testCA = sync.OnceValue(func() *authority {
	a := &authority{key: newKey(), pool: x509.NewCertPool()}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour)}
	a.cert = parsed(x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key))
	a.pool.AddCert(a.cert)
	return a
})

// server is the configuration of a server with a good certificate for host, a name or an address.
func (a *authority) server(host string) *tls.Config {
	return a.signed(host, a.cert, a.key, time.Now().Add(24*time.Hour))
}

// expired is the same with a certificate that was valid until an hour ago.
func (a *authority) expired(host string) *tls.Config {
	return a.signed(host, a.cert, a.key, time.Now().Add(-time.Hour))
}

// stranger is the same with a certificate of an unknown authority.
func (a *authority) stranger(host string) *tls.Config {
	return a.signed(host, nil, nil, time.Now().Add(24*time.Hour))
}

func (a *authority) signed(host string, by *x509.Certificate, with *ecdsa.PrivateKey, until time.Time) *tls.Config {
	key := newKey()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if ip := net.ParseIP(host); ip != nil {
		tmpl.IPAddresses = []net.IP{ip}
	} else {
		tmpl.DNSNames = []string{host}
	}
	if by == nil {
		by, with = tmpl, key
	}
	c := parsed(x509.CreateCertificate(rand.Reader, tmpl, by, &key.PublicKey, with))
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{c.Raw}, PrivateKey: key}}}
}

func newKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func parsed(der []byte, err error) *x509.Certificate {
	if err != nil {
		panic(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return c
}
