package auth

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"layeh.com/radius"
)

// scripted is a Dovecot that says one thing when it is connected to and another when it is asked.
type scripted struct {
	net.Conn         // nil: what is not below panics
	greeting, answer []byte
	asked            []byte
}

func (c *scripted) Read(b []byte) (int, error) {
	from := &c.greeting
	if strings.Contains(string(c.asked), "AUTH") {
		from = &c.answer
	}
	if len(*from) == 0 {
		return 0, io.EOF
	}
	n := copy(b, *from)
	*from = (*from)[n:]
	return n, nil
}
func (c *scripted) Write(b []byte) (int, error) { c.asked = append(c.asked, b...); return len(b), nil }
func (c *scripted) SetDeadline(time.Time) error { return nil }
func (c *scripted) Close() error                { return nil }

// FuzzDovecot checks, against another reader of the lines, that a login succeeds only by an OK that answers the request and names a user;
// that only a FAIL is a refusal; and that facts are text, bounded and not secret.
func FuzzDovecot(f *testing.F) {
	const hello = "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t2\nCOOKIE\tabc\nDONE\n"
	for _, answer := range []string{
		"OK\t1\tuser=Alice\tgroups=sales,staff\tquota=1G\tpass=leak\n", "OK\t2\tuser=alice\n", "OK\t1\n", "OK\n", "FAIL\t1\tuser=alice\n", "FAIL\t1\ttemp\n", "FAIL\t1\tcode=temp_fail\n", "FAIL\t1\tcode=user_disabled\treason=x\n", "FAIL\t2\n",
		"OK\t1\tuser=alice\tnologin\n", "OK\t1\tuser=a\x01tb\n", "OK\t1\tuser=a\x010\n", "OK\t1\tuser=alice\tuser=bob\n", "CONT\t1\t\n", "MECH\tX\nOK\t1\tuser=alice", "\n\n\nOK\t1\tuser=alice\n", "OK\t1\tuser=alice\tproxy\tproxy_pass=x\tauthz=b\tx\n",
		"ok\t1\tuser=alice\n", "OK\t01\tuser=alice\n", strings.Repeat("X\n", 64) + "OK\t1\tuser=alice\n", "OK\t1\tuser=" + strings.Repeat("a", 8200) + "\n", "OK\t1\tuser=alice\n" + strings.Repeat("OK\t1\tuser=bob\n", 3),
	} {
		f.Add(hello, answer)
	}
	f.Add("VERSION\t2\t0\nMECH\tPLAIN\nDONE\n", "OK\t1\tuser=alice\n")
	f.Add("MECH\tPLAIN\nDONE\n", "OK\t1\tuser=alice\n")
	f.Add("VERSION\t1\t0\nMECH\tLOGIN\nDONE\n", "OK\t1\tuser=alice\n")
	f.Add(strings.Repeat("X\n", 70), "")
	f.Fuzz(func(t *testing.T, greeting, answer string) {
		d := newDovecot(t, DovecotOptions{Address: "/nowhere", Groups: "groups"})
		conn := &scripted{greeting: []byte(greeting), answer: []byte(answer)}
		c := &dovecotConn{Conn: conn, in: bufio.NewReaderSize(conn, dovecotLine)}
		if err := c.handshake(context.Background()); err != nil {
			if lines := strings.Split(greeting, "\n"); slices.Contains(lines, "VERSION\t1\t1") && slices.Index(lines, "MECH\tPLAIN") == 1 && slices.Index(lines, "DONE") == 2 && lines[0] == "VERSION\t1\t1" {
				t.Fatalf("%q: %v", greeting, err)
			}
			return
		}
		if !strings.Contains(greeting, "VERSION\t1") || !strings.Contains(strings.ToUpper(greeting), "PLAIN") || !strings.Contains(greeting, "DONE") {
			t.Fatalf("%q was taken for a greeting", greeting)
		}
		id, err := d.ask(context.Background(), c, "login", []byte("secret"))
		if err != nil && strings.Contains(err.Error(), "secret") && !strings.Contains(greeting+answer, "secret") {
			t.Fatalf("%q: %v", answer, err)
		}
		login, verdict := dovecotSays(answer)
		switch {
		case err == nil && (verdict != "OK" || id.Login != login || login == ""):
			t.Fatalf("%q lets in %+v", answer, id)
		case errors.Is(err, ErrCredentials) && verdict != "FAIL":
			t.Fatalf("%q refuses: %v", answer, err)
		case errors.Is(err, errDovecotTemporary) && verdict != "TEMP":
			t.Fatalf("%q is temporary: %v", answer, err)
		}
		wantFacts(t, id, func(name string) bool {
			return slices.Contains(dovecotSecrets, name) || strings.HasPrefix(name, "proxy")
		})
	})
}

