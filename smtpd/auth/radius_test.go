package auth

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"layeh.com/radius"
	"layeh.com/radius/rfc2869"

	"github.com/postern-mail/postern/internal/testauth"
	"github.com/postern-mail/postern/internal/testenv"
)

const (
	radiusSecret = "0123456789abcdef0123456789abcdef"
	radiusUsers  = `alice Cleartext-Password := "correct horse"
	Filter-Id = "sales, staff",
	Class = 0x00ff,
	Cisco-AVPair = "shell:priv-lvl=15",
	Reply-Message = "Hello"

ünï Cleartext-Password := "ü"

long Cleartext-Password := "` + longPassword + `"

local Cleartext-Password := "x", Calling-Station-Id == "192.0.2.9"

asked Auth-Type := Reject

`
	longPassword = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456" // 127
)

func newRADIUS(t testing.TB, o RADIUSOptions) *RADIUS {
	t.Helper()
	o.Secret = cmp.Or(o.Secret, radiusSecret)
	r, err := NewRADIUS(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRADIUS(t *testing.T) {
	_, addr := testauth.Radius(t, radiusSecret, radiusUsers)
	r := newRADIUS(t, RADIUSOptions{Servers: []string{addr}, Attributes: []string{"Filter-Id", "Class", "9.1", "18"}, Groups: "Filter-Id", Timeout: 30 * time.Second})
	at := func(a string) context.Context { return WithClient(context.Background(), netip.MustParseAddr(a)) }
	for _, c := range []struct{ name, login, password, want string }{
		{"right", "alice", "correct horse", "alice"},
		{"wrong", "alice", "wrong", "refused"},
		{"unknown", "mallory", "x", "refused"},
		{"empty", "alice", "", "refused"},
		{"NUL", "alice", "correct horse\x00", "refused"},
		{"a block and a bit", "alice", "correct horse battery staple", "refused"},
		{"beyond ASCII", "ünï", "ü", "ünï"},
		{"long", "long", longPassword, "long"},
		{"too long", "long", longPassword + "66", "refused"},
		{"rejected", "asked", "x", "refused"},
		{"not from there", "local", "x", "refused"},
	} {
		if got := outcome(r.Password(at("198.51.100.1"), c.login, c.password)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if got := outcome(r.Password(at("192.0.2.9"), "local", "x")); got != "local" {
		t.Errorf("the client's address does not reach the server: %s", got)
	}
	id, err := r.Password(context.Background(), "alice", "correct horse")
	if err != nil || id.Backend != "radius" || !slices.Equal(id.Groups, []string{"sales", "staff"}) || !slices.Equal(id.Attributes["Filter-Id"], []string{"sales, staff"}) ||
		!slices.Equal(id.Attributes["Class"], []string{"0x00ff"}) || !slices.Equal(id.Attributes["9.1"], []string{"shell:priv-lvl=15"}) || !slices.Equal(id.Attributes["18"], []string{"Hello"}) {
		t.Errorf("%+v, %v", id, err)
	}
	// Another secret: our request is dropped there.
	other := newRADIUS(t, RADIUSOptions{Servers: []string{addr}, Secret: strings.Repeat("x", 16), Timeout: 200 * time.Millisecond, Tries: 2})
	if got := outcome(other.Password(context.Background(), "alice", "correct horse")); got != "unavailable" {
		t.Errorf("another secret: %s", got)
	}
}

func TestRADIUSComesAndGoes(t *testing.T) {
	first, addr := testauth.Radius(t, radiusSecret, radiusUsers)
	_, spare := testauth.Radius(t, radiusSecret, radiusUsers)
	r := newRADIUS(t, RADIUSOptions{Servers: []string{addr, spare}, Timeout: 30 * time.Second})
	var group sync.WaitGroup
	for i := range 60 {
		group.Go(func() {
			password, want := "correct horse", "alice"
			if i%2 == 1 {
				password, want = "wrong", "refused"
			}
			if got := outcome(r.Password(context.Background(), "alice", password)); got != want {
				t.Errorf("%d: %s, want %s", i, got, want)
			}
		})
	}
	group.Wait()
	slow := newRADIUS(t, RADIUSOptions{Servers: []string{addr, spare}, Timeout: 200 * time.Millisecond, Tries: 10})
	first.Signal(syscall.SIGSTOP)
	if got := outcome(slow.Password(context.Background(), "alice", "correct horse")); got != "alice" || slow.first.Load() != 1 {
		t.Errorf("the first is slow: %s", got)
	}
	first.Signal(syscall.SIGCONT)
	first.Stop()
	down := newRADIUS(t, RADIUSOptions{Servers: []string{addr}, Timeout: 100 * time.Millisecond, Tries: 2})
	if got := outcome(down.Password(context.Background(), "alice", "correct horse")); got != "unavailable" {
		t.Errorf("down: %s", got)
	}
}

// answering is a server that answers each packet with what f makes of it.
func answering(t *testing.T, f func(request []byte) [][]byte) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	t.Cleanup(func() { c.Close(); group.Wait() })
	group.Go(func() {
		b := make([]byte, 8192)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			for _, answer := range f(b[:n]) {
				c.WriteTo(answer, from)
			}
		}
	})
	return c.LocalAddr().String()
}

// reply is a right answer to request.
func reply(t *testing.T, request []byte, code radius.Code, signed bool, secret string) []byte {
	t.Helper()
	p, err := radius.Parse(request, []byte(secret))
	if err != nil {
		t.Error(err)
		return nil
	}
	a := p.Response(code)
	a.Add(11, []byte("admins"))
	if signed {
		a.Add(rfc2869.MessageAuthenticator_Type, make([]byte, 16))
		wire, err := (&radius.Packet{Code: code, Identifier: a.Identifier, Authenticator: p.Authenticator, Secret: a.Secret, Attributes: a.Attributes}).MarshalBinary()
		if err != nil {
			t.Error(err)
		}
		mac := hmac.New(md5.New, a.Secret)
		mac.Write(wire)
		a.Set(rfc2869.MessageAuthenticator_Type, mac.Sum(nil))
	}
	wire, err := a.Encode()
	if err != nil {
		t.Error(err)
	}
	return wire
}

// TestRADIUSLies: what is not the server's word is dropped, and only an Access-Accept that is gets anybody in.
func TestRADIUSLies(t *testing.T) {
	testenv.NotShort(t, "many time-outs")
	one := func(b []byte) [][]byte { return [][]byte{b} }
	for name, c := range map[string]struct {
		answer func(t *testing.T, request []byte) [][]byte
		want   string
	}{
		"right": {func(t *testing.T, r []byte) [][]byte {
			return one(reply(t, r, radius.CodeAccessAccept, true, radiusSecret))
		}, "alice"},
		"reject": {func(t *testing.T, r []byte) [][]byte {
			return one(reply(t, r, radius.CodeAccessReject, true, radiusSecret))
		}, "refused"},
		"challenge": {func(t *testing.T, r []byte) [][]byte {
			return one(reply(t, r, radius.CodeAccessChallenge, true, radiusSecret))
		}, "refused"},
		"accounting": {func(t *testing.T, r []byte) [][]byte {
			return one(reply(t, r, radius.CodeAccountingResponse, true, radiusSecret))
		}, "unavailable"},
		"our own request": {func(t *testing.T, r []byte) [][]byte { return one(r) }, "unavailable"},
		"without Message-Authenticator": {func(t *testing.T, r []byte) [][]byte {
			return one(reply(t, r, radius.CodeAccessAccept, false, radiusSecret))
		}, "unavailable"},
		"reject without it": {func(t *testing.T, r []byte) [][]byte {
			return one(reply(t, r, radius.CodeAccessReject, false, radiusSecret))
		}, "unavailable"},
		"another secret": {func(t *testing.T, r []byte) [][]byte {
			return one(reply(t, r, radius.CodeAccessAccept, true, "fedcba9876543210"))
		}, "unavailable"},
		"reject turned to accept": {func(t *testing.T, r []byte) [][]byte {
			b := reply(t, r, radius.CodeAccessReject, true, radiusSecret)
			b[0] = byte(radius.CodeAccessAccept)
			return one(b)
		}, "unavailable"},
		"changed attribute": {func(t *testing.T, r []byte) [][]byte {
			b := reply(t, r, radius.CodeAccessAccept, true, radiusSecret)
			b[22]++
			return one(b)
		}, "unavailable"},
		"another id": {func(t *testing.T, r []byte) [][]byte {
			r = slices.Clone(r)
			r[1]++
			return one(reply(t, r, radius.CodeAccessAccept, true, radiusSecret))
		}, "unavailable"},
		"two Message-Authenticators": {func(t *testing.T, r []byte) [][]byte {
			b := reply(t, r, radius.CodeAccessAccept, true, radiusSecret)
			b = append(b, append([]byte{80, 18}, make([]byte, 16)...)...)
			b[3] += 18
			return one(authentic(b, r))
		}, "unavailable"},
		"cut": {func(t *testing.T, r []byte) [][]byte {
			return one(reply(t, r, radius.CodeAccessAccept, true, radiusSecret)[:30])
		}, "unavailable"},
		"zero length attribute": {func(t *testing.T, r []byte) [][]byte {
			b := reply(t, r, radius.CodeAccessAccept, true, radiusSecret)
			b[21] = 0
			return one(authentic(b, r))
		}, "unavailable"},
		"huge":  {func(*testing.T, []byte) [][]byte { return one(make([]byte, 8000)) }, "unavailable"},
		"empty": {func(*testing.T, []byte) [][]byte { return one(nil) }, "unavailable"},
		"text":  {func(*testing.T, []byte) [][]byte { return one([]byte("220 mail.example.com ESMTP ready\r\n")) }, "unavailable"},
		"lies first, then the truth": {func(t *testing.T, r []byte) [][]byte {
			return [][]byte{nil, []byte("x"), reply(t, r, radius.CodeAccessReject, false, radiusSecret), reply(t, r, radius.CodeAccessAccept, true, radiusSecret)}
		}, "alice"},
		"padding behind the end": {func(t *testing.T, r []byte) [][]byte {
			return one(append(reply(t, r, radius.CodeAccessAccept, true, radiusSecret), 1, 2, 3))
		}, "alice"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := answering(t, func(request []byte) [][]byte {
				if request[20] != byte(rfc2869.MessageAuthenticator_Type) {
					t.Errorf("the request begins with attribute %d, not Message-Authenticator", request[20])
				}
				return c.answer(t, request)
			})
			o := RADIUSOptions{Servers: []string{addr}, Timeout: 100 * time.Millisecond, Tries: 2}
			if c.want != "unavailable" {
				o.Timeout = 30 * time.Second
			}
			if got := outcome(newRADIUS(t, o).Password(context.Background(), "alice", "x")); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// TestRADIUSVerify: a packet is an answer only if its identifier, its response authenticator and its Message-Authenticator are all
// right. Each is wrong alone here.
func TestRADIUSVerify(t *testing.T) {
	r := newRADIUS(t, RADIUSOptions{Servers: []string{"127.0.0.1:1812"}})
	request, wire, err := r.request(context.Background(), "alice", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(b []byte) []byte{
		"": func(b []byte) []byte { return b },
		"its Message-Authenticator is wrong": func(b []byte) []byte {
			b[len(b)-1] ^= 1
			return authentic(b, wire)
		},
		"its authenticator is wrong; the secret or the sender is not the right one": func(b []byte) []byte {
			b[4] ^= 1
			return b
		},
		"it has no Message-Authenticator; configure the server to send it (CVE-2024-3596)": func([]byte) []byte {
			return reply(t, wire, radius.CodeAccessAccept, false, radiusSecret)
		},
		"its Message-Authenticator is malformed": func(b []byte) []byte {
			b = append(b, b[len(b)-18:]...) // twice, and the second one is right for a packet with one
			b[3] += 18
			return authentic(b, wire)
		},
		"it answers another request": func(b []byte) []byte {
			other := slices.Clone(wire)
			other[1]++
			return reply(t, other, radius.CodeAccessAccept, true, radiusSecret)
		},
	} {
		p, err := r.verify(change(reply(t, wire, radius.CodeAccessAccept, true, radiusSecret)), wire, request)
		if got := fmt.Sprint(err); want != "" && got != want || want == "" && err != nil || (p == nil) != (want != "") {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// authentic makes the response authenticator right again, as an attacker who can find collisions would.
func authentic(b, request []byte) []byte {
	copy(b[4:20], request[4:20])
	h := md5.New()
	h.Write(b)
	h.Write([]byte(radiusSecret))
	copy(b[4:20], h.Sum(nil))
	return b
}

// TestRADIUSTriesAgain: a lost packet is sent again as it was, and ctx ends it all.
func TestRADIUSTriesAgain(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	addr := answering(t, func(request []byte) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		if seen = append(seen, string(request)); len(seen) < 3 {
			return nil
		}
		return [][]byte{reply(t, request, radius.CodeAccessAccept, true, radiusSecret)}
	})
	r := newRADIUS(t, RADIUSOptions{Servers: []string{addr}, Timeout: 200 * time.Millisecond, Tries: 100})
	if got := outcome(r.Password(context.Background(), "alice", "x")); got != "alice" {
		t.Error(got)
	}
	mu.Lock()
	if len(seen) < 3 || seen[0] != seen[1] || seen[1] != seen[2] {
		t.Errorf("%d requests, which differ", len(seen))
	}
	mu.Unlock()
	silent := answering(t, func([]byte) [][]byte { return nil })
	r = newRADIUS(t, RADIUSOptions{Servers: []string{silent, silent}, Timeout: time.Hour, Tries: 100})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.Password(ctx, "alice", "x"); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}

func TestRADIUSOptions(t *testing.T) {
	for want, o := range map[string]RADIUSOptions{
		"servers are missing":   {Secret: radiusSecret},
		"shorter than 16":       {Servers: []string{"a:1812"}, Secret: "short"},
		"write host:1812":       {Servers: []string{"a"}, Secret: radiusSecret},
		`"Nonsense" is not`:     {Servers: []string{"a:1"}, Secret: radiusSecret, Attributes: []string{"Nonsense"}},
		`"2" is not`:            {Servers: []string{"a:1"}, Secret: radiusSecret, Attributes: []string{"2"}},
		`"0.1" is not`:          {Servers: []string{"a:1"}, Secret: radiusSecret, Groups: "0.1"},
		`"256" is not`:          {Servers: []string{"a:1"}, Secret: radiusSecret, Groups: "256"},
		`"9." is not`:           {Servers: []string{"a:1"}, Secret: radiusSecret, Groups: "9."},
		`"4294967296.1" is not`: {Servers: []string{"a:1"}, Secret: radiusSecret, Groups: "4294967296.1"},
	} {
		if _, err := NewRADIUS(o); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), radiusSecret) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}
