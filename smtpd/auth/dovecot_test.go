package auth

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testauth"
)

// dovecotUsers is a passwd-file: extra fields are what becomes attributes.
const dovecotUsers = `alice:{PLAIN}correct horse::::::groups=sales,staff quota=1G pass=leak
bob@example.com:{PLAIN}b
late:{PLAIN}x::::::nologin=y
local:{PLAIN}x::::::allow_nets=192.0.2.0/24
ünï:{PLAIN}ü
`

func newDovecot(t testing.TB, o DovecotOptions) *Dovecot {
	t.Helper()
	d, err := NewDovecot(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// outcome is "login", "refused" or "unavailable".
func outcome(id Identity, err error) string {
	switch {
	case err == nil:
		return id.Login
	case errors.Is(err, ErrUnavailable):
		return "unavailable"
	case errors.Is(err, ErrCredentials):
		return "refused"
	}
	return "error: " + err.Error()
}

func TestDovecot(t *testing.T) {
	_, socket := testauth.Dovecot(t, dovecotUsers)
	d := newDovecot(t, DovecotOptions{Address: socket, Groups: "groups"})
	at := func(a string) context.Context { return WithClient(context.Background(), netip.MustParseAddr(a)) }
	for _, c := range []struct{ name, login, password, want string }{
		{"right", "alice", "correct horse", "alice"},
		{"case of the login", "ALICE", "correct horse", "alice"},
		{"domain", "bob@example.com", "b", "bob@example.com"},
		{"beyond ASCII", "ünï", "ü", "ünï"},
		{"wrong", "alice", "wrong", "refused"},
		{"unknown", "mallory", "correct horse", "refused"},
		{"empty password", "alice", "", "refused"},
		{"NUL", "alice", "correct horse\x00", "refused"},
		{"tab in the login", "alice\tresp=", "correct horse", "refused"},
		{"line in the password", "alice", "x\nAUTH\t9", "refused"},
		{"nologin", "late", "x", "refused"},
		{"not from there", "local", "x", "refused"},
	} {
		if got := outcome(d.Password(at("198.51.100.1"), c.login, c.password)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if got := outcome(d.Password(at("192.0.2.9"), "local", "x")); got != "local" {
		t.Errorf("the client's address does not reach Dovecot: %s", got)
	}
	id, err := d.Password(context.Background(), "alice", "correct horse")
	if err != nil || id.Backend != "dovecot" || !slices.Equal(id.Groups, []string{"sales", "staff"}) || id.Attributes["quota"][0] != "1G" {
		t.Errorf("%+v, %v", id, err)
	}
	for name, values := range id.Attributes {
		if strings.Contains(strings.Join(values, ""), "leak") || strings.Contains(strings.Join(values, ""), "horse") {
			t.Errorf("%s is a password", name)
		}
	}
}

// TestDovecotComesAndGoes: connections of a Dovecot that was restarted are no failure, and one that is down or slow is no wrong
// password.
func TestDovecotComesAndGoes(t *testing.T) {
	s, socket := testauth.Dovecot(t, dovecotUsers)
	d := newDovecot(t, DovecotOptions{Address: socket, Timeout: 30 * time.Second})
	var group sync.WaitGroup
	for i := range 40 {
		group.Go(func() {
			password, want := "correct horse", "alice"
			if i%2 == 1 {
				password, want = "wrong", "refused"
			}
			if got := outcome(d.Password(context.Background(), "alice", password)); got != want {
				t.Errorf("%d: %s, want %s", i, got, want)
			}
		})
	}
	group.Wait()
	if n := len(d.idle); n == 0 || n > 8 {
		t.Errorf("%d connections are kept", n)
	}
	s.Stop()
	if got := outcome(d.Password(context.Background(), "alice", "correct horse")); got != "unavailable" {
		t.Errorf("down: %s", got)
	}
	s = testauth.DovecotIn(t, filepath.Dir(socket), dovecotUsers)
	if got := outcome(d.Password(context.Background(), "alice", "correct horse")); got != "alice" {
		t.Errorf("up again: %s", got)
	}
	s.Signal(syscall.SIGSTOP)
	slow := newDovecot(t, DovecotOptions{Address: socket, Timeout: 200 * time.Millisecond})
	if got := outcome(slow.Password(context.Background(), "alice", "correct horse")); got != "unavailable" {
		t.Errorf("stopped: %s", got)
	}
	s.Signal(syscall.SIGCONT)
	if got := outcome(d.Password(context.Background(), "alice", "correct horse")); got != "alice" {
		t.Errorf("awake again: %s", got)
	}
}

const dovecotGreeting = "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\tx\nDONE\n"

// TestDovecotLies: a server that sends nonsense lets nobody log in, and its answer does not count as a wrong password.
func TestDovecotLies(t *testing.T) {
	for name, c := range map[string]struct{ greeting, answer, want string }{
		"plain OK":           {dovecotGreeting, "OK\t1\tuser=alice\n", "alice"},
		"another's user":     {dovecotGreeting, "OK\t1\tuser=bob\n", "bob"}, // it is Dovecot's to say
		"no user":            {dovecotGreeting, "OK\t1\n", "unavailable"},
		"user is no login":   {dovecotGreeting, "OK\t1\tuser=a b\n", "unavailable"},
		"user with a line":   {dovecotGreeting, "OK\t1\tuser=a\x01nb\n", "unavailable"},
		"another id":         {dovecotGreeting, "OK\t2\tuser=alice\n", "unavailable"},
		"no id":              {dovecotGreeting, "OK\n", "unavailable"},
		"goes on":            {dovecotGreeting, "CONT\t1\t\n", "unavailable"},
		"temporary":          {dovecotGreeting, "FAIL\t1\tuser=alice\ttemp\n", "unavailable"},
		"temporary by code":  {dovecotGreeting, "FAIL\t1\tuser=alice\tcode=temp_fail\n", "unavailable"},
		"refused":            {dovecotGreeting, "FAIL\t1\tuser=alice\n", "refused"},
		"expired":            {dovecotGreeting, "FAIL\t1\tcode=pass_expired\n", "refused"},
		"half a line":        {dovecotGreeting, "OK\t1\tuser=alice", "unavailable"},
		"long line":          {dovecotGreeting, "OK\t1\tuser=alice\tx=" + strings.Repeat("x", 1<<20) + "\n", "unavailable"},
		"chatter":            {dovecotGreeting, strings.Repeat("NOISE\n", 1000), "unavailable"},
		"silence":            {dovecotGreeting, "", "unavailable"},
		"garbage":            {dovecotGreeting, "\x00\xff\x30\x80\n\n", "unavailable"},
		"long greeting":      {strings.Repeat("SPID\t1\n", 1000), "", "unavailable"},
		"other version":      {"VERSION\t2\t0\nMECH\tPLAIN\nDONE\n", "OK\t1\tuser=alice\n", "unavailable"},
		"no version":         {"MECH\tPLAIN\nDONE\n", "OK\t1\tuser=alice\n", "unavailable"},
		"no PLAIN":           {"VERSION\t1\t2\nMECH\tCRAM-MD5\nDONE\n", "OK\t1\tuser=alice\n", "unavailable"},
		"an SMTP server":     {"220 mail.example.com ESMTP\r\n", "", "unavailable"},
		"answer before time": {dovecotGreeting + "OK\t1\tuser=mallory\n", "OK\t1\tuser=alice\n", "unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := lying(t, func(conn net.Conn) {
				io.WriteString(conn, c.greeting)
				for r := bufio.NewReader(conn); ; {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if strings.HasPrefix(line, "AUTH\t") && c.answer != "" {
						io.WriteString(conn, c.answer)
						return
					}
				}
			})
			d := newDovecot(t, DovecotOptions{Address: addr, Timeout: 300 * time.Millisecond})
			if c.want != "unavailable" {
				d.o.Timeout = 30 * time.Second
			}
			for range 2 { // the second meets a connection that is dead, or in disorder
				if got := outcome(d.Password(context.Background(), "alice", "x")); got != c.want {
					t.Errorf("%s, want %s", got, c.want)
				}
			}
		})
	}
}

// lying is a server that answers each connection with f, and closes it.
func lying(t testing.TB, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	t.Cleanup(func() { l.Close(); group.Wait() })
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(30 * time.Second))
				f(c)
			})
		}
	})
	return l.Addr().String()
}
