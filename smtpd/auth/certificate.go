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
	// CA is a PEM file of the trusted authorities; "": none, so only pinned certificates are accepted.
	CA string
	// CRL is a file with revocation lists of those authorities, in PEM or one in DER; "": revocation is not checked. With it,
	// no certificate is accepted from an authority whose list is missing or out of date.
	CRL string
	// Map is a YAML file that maps names and fingerprints to logins; "": none.
	Map string
	// SAN are the kinds of alternative names that are logins themselves: "email", "dns", "uri".
	SAN []string
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Logger gets a record of each reload; nil: nothing is logged.
	Logger *slog.Logger
}

// Certificates is a Backend for TLS client certificates. It identifies a certificate by its subject alternative names or its
// fingerprint, never by the common name of its subject, which authorities need not check. Make one with OpenCertificates; it is
// safe for concurrent use.
type Certificates struct {
	options CertificatesOptions
	table   atomic.Pointer[certTable]
}

// certTable is the content of the files.
type certTable struct {
	roots   *x509.CertPool
	anchors []*x509.Certificate
	lists   []*revocations
	people  map[string]*person // by "email:...", "dns:...", "uri:...", "sha256:..."
}

// OpenCertificates reads the files. Its error names the file and what is wrong with it.
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

// Password implements Backend. It accepts no password.
func (c *Certificates) Password(context.Context, string, string) (Identity, error) {
	return Identity{}, ErrCredentials
}

// Mechanisms implements Offerer.
func (c *Certificates) Mechanisms() []string { return []string{External} }

// Paths returns the files, so that the caller can watch them.
func (c *Certificates) Paths() []string {
	return slices.DeleteFunc([]string{c.options.CA, c.options.CRL, c.options.Map}, func(p string) bool { return p == "" })
}

// Reload reads all files again. If one has a mistake, nothing changes, and the error says what it is.
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
				c.options.Logger.Error("the certificate revocation list is out of date, so certificates of this authority are not accepted",
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
		return Identity{}, fmt.Errorf("the certificates have not been read: %w", ErrUnavailable)
	}
	if len(chain) == 0 {
		return Identity{}, reason("the client sent no certificate")
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

// named adds the logins of the certificate's alternative names.
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

// choose returns the identity that the client asked for, or the only one.
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
		return Identity{}, reason("the certificate belongs to no login")
	}
	return Identity{}, reason("the certificate belongs to another login")
}

// verify checks the chain up to an authority, and that none of its certificates is revoked.
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
		return nil, fmt.Errorf("%s: holds no certificate; give a PEM file (-----BEGIN CERTIFICATE-----)", path)
	}
	return out, nil
}

// SANs returns the subject alternative names of a certificate as "dns:...", "email:..." and "uri:...".
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

// maxRevocations bounds a file of revocation lists, in bytes.
const maxRevocations = 64 << 20

// errRevoked means that a certificate of the chain is revoked.
var errRevoked = reason("the certificate is revoked")

// revocations is the revocation list of one authority (RFC 5280 §5).
type revocations struct {
	issuer  string
	by      *x509.Certificate // who signed it
	until   time.Time         // when the next list is due; zero: not stated
	serials map[string]struct{}
}

func (r *revocations) over(now time.Time) bool { return !r.until.IsZero() && now.After(r.until) }

// readRevocations reads revocation lists. One of the authorities must have signed each.
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

// A list with a critical extension that is not supported is refused, because the extension may change its meaning (RFC 5280 §5.2).
func checkRevocations(list *x509.RevocationList, anchors []*x509.Certificate) (*revocations, error) {
	for _, e := range list.Extensions {
		if e.Critical {
			return nil, fmt.Errorf("it has the critical extension %v; delta and partial lists are not supported", e.Id)
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
	return nil, fmt.Errorf("it is signed by %q, which is not one of the authorities in client_ca", list.Issuer)
}

// revoked returns nil if no certificate of any chain is on a list, and there is a chain in which a list that is up to date covers
// every certificate but the authority's own.
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
