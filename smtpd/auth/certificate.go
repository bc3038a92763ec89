package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/safefile"
)

// CertificatesOptions configure a Certificates.
type CertificatesOptions struct {
	// CA is a PEM file of the authorities whose certificates are believed; "": none, only pinned ones are.
	CA string
	// CRL is a file of revocation lists of those authorities, PEM or one in DER; "": revocation is not checked. With it, an
	// authority without a list, or with one that is out of date, vouches for nobody.
	CRL string
	// Map is a YAML file of names and fingerprints, and whose they are; "": none.
	Map string
	// SAN are kinds of alternative names that are a login as they are: "email", "dns", "uri".
	SAN []string
	// Now is the clock; time.Now.
	Now func() time.Time
	// Logger hears of reloads; none.
	Logger *slog.Logger
}

// Certificates is a Backend for TLS client certificates. A certificate is known by its subject alternative names or its
// fingerprint, never by the common name of its subject, which no authority has to check. Make one with OpenCertificates; it is
// safe for concurrent use.
type Certificates struct {
	options CertificatesOptions
	table   atomic.Pointer[certTable]
}

// certTable is one reading of the files.
type certTable struct {
	roots   *x509.CertPool
	anchors []*x509.Certificate
	lists   []*revocations
	people  map[string]*person // by "email:...", "dns:...", "uri:...", "sha256:..."
}

// OpenCertificates reads the files. Its error says what is wrong with which.
func OpenCertificates(o CertificatesOptions) (*Certificates, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Certificates{options: o}
	return c, c.Reload()
}

// Name implements Backend.
func (c *Certificates) Name() string { return "certificate" }

// Password implements Backend: no password proves anything here.
func (c *Certificates) Password(context.Context, string, string) (Identity, error) {
	return Identity{}, ErrCredentials
}

// Mechanisms implements Offerer.
func (c *Certificates) Mechanisms() []string { return []string{External} }

// Paths of the files, for whoever watches them.
func (c *Certificates) Paths() []string {
	return slices.DeleteFunc([]string{c.options.CA, c.options.CRL, c.options.Map}, func(p string) bool { return p == "" })
}

// Reload reads all files again. When anything is wrong with one, nothing changes and the error says what.
func (c *Certificates) Reload() error {
	t := &certTable{roots: x509.NewCertPool()}
	var err error
	if c.options.CA != "" {
		if t.anchors, err = readAuthorities(c.options.CA); err != nil {
			return err
		}
		for _, a := range t.anchors {
			t.roots.AddCert(a)
		}
	}
	if c.options.CRL != "" {
		if t.lists, err = readRevocations(c.options.CRL, t.anchors); err != nil {
			return err
		}
		for _, l := range t.lists {
			if l.over(c.options.Now()) {
				c.options.Logger.Error("the certificate revocation list is out of date: who holds a certificate of this authority cannot log in",
					"file", c.options.CRL, "issuer", l.issuer, "until", l.until)
			}
		}
	}
	if c.options.Map != "" {
		if t.people, err = readPeople(c.options.Map); err != nil {
			return fmt.Errorf("certificate map: %w", err)
		}
	}
	c.table.Store(t)
	c.options.Logger.Info("certificate authorities and map read", "authorities", len(t.anchors), "revocation lists", len(t.lists), "entries", len(t.people))
	return nil
}

// Certificate implements Certifier.
func (c *Certificates) Certificate(_ context.Context, login string, chain []*x509.Certificate) (Identity, error) {
	t := c.table.Load()
	if t == nil {
		return Identity{}, fmt.Errorf("certificates were never read: %w", ErrUnavailable)
	}
	if len(chain) == 0 {
		return Identity{}, reason("the client has shown no certificate")
	}
	leaf, now := chain[0], c.options.Now()
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return Identity{}, reason("the certificate is out of date")
	}
	sum := sha256.Sum256(leaf.Raw)
	pinned := t.people["sha256:"+hex.EncodeToString(sum[:])]
	trust := t.verify(chain, now)
	if errors.Is(trust, errRevoked) || pinned == nil && trust != nil {
		return Identity{}, trust
	}
	var ids []Identity
	if pinned != nil {
		ids = append(ids, pinned.identity(c.Name()))
	}
	if trust == nil {
		ids = c.named(ids, t, leaf)
	}
	return choose(ids, login)
}

// named adds who the certificate's alternative names say.
func (c *Certificates) named(ids []Identity, t *certTable, leaf *x509.Certificate) []Identity {
	for _, san := range SANs(leaf) {
		kind, name, _ := strings.Cut(san, ":")
		if p := t.people[personKey(kind, name)]; p != nil {
			ids = append(ids, p.identity(c.Name()))
			continue
		}
		if login, ok := Login(name); ok && slices.Contains(c.options.SAN, kind) && !strings.Contains(name, "*") {
			ids = append(ids, Identity{Login: login, Backend: c.Name()})
		}
	}
	return ids
}

