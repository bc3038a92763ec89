package config

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/cmd/postern/certs"
)

// remote reports whether the bundle is on another machine.
func (p Policy) remote() bool { return strings.Contains(p.Bundle, "://") }

// Remote returns how the bundle is fetched.
func (p Policy) Remote() bundles.Remote {
	return bundles.Remote{Insecure: p.Insecure, TokenFile: p.TokenFile, Username: p.Username, CA: p.CA, ClientCert: p.ClientCert, ClientKey: p.ClientKey}
}

// Bundles returns how signatures are verified, or nil if they are not.
func (v Verify) Bundles() *bundles.Verification {
	if len(v.Keys) == 0 {
		return nil
	}
	out := &bundles.Verification{Keys: map[string]bundles.Key{}, Scope: v.Scope, Exclude: v.Exclude}
	for id, k := range v.Keys {
		out.Keys[id] = bundles.Key{File: k.File, Algorithm: k.Algorithm}
	}
	return out
}

// remote checks how a bundle is fetched.
func (v *validator) remote() {
	p := v.c.Policy
	if !p.remote() {
		for _, key := range []string{"token_file", "username", "ca", "client_cert", "client_key", "insecure"} {
			if v.c.Written("policy." + key) {
				v.add("policy."+key, "the bundle is on this machine", "remove this key, or write bundle: https://...")
			}
		}
		return
	}
	if err := p.Remote().CheckAddress(p.Bundle); err != nil {
		v.fault("policy.bundle", err)
	}
	if p.Insecure {
		v.warn("policy.insecure", "the bundle can be changed on its way, unless verify is set, too", "write an https:// address")
	}
	if p.Username != "" && p.TokenFile == "" {
		v.add("policy.username", "there is no password", "add token_file: and write the password into that file")
	}
	v.secret("policy.token_file", p.TokenFile)
	if p.CA != "" && v.file("policy.ca", p.CA) {
		if _, err := certs.LoadPool(p.CA); err != nil {
			v.add("policy.ca", err.Error(), "")
		}
	}
	switch {
	case (p.ClientCert == "") != (p.ClientKey == ""):
		v.add("policy.client_cert", "client_cert and client_key go together", "write both, or neither")
	case p.ClientCert != "" && v.file("policy.client_cert", p.ClientCert) && v.file("policy.client_key", p.ClientKey):
		v.private("policy.client_key", p.ClientKey)
	}
}

// verify checks the keys.
func (v *validator) verify() {
	p := v.c.Policy
	if len(p.Verify.Keys) > 0 && p.Bundle == "" {
		v.add("policy.verify", "the default policy is part of the program and has no signature", "remove verify, or name a bundle")
	}
	for _, id := range slices.Sorted(maps.Keys(p.Verify.Keys)) {
		k := p.Verify.Keys[id]
		if k.File == "" {
			continue
		}
		if err := (bundles.Key{File: k.File, Algorithm: k.Algorithm}).Check(); err != nil {
			v.fault("policy.verify.keys."+id, err)
		}
		if strings.HasPrefix(k.Algorithm, "HS") {
			v.private("policy.verify.keys."+id+".file", k.File)
		}
	}
}

// fault adds an error of package bundles.
func (v *validator) fault(key string, err error) {
	var load *bundles.LoadError
	if !errors.As(err, &load) {
		v.add(key, err.Error(), "")
		return
	}
	v.add(key, load.Place()+": "+load.Message, cmp.Or(load.Hint, "name a file that this user may read"))
}
