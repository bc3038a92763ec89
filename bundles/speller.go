package bundles

import (
	"strings"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/spelling"
)

// speller brings the operator's documents to the spelling that facts have, so that a policy can compare them: domains of addresses in A-labels,
// local parts in Unicode NFC, logins as spelling.Login. What is ASCII stays as it is, except logins. Documents of a bundle are not changed, because
// they are signed, and stock OPA reads them unchanged.
//
// Logins are the keys of the object "senders". A text is an address, or "@" and a domain, if it has an "@". Without one, it is a domain if it is
// within a member with "domain" in its name, such as settings.domain or blocked_domains.
type speller struct {
	on      bool
	senders bool // within the top-level member senders
	domains int  // members around the current value with "domain" in their names
}

// key returns the spelling of a member's name. level is 0 in the document's top-level object.
func (s *speller) key(key string, level int) string {
	switch {
	case !s.on:
		return key
	case s.senders && level == 1:
		if login, ok := spelling.Login(key); ok {
			return login
		}
		return key // no client has such a login
	}
	return s.text(key)
}

// enter notes that the value of a member follows; leave must be called after it.
func (s *speller) enter(key string, level int) (leave func()) {
	if !s.on {
		return func() {}
	}
	before := *s
	if level == 0 {
		s.senders = key == "senders"
	}
	if strings.Contains(key, "domain") {
		s.domains++
	}
	return func() { *s = before }
}

// text returns the spelling of a text.
func (s *speller) text(text string) string {
	if !s.on || ascii(text) {
		return text
	}
	at := strings.LastIndexByte(text, '@')
	if at < 0 && s.domains == 0 {
		return text
	}
	domain, err := message.ParseDomain(text[at+1:])
	if err != nil {
		return text // no address has such a domain
	}
	return message.LocalForm(text[:at+1]) + domain
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