// choose the one that is asked for, or the only one.
func choose(ids []Identity, login string) (Identity, error) {
	var found *Identity
	for i, id := range ids {
		switch {
		case login != "" && id.Login != login:
		case found != nil && found.Login != id.Login:
			return Identity{}, reason("the certificate names several logins, and the client does not say which")
		case found == nil:
			found = &ids[i]
		}
	}
	switch {
	case found != nil:
		return *found, nil
	case len(ids) == 0:
		return Identity{}, reason("the certificate is nobody's")
	}
	return Identity{}, reason("the certificate is not that login's")
}

// verify checks the chain up to an authority, and that nobody in it is revoked.
func (t *certTable) verify(chain []*x509.Certificate, now time.Time) error {
	if len(t.anchors) == 0 {
		return reason("the certificate is not pinned")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	chains, err := chain[0].Verify(x509.VerifyOptions{
		Roots: t.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return reason("the certificate does not verify: " + err.Error())
	}
	if t.lists == nil {
		return nil
	}
	return t.revoked(chains, now)
}

// readAuthorities reads the certificates of a PEM file.
func readAuthorities(path string) ([]*x509.Certificate, error) {
	data, err := safefile.ReadFile(path, 16<<20)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", path, len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no certificate in it; give a PEM file (-----BEGIN CERTIFICATE-----)", path)
	}
	return out, nil
}

// SANs are the subject alternative names of a certificate: "dns:...", "email:...", "uri:...".
func SANs(c *x509.Certificate) (names []string) {
	for _, n := range c.DNSNames {
		names = append(names, "dns:"+n)
	}
	for _, n := range c.EmailAddresses {
		names = append(names, "email:"+n)
	}
	for _, n := range c.URIs {
		names = append(names, "uri:"+n.String())
	}
	return names
}

// maxRevocations bounds a file of revocation lists, in octets.
const maxRevocations = 64 << 20

// errRevoked: one of the certificates was taken back.
var errRevoked = reason("the certificate is revoked")

// revocations is one authority's list (RFC 5280 §5).
type revocations struct {
	issuer  string
	by      *x509.Certificate // who signed it
	until   time.Time         // zero: it does not say
	serials map[string]struct{}
}

func (r *revocations) over(now time.Time) bool { return !r.until.IsZero() && now.After(r.until) }

// readRevocations reads lists, each of which one of the authorities must have signed.
func readRevocations(path string, anchors []*x509.Certificate) ([]*revocations, error) {
	data, err := safefile.ReadFile(path, maxRevocations)
	if err != nil {
		return nil, err
	}
	ders := [][]byte{}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "X509 CRL" {
			ders = append(ders, block.Bytes)
		}
	}
	if len(ders) == 0 {
		ders = append(ders, data)
	}
	var out []*revocations
	for i, der := range ders {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("%s: revocation list %d: %w; give PEM (-----BEGIN X509 CRL-----) or one in DER", path, i+1, err)
		}
		r, err := checkRevocations(list, anchors)
		if err != nil {
			return nil, fmt.Errorf("%s: revocation list %d: %w", path, i+1, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// critical extensions of a list that change what it means, and are not understood here, refuse it (RFC 5280 §5.2).
func checkRevocations(list *x509.RevocationList, anchors []*x509.Certificate) (*revocations, error) {
	for _, e := range list.Extensions {
		if e.Critical {
			return nil, fmt.Errorf("it has a critical extension, %v: delta and partial lists are not read", e.Id)
		}
	}
	for _, a := range anchors {
		if !bytes.Equal(a.RawSubject, list.RawIssuer) || list.CheckSignatureFrom(a) != nil {
			continue
		}
		r := &revocations{issuer: list.Issuer.String(), by: a, until: list.NextUpdate, serials: map[string]struct{}{}}
		for _, e := range list.RevokedCertificateEntries {
			r.serials[string(e.SerialNumber.Bytes())] = struct{}{}
		}
		return r, nil
	}
	return nil, fmt.Errorf("it is signed by %q, which is none of the authorities in client_ca", list.Issuer)
}

// revoked wants no certificate of any chain on a list, and one chain of which every certificate but the authority's own is
// covered by a list that is up to date.
func (t *certTable) revoked(chains [][]*x509.Certificate, now time.Time) error {
	covered := false
	for _, chain := range chains {
		all := true
		for i, c := range chain[:len(chain)-1] {
			fresh := false
			for _, l := range t.lists {
				if !l.by.Equal(chain[i+1]) && !(bytes.Equal(l.by.RawSubject, c.RawIssuer) && bytes.Equal(l.by.RawSubjectPublicKeyInfo, chain[i+1].RawSubjectPublicKeyInfo)) {
					continue
				}
				if _, is := l.serials[string(c.SerialNumber.Bytes())]; is {
					return errRevoked
				}
				fresh = fresh || !l.over(now)
			}
			all = all && fresh
		}
		covered = covered || all
	}
	if !covered {
		return fmt.Errorf("%w: no revocation list that is up to date covers the certificate", ErrUnavailable)
	}
	return nil
}
