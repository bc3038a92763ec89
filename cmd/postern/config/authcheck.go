package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/cmd/postern/certs"
	"github.com/postern-mail/postern/internal/yamldoc"
	"github.com/postern-mail/postern/smtpd/auth"
)

// mechanisms finds listeners at which nobody can log in.
func (v *validator) mechanisms() {
	serves := map[string]bool{}
	for _, a := range v.c.Auth {
		switch {
		case a.OAuth != nil:
			serves[auth.OAuthBearer], serves[auth.XOAuth2] = true, true
		case a.Certificate != nil:
			serves[auth.External] = true
		default:
			serves[auth.Plain], serves[auth.LoginMech] = true, true
			if a.File != "" && a.Scram != "off" {
				serves[auth.ScramSHA256], serves[auth.ScramSHA256+"-PLUS"] = true, true
			}
		}
	}
	for address, list := range v.c.Submission.Mechanisms {
		if slices.ContainsFunc(list, func(m string) bool { return serves[m] }) {
			continue
		}
		key := "submission.mechanisms"
		if address != "" {
			key = "submission"
		}
		v.add(key, fmt.Sprintf("no backend serves %s", strings.Join(list, ", ")), "name a mechanism of a backend under auth, or add the backend")
	}
}

// reading adds the error of a backend about its files: its findings, or one finding at key.
func (v *validator) reading(key string, err error) {
	var inner yamldoc.Findings
	if errors.As(err, &inner) {
		v.found = append(v.found, inner...)
	} else if err != nil {
		v.add(key, err.Error(), "")
	}
}

func (v *validator) oauth(key string, o *OAuth) {
	if o.CA != "" && v.file(key+".ca", o.CA) {
		if _, err := certs.LoadPool(o.CA); err != nil {
			v.add(key+".ca", err.Error(), "")
		}
	}
	v.secret(key+".client_secret_file", o.ClientSecretFile)
	if o.Keys != "" && !strings.Contains(o.Keys, "://") && v.file(key+".keys", o.Keys) {
		if _, err := auth.OpenOAuth(auth.OAuthOptions{Keys: o.Keys, Claims: auth.Claims{Issuer: o.Issuer, Audience: o.Audience}}); err != nil {
			v.add(key+".keys", err.Error(), "")
		}
	}
}

func (v *validator) certificate(key string, c *Certificate) {
	ca := v.c.Submission.TLS.ClientCA
	if ca == "" && c.Map == "" {
		v.add(key, "no authority is trusted, and no certificate is pinned", "write submission: {tls: {client_ca: clients.pem}}, or map: with fingerprints")
		return
	}
	if ca == "" && (c.CRL != "" || len(c.SAN) > 0) {
		v.add(key, "crl and san are only for certificates that an authority has signed", "write submission: {tls: {client_ca: clients.pem}}, or remove them")
		return
	}
	for name, path := range map[string]string{"map": c.Map, "crl": c.CRL} {
		if path != "" && !v.file(key+"."+name, path) {
			return
		}
	}
	_, err := auth.OpenCertificates(auth.CertificatesOptions{CA: ca, Map: c.Map, CRL: c.CRL, SAN: c.SAN})
	v.reading(key, err)
}
