package auth

import (
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"

	"github.com/postern-mail/postern/internal/yamldoc"
)

// maxPeople bounds a certificate map, in bytes.
const maxPeople = 64 << 20

// person is one entry of a certificate map.
type person struct {
	login      string
	groups     []string
	attributes map[string][]string
}

// identity shares groups and attributes with the table, so callers must not change them.
func (p *person) identity(backend string) Identity {
	return Identity{Login: p.login, Backend: backend, Groups: p.groups, Attributes: p.attributes}
}

// readPeople reads a certificate map, by fingerprint and name:
//
//	certificates:
//	  "email:alice@example.com": alice
//	  "uri:spiffe://example.com/printer": {login: printer, groups: [machines]}
//	  "sha256:9f86d081...": scanner
//
// The error is yamldoc.Findings.
func readPeople(path string) (map[string]*person, error) {
	doc, err := yamldoc.ReadFile(path, maxPeople)
	if err != nil {
		return nil, err
	}
	return peopleOf(doc)
}

func peopleOf(doc *yamldoc.Doc) (map[string]*person, error) {
	people := map[string]*person{}
	doc.Root().Map(yamldoc.Keys{"certificates": func(n yamldoc.Node) {
		n.Each(func(name string, n yamldoc.Node) {
			kind, value, _ := strings.Cut(name, ":")
			key, problem := checkPersonKey(kind, value)
			if problem != "" {
				n.Fail(problem, `write "email:alice@example.com", "dns:host.example.com", "uri:..." or "sha256:" and 64 hex digits`)
				return
			}
			if people[key] != nil {
				n.Fail("is there already", "keep one")
				return
			}
			people[key] = readPerson(n)
		})
	}})
	return people, doc.Findings().Err()
}

func readPerson(n yamldoc.Node) *person {
	p := &person{}
	login := func(n yamldoc.Node) {
		text, ok := n.Text(MaxLogin)
		if !ok {
			return
		}
		if p.login, ok = Login(text); !ok {
			n.Fail("this login cannot be used", fmt.Sprintf("write 1 to %d bytes without spaces or control characters", MaxLogin))
		}
	}
	if !n.IsMap() {
		login(n)
		return p
	}
	n.Map(yamldoc.Keys{
		"login":      login,
		"groups":     func(n yamldoc.Node) { p.groups = readWords(n, maxGroups) },
		"attributes": func(n yamldoc.Node) { p.attributes = readAttributes(n) },
	})
	if p.login == "" && !hasKey(n, "login") {
		n.Fail("has no login", "add login: and the login of the certificate's owner")
	}
	return p
}

// checkPersonKey returns the canonical key of an entry, or what is wrong with it.
func checkPersonKey(kind, value string) (key, problem string) {
	switch kind {
	case "sha256":
		digits := strings.ToLower(strings.ReplaceAll(value, ":", "")) // openssl x509 -fingerprint writes colons
		if b, err := hex.DecodeString(digits); err != nil || len(b) != 32 {
			return "", "this is not a SHA-256 fingerprint"
		}
		return "sha256:" + digits, ""
	case "email":
		if at := strings.LastIndexByte(value, '@'); at < 1 || at == len(value)-1 {
			return "", "this is not a mail address"
		}
	case "dns":
		if value == "" || strings.ContainsAny(value, "*/@ ") {
			return "", "this is not a host name"
		}
	case "uri":
		if u, err := url.Parse(value); err != nil || u.Scheme == "" {
			return "", "this is not a URI"
		}
	default:
		return "", "does not name a certificate"
	}
	return personKey(kind, value), ""
}

// personKey returns a key that is the same for names that RFC 5280 §7 considers equal: host names in lower case, the local part of
// an address unchanged, URIs unchanged.
func personKey(kind, name string) string {
	switch kind {
	case "dns":
		name = strings.ToLower(name)
	case "email":
		at := strings.LastIndexByte(name, '@') + 1
		name = name[:at] + strings.ToLower(name[at:])
	}
	return kind + ":" + name
}
