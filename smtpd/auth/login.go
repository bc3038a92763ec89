package auth

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Bounds of what a client may send, in octets.
const (
	MaxLogin    = 255
	MaxPassword = 1024
)

// Login is the canonical form of a login: Unicode NFC, ASCII letters in lower case, so that Alice and alice are one user.
// Letters beyond ASCII keep their case: their folding depends on the language. Not ok: empty, longer than MaxLogin, not
// UTF-8, or with control, format or white-space characters in it.
func Login(s string) (login string, ok bool) {
	if s == "" || len(s) > MaxLogin || !utf8.ValidString(s) {
		return "", false
	}
	for _, r := range s {
		if unicode.IsControl(r) || unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) {
			return "", false
		}
	}
	s = norm.NFC.String(s)
	if len(s) > MaxLogin {
		return "", false
	}
	s = strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
	return norm.NFC.String(s), true // a small letter may compose where its capital does not: J and a caron
}

// preparePassword is the form of a password that is hashed: Unicode NFC (RFC 8265 §4.2.2), because the same "ü" comes as one
// code point or as two depending on the keyboard. A password that is not UTF-8 is hashed as it is. Not ok: empty, longer
// than MaxPassword, or with a NUL, at which some bcrypt implementations stop reading.
func preparePassword(s string) (password []byte, ok bool) {
	if s == "" || len(s) > MaxPassword || strings.IndexByte(s, 0) >= 0 {
		return nil, false
	}
	if utf8.ValidString(s) {
		s = norm.NFC.String(s)
	}
	return []byte(s), true
}
