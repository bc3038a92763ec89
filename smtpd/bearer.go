package smtpd

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/auth"
)

// bearerServer is OAUTHBEARER (RFC 7628) and XOAUTH2, which differ only in their syntax.
type bearerServer struct {
	s    *session
	name string
	end  message.Reply // the reply after the client has acknowledged the failure
}

func (m *bearerServer) next(answer []byte) ([]byte, message.Reply) {
	if answer == nil {
		return []byte{}, message.Reply{}
	}
	if !m.end.IsZero() { // RFC 7628 §3.2.3: any answer ends the exchange
		return nil, m.end
	}
	read := readBearer
	if m.name == auth.XOAuth2 {
		read = readXOAuth2
	}
	login, token, ok := read(string(answer))
	if _, isLogin := auth.Login(login); !ok || login != "" && !isLogin {
		return m.s.malformed("Malformed " + m.name + " response")
	}
	r, err := m.s.authenticate(attempt{mechanism: m.name, authzid: login, login: login, prove: func(ctx context.Context) (auth.Identity, error) {
		id, err := auth.Chain(m.s.srv.Auth).Token(ctx, token)
		if canonical, _ := auth.Login(login); err == nil && login != "" && canonical != id.Login {
			err = errors.Join(auth.ErrCredentials, errors.New("the token belongs to another login"))
		}
		return id, err
	}})
	if r.Code() != 535 {
		return nil, r
	}
	m.end = r
	return auth.Chain(m.s.srv.Auth).Hint().Failure(m.name, err), message.Reply{}
}

// readBearer reads "n,a=alice,^Ahost=...^Aport=...^Aauth=Bearer token^A^A" (RFC 7628 §3.1), where ^A is octet 1.
func readBearer(s string) (login, token string, ok bool) {
	flag, rest, ok := strings.Cut(s, ",")
	authzid, rest, ok2 := strings.Cut(rest, ",")
	if !ok || !ok2 || !utf8.ValidString(s) || flag != "n" && flag != "y" { // OAUTHBEARER has no channel binding
		return "", "", false
	}
	if authzid != "" {
		name, is := strings.CutPrefix(authzid, "a=")
		if login, ok = unescape(name); !is || !ok || login == "" {
			return "", "", false
		}
	}
	rest, ok = strings.CutPrefix(rest, "\x01")
	if !ok {
		return "", "", false
	}
	token, ok = readPairs(rest)
	return login, token, ok
}

// unescape decodes a saslname (RFC 5801 §4).
func unescape(s string) (string, bool) {
	for rest := s; ; {
		_, after, found := strings.Cut(rest, "=")
		if !found {
			break
		}
		if !strings.HasPrefix(after, "2C") && !strings.HasPrefix(after, "3D") {
			return "", false
		}
		rest = after[2:]
	}
	return strings.NewReplacer("=2C", ",", "=3D", "=").Replace(s), true
}

// readXOAuth2 reads "user=alice^Aauth=Bearer token^A^A".
func readXOAuth2(s string) (login, token string, ok bool) {
	user, rest, ok := strings.Cut(s, "\x01")
	login, is := strings.CutPrefix(user, "user=")
	if !ok || !is || login == "" || !utf8.ValidString(s) {
		return "", "", false
	}
	token, ok = readPairs(rest)
	return login, token, ok
}

// readPairs reads key=value pairs, each followed by an octet 1, and one more octet 1 after the last pair. Unknown keys are ignored
// (RFC 7628 §3.1). A key must not come twice.
func readPairs(s string) (token string, ok bool) {
	body, ok := strings.CutSuffix(s, "\x01\x01")
	if !ok {
		return "", false
	}
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(body, "\x01") {
		key, value, is := strings.Cut(pair, "=")
		if !is || key == "" || seen[key] || len(seen) > 16 {
			return "", false
		}
		seen[key] = true
		switch key {
		case "auth":
			if token, ok = cutFold(value, "Bearer "); !ok || token == "" {
				return "", false
			}
		case "port":
			if _, err := strconv.ParseUint(value, 10, 16); err != nil {
				return "", false
			}
		}
	}
	return strings.TrimLeft(token, " "), seen["auth"]
}
