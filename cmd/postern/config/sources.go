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

// remote says that the bundle is on another machine.
func (p Policy) remote() bool { return strings.Contains(p.Bundle, "://") }

// Remote is how the bundle is fetched.
func (p Policy) Remote() bundles.Remote {
	return bundles.Remote{Insecure: p.Insecure, TokenFile: p.TokenFile, Username: p.Username, CA: p.CA, ClientCert: p.ClientCert, ClientKey: p.ClientKey}
}

// Bundles is what a bundle's signature is held against; nil: nothing.
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

// remote looks at how a bundle is fetched.
func (v *validator) remote() {
	p := v.c.Policy
	if !p.remote() {
		for _, key := range []string{"token_file", "username", "ca", "client_cert", "client_key", "insecure"} {
			if v.c.Written("policy." + key) {
				v.add("policy."+key, "the bundle is on this machine", "take it out, or write bundle: https://...")
			}
		}
		return
	}
	if err := p.Remote().CheckAddress(p.Bundle); err != nil {
		v.fault("policy.bundle", err)
	}
	if p.Insecure {
		v.warn("policy.insecure", "whoever is on the way to the bundle can change it, unless verify is there too", "write an https:// address")
	}
	if p.Username != "" && p.TokenFile == "" {
		v.add("policy.username", "there is no password", "add token_file: with the password in it")
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

// verify looks at the keys.
func (v *validator) verify() {
	p := v.c.Policy
	if len(p.Verify.Keys) > 0 && p.Bundle == "" {
		v.add("policy.verify", "the default policy is part of the program, and nobody signs it", "take verify out, or name a bundle")
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

// fault records what the loader of bundles says.
func (v *validator) fault(key string, err error) {
	var load *bundles.LoadError
	if !errors.As(err, &load) {
		v.add(key, err.Error(), "")
		return
	}
	v.add(key, load.Place()+": "+load.Message, cmp.Or(load.Hint, "give the path of a file that this user may read"))
}