// dovecotSays reads an answer in another way: what the first line that is an answer means.
func dovecotSays(answer string) (login, verdict string) {
	lines := strings.Split(answer, "\n")
	for _, line := range lines[:min(len(lines)-1, dovecotLines)] {
		if len(line) >= dovecotLine {
			return "", ""
		}
		fields := strings.Split(line, "\t")
		for i, s := range fields {
			var b strings.Builder
			for j := 0; j < len(s); j++ {
				if k := strings.IndexByte("01trn", s[min(j+1, len(s)-1)]); s[j] == 1 && j+1 < len(s) && k >= 0 {
					b.WriteByte("\x00\x01\t\r\n"[k])
					j++
					continue
				}
				b.WriteByte(s[j])
			}
			fields[i] = b.String()
		}
		if fields[0] != "OK" && fields[0] != "FAIL" && fields[0] != "CONT" {
			continue
		}
		if len(fields) < 2 || fields[1] != "1" || fields[0] == "CONT" {
			return "", ""
		}
		if fields[0] == "FAIL" {
			if slices.Contains(fields[2:], "temp") || slices.Contains(fields[2:], "code=temp_fail") {
				return "", "TEMP"
			}
			return "", "FAIL"
		}
		verdict = "OK"
		for _, field := range fields[2:] {
			if value, is := strings.CutPrefix(field, "user="); is {
				login, _ = Login(value)
			} else if field == "user" {
				login = ""
			} else if field == "nologin" || strings.HasPrefix(field, "nologin=") {
				return "", "FAIL"
			}
		}
		return login, verdict
	}
	return "", ""
}

// wantFacts checks that facts from a server are bounded and can be logged.
func wantFacts(t *testing.T, id Identity, secret func(name string) bool) {
	t.Helper()
	if len(id.Groups) > maxGroups || len(id.Attributes) > maxAttributes {
		t.Fatalf("%d groups, %d attributes", len(id.Groups), len(id.Attributes))
	}
	for name, values := range id.Attributes {
		if secret(name) || len(values) > maxValues || !factText(name) || slices.ContainsFunc(values, func(v string) bool { return !factText(v) }) {
			t.Fatalf("attribute %q: %q", name, values)
		}
	}
	if slices.ContainsFunc(id.Groups, func(g string) bool { return !factText(g) || strings.TrimSpace(g) != g }) {
		t.Fatalf("groups %q", id.Groups)
	}
}

// FuzzRADIUS checks that an answer with any attributes is accepted only with the authenticators that the secret makes, that a change of
// one bit makes it invalid, and that only an Access-Accept is a success, with bounded facts.
func FuzzRADIUS(f *testing.F) {
	for _, attributes := range []string{"", "\x0b\x07sales\x12\x07Hello", "\x1a\x0f\x00\x00\x00\x09\x01\x09shell=1", "\x19\x04\x00\xff", "\x50\x12" + strings.Repeat("\x00", 16), "\x0b\x01", "\x0b\x00", "\x0b\xff", "\x1a\x03\x00", "\x1a\x06\x00\x00\x00\x09", "\x0b\x03,"} {
		f.Add(byte(radius.CodeAccessAccept), attributes, uint16(0), "")
		f.Add(byte(radius.CodeAccessReject), attributes, uint16(77), "pad")
	}
	f.Add(byte(radius.CodeAccessChallenge), "", uint16(0), "")
	f.Add(byte(radius.CodeAccountingResponse), "", uint16(0), strings.Repeat("x", 5000))
	r, err := NewRADIUS(RADIUSOptions{Servers: []string{"127.0.0.1:1"}, Secret: radiusSecret, Attributes: []string{"Filter-Id", "Class", "9.1", "18", "26"}, Groups: "Filter-Id"})
	if err != nil {
		f.Fatal(err)
	}
	request, wire, err := r.request(context.Background(), "alice", []byte("secret"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, code byte, attributes string, bit uint16, padding string) {
		raw := []byte(string([]byte{code, request.Identifier, 0, 0}) + strings.Repeat("\x00", 16) + attributes + padding)
		if len(raw) < 1<<16 {
			binary.BigEndian.PutUint16(raw[2:], uint16(len(raw)))
		}
		if _, err := r.verify(raw, wire, request); err == nil {
			t.Fatalf("%q, which nobody signed, was taken", raw)
		}
		b := signedRADIUS(code, request, attributes)
		if len(b) > radius.MaxPacketLength {
			return
		}
		p, err := r.verify(append(slices.Clone(b), padding...), wire, request)
		if fits := len(b)+len(padding) <= radius.MaxPacketLength; fits && radiusAttributes(attributes) != (err == nil) || !fits && err == nil {
			t.Fatalf("%q with %d bytes behind it: %v", b, len(padding), err)
		}
		changed := slices.Clone(b)
		changed[int(bit/8)%len(b)] ^= 1 << (bit % 8)
		if _, err := r.verify(changed, wire, request); err == nil {
			t.Fatalf("%q was taken for %q", changed, b)
		}
		if err != nil {
			return
		}
		id, err := r.judge(p, "alice")
		if (err == nil) != (code == byte(radius.CodeAccessAccept)) || err == nil && id.Login != "alice" {
			t.Fatalf("code %d: %+v, %v", code, id, err)
		}
		if refusal := code == byte(radius.CodeAccessReject) || code == byte(radius.CodeAccessChallenge); errors.Is(err, ErrCredentials) != refusal {
			t.Fatalf("code %d: %v", code, err)
		}
		wantFacts(t, id, func(string) bool { return false })
	})
}

