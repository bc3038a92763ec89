package auth

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// Claims say what a token must claim, and which claims become facts. An introspection response has the same names (RFC 7662 §2.2).
type Claims struct {
	Issuer     string   // required value of iss; "": any, for introspection only
	Audience   []string // aud must have one of them; empty: any, for introspection only
	Scope      string   // required scope; "": none
	Login      string   // claim that is the login; "": email
	Groups     string   // claim with the groups, a string or a list; "": none
	Attributes []string // claims that become attributes
	// Leeway for clocks that differ; 0: one minute.
	Leeway time.Duration
}

const (
	defaultLogin  = "email"
	defaultLeeway = time.Minute
)

// claimSet is the payload of a token. Numbers are json.Number.
type claimSet map[string]any

func parseClaims(payload []byte) (claimSet, error) {
	var set claimSet
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.UseNumber()
	err := dec.Decode(&set)
	if _, more := dec.Token(); err != nil || set == nil || more != io.EOF { // More would take a closing bracket for the end
		return nil, reason("the payload is not a JSON object")
	}
	return set, nil
}

// identity checks the claims at the time now. If expires is true, the token must have an expiry.
func (c *Claims) identity(set claimSet, backend string, now time.Time, expires bool) (Identity, error) {
	if err := c.times(set, now, expires); err != nil {
		return Identity{}, err
	}
	if iss, _ := set["iss"].(string); c.Issuer != "" && (expires || set["iss"] != nil) && iss != c.Issuer {
		return Identity{}, reason("the token is from another issuer")
	}
	if len(c.Audience) > 0 && (expires || set["aud"] != nil) && !slices.ContainsFunc(set.texts("aud"), func(a string) bool { return slices.Contains(c.Audience, a) }) {
		return Identity{}, reason("the token is for another audience")
	}
	if c.Scope != "" && !set.hasScope(c.Scope) {
		return Identity{}, ErrScope
	}
	name := cmp.Or(c.Login, defaultLogin)
	text, _ := set[name].(string)
	login, ok := Login(text)
	if !ok {
		return Identity{}, reason("the token has no usable claim " + name)
	}
	if verified, there := set["email_verified"]; there && name == defaultLogin && verified != true && verified != "true" {
		return Identity{}, reason("the address in the token is not verified")
	}
	id := Identity{Login: login, Backend: backend}
	if c.Groups != "" {
		var err error
		if id, err = id.inGroups(limited(set.texts(c.Groups), maxGroups+1)); err != nil {
			return Identity{}, err
		}
	}
	for _, a := range c.Attributes {
		if values := limited(set.texts(a), maxValues); len(values) > 0 {
			if id.Attributes == nil {
				id.Attributes = map[string][]string{}
			}
			id.Attributes[a] = values
		}
	}
	return id, nil
}

// times checks exp, nbf and iat (RFC 7519 §4.1).
func (c *Claims) times(set claimSet, now time.Time, expires bool) error {
	leeway := cmp.Or(c.Leeway, defaultLeeway)
	exp, there, ok := set.time("exp")
	switch {
	case !ok || expires && !there:
		return reason("the token has no expiry")
	case there && !now.Before(exp.Add(leeway)):
		return reason("the token has expired")
	}
	for _, name := range []string{"nbf", "iat"} {
		at, there, ok := set.time(name)
		if !ok || there && now.Add(leeway).Before(at) {
			return reason(fmt.Sprintf("the token is not valid yet (%s)", name))
		}
	}
	return nil
}

// time returns a claim that is a NumericDate; ok is false if it is not one.
func (s claimSet) time(name string) (at time.Time, there, ok bool) {
	v, there := s[name]
	if !there {
		return time.Time{}, false, true
	}
	n, ok := v.(json.Number)
	if !ok {
		return time.Time{}, true, false
	}
	f, err := n.Float64()
	if err != nil || math.IsNaN(f) || f < 0 || f > 1<<40 {
		return time.Time{}, true, false
	}
	return time.Unix(int64(f), 0), true, true
}

// texts returns a claim that is a string, a number, a boolean, or a list of these.
func (s claimSet) texts(name string) []string {
	list, ok := s[name].([]any)
	if !ok {
		list = []any{s[name]}
	}
	var out []string
	for _, v := range list {
		switch v := v.(type) {
		case string:
			out = append(out, v)
		case json.Number:
			out = append(out, v.String())
		case bool:
			out = append(out, fmt.Sprint(v))
		}
	}
	return out
}

// hasScope looks for a scope in scope (words in a string, RFC 8693 §4.2) and in scp, which some providers use instead.
func (s claimSet) hasScope(want string) bool {
	for _, name := range []string{"scope", "scp"} {
		for _, text := range s.texts(name) {
			if slices.Contains(strings.Fields(text), want) {
				return true
			}
		}
	}
	return false
}

// limited returns texts without empty and too long ones, at most max of them.
func limited(list []string, max int) []string {
	list = slices.DeleteFunc(list, func(s string) bool { return s == "" || len(s) > maxWord })
	return list[:min(len(list), max)]
}
