package auth

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/safefile"
)

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