// signedRADIUS is an answer as a server makes it (RFC 2865 §3, RFC 2869 §5.14).
func signedRADIUS(code byte, request *radius.Packet, attributes string) []byte {
	b := append([]byte{code, request.Identifier, 0, 0}, request.Authenticator[:]...)
	b = append(append(append(b, 80, 18), make([]byte, 16)...), attributes...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	mac := hmac.New(md5.New, []byte(radiusSecret))
	mac.Write(b)
	copy(b[22:38], mac.Sum(nil))
	sum := md5.Sum(append(slices.Clone(b), radiusSecret...))
	copy(b[4:20], sum[:])
	return b
}

// radiusAttributes says whether s is attributes, none of them a second Message-Authenticator.
func radiusAttributes(s string) bool {
	for len(s) > 0 {
		if len(s) < 2 || s[1] < 2 || int(s[1]) > len(s) || s[0] == 80 {
			return false
		}
		s = s[s[1]:]
	}
	return true
}

// FuzzLDAP checks that any login is only a value in a filter and in a DN, and that the groups that a server lists become bounded names,
// those below a DN only if they are directly below it.
func FuzzLDAP(f *testing.F) {
	for _, s := range []string{"alice", "*", "a)(uid=*", "a\\2a", "alice,ou=admins", "a=b+c=d", "#a", "\u00fc\"", "a@b;c<d>", "\\", "cn=sales,ou=groups,dc=example", "cn=a\\,b,ou=groups,dc=example", "cn=a+x=y,ou=groups,dc=example", "cn=a,cn=b,ou=groups,dc=example", "CN=Staff,OU=Groups,DC=Example", "{local}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, g := range groupsOf([]string{s, "cn=known,ou=groups,dc=example"}, "ou=groups,dc=example") {
			if !factText(g) || g != "known" && !strings.HasSuffix(strings.ToLower(strings.ReplaceAll(s, " ", "")), "dc=example") {
				t.Fatalf("%q is the group %q", s, g)
			}
		}
		if names := groupsOf(slices.Repeat([]string{s}, 9), ""); len(names) > 9 || slices.ContainsFunc(names, func(n string) bool { return !factText(n) }) {
			t.Fatalf("%q: %d groups", s, len(names))
		}
		login, ok := Login(s)
		if !ok {
			return
		}
		filter, err := ldap.CompileFilter(expand("(&(objectClass=person)(uid={login}))", map[string]string{"login": login, "local": "x"}, ldap.EscapeFilter))
		if err != nil || len(filter.Children) != 2 || len(filter.Children[1].Children) != 2 || filter.Children[1].Children[1].Data.String() != login {
			t.Fatalf("%q: %v, %+v", login, err, filter)
		}
		dn, err := ldap.ParseDN(expand("uid={login},ou=people,dc=example", map[string]string{"login": login, "local": "x"}, ldap.EscapeDN))
		if err != nil || len(dn.RDNs) != 3 || len(dn.RDNs[0].Attributes) != 1 || dn.RDNs[0].Attributes[0].Value != login {
			t.Fatalf("%q: %v, %+v", login, err, dn)
		}
	})
}
