// Package spelling gives each login the one form in which it is compared, counted and shown to policy, whichever server or backend it comes
// from. The package starts no goroutines.
package spelling

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// MaxLogin bounds a login, in bytes.
const MaxLogin = 255

// Login returns the canonical form of a login: Unicode NFC with ASCII letters in lower case, so that Alice and alice are the
// same user. Other letters keep their case, because case folding depends on the language. ok is false for a login that is
// empty, longer than MaxLogin, not UTF-8, holds control, format or white-space characters, or characters that programs take for others:
// fullwidth letters, superscripts, circled letters and the like. RFC 8265 (UsernameCaseMapped) maps some of these and forbids the others; they are
// refused here, because a directory that maps them would let one account in under several logins.
func Login(s string) (login string, ok bool) {
	if s == "" || len(s) > MaxLogin || !utf8.ValidString(s) {
		return "", false
	}
	for _, r := range s {
		if unicode.IsControl(r) || unicode.IsSpace(r) || unicode.In(r, unicode.Cf, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point) {
			return "", false
		}
	}
	s = norm.NFC.String(s)
	if len(s) > MaxLogin || norm.NFKC.String(s) != s {
		return "", false
	}
	s = strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
	return norm.NFC.String(s), true // a small letter may compose where its capital does not, such as J with a caron
}

// OneCase reports whether a canonical login has no capital letters. A directory that ignores case would let one account in under a
// login for each way to write its capitals.
func OneCase(login string) bool { return strings.ToLower(login) == login }
