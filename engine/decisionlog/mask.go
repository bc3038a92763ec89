package decisionlog

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/safefile"
)

// Addresses says how mail addresses, logins and display names are written.
type Addresses uint8

// The forms of an address.
const (
	PlainAddresses  Addresses = iota // as they are
	HashedAddresses                  // a token for the local part, one for the domain
	DomainAddresses                  // a token for the local part, the domain as it is
)

// ClientIP says how the client's address is written.
type ClientIP uint8

// The forms of a client address.
const (
	PlainClientIP   ClientIP = iota // as it is
	HashedClientIP                  // a token in the form of an IPv6 address of 2001:db8::/32 (RFC 3849)
	NetworkClientIP                 // first address of its /24 (IPv4) or /48 (IPv6)
)

// Mask says what is left out of lines or replaced in them. The zero value leaves out the text of bodies; every mask does.
type Mask struct {
	Addresses    Addresses
	ClientIP     ClientIP
	EraseSubject bool
	// EraseHeaders names header fields whose values are left out. KeepHeaders leaves out the values of all other fields. At most
	// one of the two is set.
	EraseHeaders, KeepHeaders []string
	// Key makes tokens (HMAC-SHA-256). The same key gives the same tokens. It is required where something is hashed.
	Key []byte
}

// hashes reports whether a key is needed.
func (m Mask) hashes() bool { return m.Addresses != PlainAddresses || m.ClientIP == HashedClientIP }

// Bounds of a key, in bytes: its least length, and that of its file.
const (
	minKey = 16
	maxKey = 64 << 10
)

// ErrKey is the error of a key that is too short.
var ErrKey = fmt.Errorf("the key is too short: it needs at least %d octets", minKey)

// LoadKey reads the key of a mask. With create, it makes a key where the file is missing, which only its owner may read.
func LoadKey(path string, create bool) ([]byte, error) {
	key, err := readKey(path)
	if !create || !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("decision log: key: %w", err)
	}
	raw := make([]byte, 32)
	rand.Read(raw) // never fails (crypto/rand)
	key = hex.AppendEncode(nil, raw)
	err = safefile.Create(path, append(key, '\n'), 0o600)
	if errors.Is(err, fs.ErrExist) {
		return readKey(path) // another process was faster, and its key is everybody's
	}
	if err != nil {
		return nil, fmt.Errorf("decision log: key: %w", err)
	}
	return key, nil
}

func readKey(path string) ([]byte, error) {
	text, err := safefile.ReadFile(path, maxKey) // all of it: a key may be binary
	if err != nil {
		return nil, fmt.Errorf("decision log: key: %w", err)
	}
	key := bytes.TrimSpace(text)
	if len(key) < minKey {
		return nil, fmt.Errorf("decision log: key: %s: %w", path, ErrKey)
	}
	return key, nil
}

// masker applies a Mask. One goroutine uses it at a time.
type masker struct {
	Mask
	mac    hash.Hash
	tokens map[string]string // of what was hashed lately: most lines are about the same people
	erase  map[string]bool   // header fields by lower-case name; KeepHeaders: those that stay
}

// maxTokens bounds masker.tokens.
const maxTokens = 8192

func newMasker(m Mask) (*masker, error) {
	if m.hashes() && len(m.Key) < minKey {
		return nil, fmt.Errorf("decision log: mask: %w", ErrKey)
	}
	if len(m.EraseHeaders) > 0 && len(m.KeepHeaders) > 0 {
		return nil, errors.New("decision log: mask: set keep_headers or erase_headers, not both")
	}
	k := &masker{Mask: m, mac: hmac.New(sha256.New, m.Key), tokens: map[string]string{}, erase: map[string]bool{}}
	for _, name := range append(m.EraseHeaders, m.KeepHeaders...) {
		k.erase[strings.ToLower(name)] = true
	}
	return k, nil
}

// sum returns a token of n hexadecimal digits. kind gives a login and a domain with the same letters different tokens.
func (k *masker) sum(kind byte, s string, n int) string {
	name := string(kind) + s
	if t, ok := k.tokens[name]; ok {
		return t
	}
	var out [sha256.Size]byte
	k.mac.Reset()
	k.mac.Write([]byte(name))
	t := hex.EncodeToString(k.mac.Sum(out[:0]))[:n]
	if len(k.tokens) >= maxTokens {
		clear(k.tokens)
	}
	k.tokens[name] = t
	return t
}

// address returns the token of an address as it is written in SMTP, or of a login, which often is an address. Case is ignored.
func (k *masker) address(s string) string {
	if k.Addresses == PlainAddresses || s == "" {
		return s
	}
	if strings.HasPrefix(s, `"`) { // quoted without need, it is the same address all the same
		if m, err := message.ParseMailbox(s, true); err == nil {
			s = m.Address()
		}
	}
	s = strings.ToLower(s)
	local := "u" + k.sum('a', s, 16)
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return local
	}
	return local + "@" + k.domain(s[at+1:])
}

// domain returns the domain of a masked address. It is a valid domain to which no mail can be sent (RFC 2606 §2).
func (k *masker) domain(s string) string {
	if k.Addresses != HashedAddresses || s == "" {
		return s
	}
	return "d" + k.sum('d', strings.ToLower(s), 12) + ".invalid"
}

// ip returns the client's masked address. It still is an address, so that policies can read it.
func (k *masker) ip(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	switch k.ClientIP {
	case HashedClientIP:
		raw := [16]byte{0x20, 0x01, 0x0d, 0xb8}
		b := a.As16()
		hex.Decode(raw[4:], []byte(k.sum('i', string(b[:]), 24))) // never fails: they are our digits
		return netip.AddrFrom16(raw)
	case NetworkClientIP:
		bits := 24
		if a.Is6() {
			bits = 48
		}
		if p, err := a.Prefix(bits); err == nil {
			return p.Addr()
		}
	}
	return a
}

// tracing are the fields that say where a message came from.
var tracing = map[string]bool{
	"received": true, "x-received": true, "x-originating-ip": true, "x-forwarded-for": true, "x-client-ip": true,
	"authentication-results": true, "received-spf": true, "arc-authentication-results": true,
}

// addressing are the fields of which only the addresses are kept where addresses are masked, because the rest is mostly names.
var addressing = map[string]bool{
	"from": true, "sender": true, "reply-to": true, "to": true, "cc": true, "bcc": true, "resent-from": true, "resent-sender": true,
	"resent-reply-to": true, "resent-to": true, "resent-cc": true, "resent-bcc": true, "return-path": true, "delivered-to": true,
	"x-original-to": true, "x-original-from": true, "envelope-to": true, "apparently-to": true, "errors-to": true,
	"disposition-notification-to": true, "return-receipt-to": true, "x-sender": true, "x-authenticated-sender": true,
}

// erased reports whether the values of a header field are left out.
func (k *masker) erased(name string) bool {
	name = strings.ToLower(name)
	switch {
	case k.EraseSubject && (name == "subject" || name == "thread-topic"):
		return true
	case k.ClientIP != PlainClientIP && tracing[name]:
		return true
	case len(k.KeepHeaders) > 0:
		return !k.erase[name]
	}
	return k.erase[name]
}
