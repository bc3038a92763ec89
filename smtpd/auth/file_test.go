package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// cheap is an argon2id hash that costs next to nothing.
func cheap(password string) string {
	h := argon2id{m: 64, t: 1, p: 1, salt: []byte("saltsaltsalt")}
	h.digest = argon2.IDKey([]byte(password), h.salt, h.t, h.m, h.p, 32)
	return h.String()
}

func cheapBcrypt(t testing.TB, password string) string {
	b, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, text string, o FileOptions) *File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users.yaml")
	write(t, path, text)
	f, err := OpenFile(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestPassword(t *testing.T) {
	f := open(t, fmt.Sprintf(`
users:
  alice: %q
  Bob@Example.com: %q
  carol: {password: %q, groups: [sales, staff], attributes: {phone: 17, boss: [dora, "erik"]}}
  "jürgen": %q
  123: %q
`, cheap("correct horse"), cheapBcrypt(t, "battery"), cheap("staple"), cheap("s\u00fc\u00df"), cheap("n")), FileOptions{})
	cases := []struct {
		name, login, password string
		want                  string // canonical login; "" is refused
	}{
		{"argon2id", "alice", "correct horse", "alice"},
		{"case of the login", "ALICE", "correct horse", "alice"},
		{"case of the password", "alice", "Correct horse", ""},
		{"bcrypt", "bob@example.com", "battery", "bob@example.com"},
		{"bcrypt wrong", "bob@example.com", "batterie", ""},
		{"mapping", "carol", "staple", "carol"},
		{"another's password", "carol", "correct horse", ""},
		{"unknown", "dave", "correct horse", ""},
		{"NFD login and password", "ju\u0308rgen", "su\u0308\u00df", "jürgen"},
		{"number as login", "123", "n", "123"},
		{"empty password", "alice", "", ""},
		{"empty login", "", "correct horse", ""},
		{"NUL in the password", "alice", "correct horse\x00", ""},
		{"NUL in the login", "alice\x00", "correct horse", ""},
		{"space after the login", "alice ", "correct horse", ""},
		{"zero-width in the login", "ali\u200bce", "correct horse", ""},
		{"long login", strings.Repeat("a", MaxLogin+1), "x", ""},
		{"long password", "alice", strings.Repeat("a", MaxPassword+1), ""},
		{"the hash itself", "alice", cheap("correct horse"), ""},
	}
	for round := range 2 { // the second meets the cache
		for _, c := range cases {
			id, err := f.Password(context.Background(), c.login, c.password)
			if c.want == "" {
				if !errors.Is(err, ErrCredentials) || errors.Is(err, ErrUnavailable) || id.Login != "" {
					t.Errorf("round %d, %s: got %v, %v; want ErrCredentials", round, c.name, id, err)
				}
			} else if err != nil || id.Login != c.want || id.Backend != "file" {
				t.Errorf("round %d, %s: got %v, %v; want %s", round, c.name, id, err, c.want)
			}
		}
	}
	id, err := f.Password(context.Background(), "carol", "staple")
	if err != nil || strings.Join(id.Groups, " ") != "sales staff" || strings.Join(id.Attributes["boss"], " ") != "dora erik" || id.Attributes["phone"][0] != "17" {
		t.Errorf("carol is %+v, %v", id, err)
	}
}

// TestDecoyNeverMatches proves that no password matches the decoy hash of unknown logins.
func TestDecoyNeverMatches(t *testing.T) {
	for _, text := range []string{cheap("x"), cheapBcrypt(t, "x")} {
		f := open(t, "users: {alice: '"+text+"'}", FileOptions{})
		d := f.table.Load().decoy
		if d.kind() != f.table.Load().users["alice"].hash.kind() || d.memory() != f.table.Load().users["alice"].hash.memory() {
			t.Errorf("decoy costs %s", d.kind())
		}
		if d.matches([]byte("x")) {
			t.Error("the decoy matches the password it was made from")
		}
		if _, err := f.Password(context.Background(), "nobody", "x"); !errors.Is(err, ErrCredentials) {
			t.Error(err)
		}
	}
	f := open(t, "", FileOptions{})
	if _, err := f.Password(context.Background(), "nobody", "x"); !errors.Is(err, ErrCredentials) {
		t.Errorf("empty file: %v", err)
	}
}

// TestCommonest: an unknown login costs what most users do.
func TestCommonest(t *testing.T) {
	f := open(t, fmt.Sprintf("users: {a: '%s', b: '%s', c: '%s'}", cheap("x"), cheapBcrypt(t, "x"), cheapBcrypt(t, "y")), FileOptions{})
	if k := f.table.Load().decoy.kind(); k != "bcrypt 04" {
		t.Errorf("decoy is %s, most are bcrypt 04", k)
	}
}

func TestHashPassword(t *testing.T) {
	text, err := HashPassword(rand.Reader, "secret")
	if err != nil || !strings.HasPrefix(text, "$argon2id$v=19$m=65536,t=3,p=1$") {
		t.Fatal(text, err)
	}
	f := open(t, "users: {alice: '"+text+"'}", FileOptions{})
	if _, err := f.Password(context.Background(), "alice", "secret"); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "a\x00b", strings.Repeat("a", MaxPassword+1)} {
		if _, err := HashPassword(rand.Reader, bad); err == nil {
			t.Errorf("hashed %q", bad)
		}
	}
	if _, err := HashPassword(strings.NewReader("short"), "secret"); err == nil {
		t.Error("made a hash without a whole salt")
	}
}

func TestCacheLife(t *testing.T) {
	now := time.Unix(1e9, 0)
	f := open(t, "users: {alice: '"+cheap("x")+"'}", FileOptions{Now: func() time.Time { return now }, CacheLife: time.Minute, CacheSize: 2})
	log := func() bool {
		_, err := f.Password(context.Background(), "alice", "x")
		return err == nil
	}
	if !log() {
		t.Fatal("refused")
	}
	// From here on only the cache can say yes.
	f.table.Load().users["alice"].hash = f.table.Load().decoy
	now = now.Add(59 * time.Second)
	if !log() {
		t.Error("forgotten before its time")
	}
	now = now.Add(time.Second)
	if log() {
		t.Error("remembered beyond its time")
	}
	c := f.table.Load().cache
	for i := range 100 {
		c.add(c.proof("u", []byte{byte(i)}), now)
	}
	if len(c.entries) > 2 {
		t.Errorf("the cache holds %d of at most 2", len(c.entries))
	}
}

// TestReload: a new password counts at once, the old one never again, and a broken file changes nothing.
func TestReload(t *testing.T) {
	f := open(t, "users: {alice: '"+cheap("old")+"'}", FileOptions{})
	try := func(password string) error {
		_, err := f.Password(context.Background(), "alice", password)
		return err
	}
	if try("old") != nil {
		t.Fatal("old password refused before the reload")
	}
	write(t, f.Path(), "users: {alice: '"+cheap("new")+"'}")
	if err := f.Reload(); err != nil {
		t.Fatal(err)
	}
	if try("old") == nil || try("new") != nil {
		t.Error("the reload did not take")
	}
	write(t, f.Path(), "users: {alice: '"+cheap("newer")[:40]+"'}")
	if err := f.Reload(); err == nil || !strings.Contains(err.Error(), "users.yaml:1:16") {
		t.Errorf("a broken file was taken or its place not named: %v", err)
	}
	if try("new") != nil || try("newer") == nil || f.Users() != 1 {
		t.Error("a failed reload changed something")
	}
}

// TestReloadRemembers: whose hash is as it was need not be checked anew, or a reload would make all who come next wait; whose
// hash is another, or who is gone, is not remembered.
func TestReloadRemembers(t *testing.T) {
	same, other := cheap("same"), cheap("other")
	f := open(t, "users: {alice: '"+same+"', bob: '"+other+"', carol: '"+cheap("gone")+"'}", FileOptions{})
	for login, password := range map[string]string{"alice": "same", "bob": "other", "carol": "gone"} {
		if _, err := f.Password(context.Background(), login, password); err != nil {
			t.Fatal(err)
		}
	}
	write(t, f.Path(), "users: {alice: {password: '"+same+"', groups: [sales]}, bob: '"+cheap("changed")+"'}")
	if err := f.Reload(); err != nil {
		t.Fatal(err)
	}
	// From here on only what is remembered can say yes.
	if err := f.slots.Acquire(context.Background(), f.options.Memory); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if id, err := f.Password(ctx, "alice", "same"); err != nil || len(id.Groups) != 1 {
		t.Errorf("alice, whose hash is as it was: %+v, %v", id, err)
	}
	for login, password := range map[string]string{"bob": "other", "carol": "gone"} {
		if _, err := f.Password(ctx, login, password); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s was let in by what was remembered, or refused without a check: %v", login, err)
		}
	}
}

func TestReloadWhileLoggingIn(t *testing.T) {
	both := [2]string{"users: {alice: '" + cheap("a") + "'}", "users: {alice: '" + cheap("b") + "'}"}
	f := open(t, both[0], FileOptions{Parallel: 4})
	stop := make(chan struct{})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				// Two tables may lie between these two tries, but no try may fail for another reason.
				for _, p := range []string{"a", "b"} {
					if _, err := f.Password(context.Background(), "alice", p); err != nil && !errors.Is(err, ErrCredentials) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for i := range 40 {
		write(t, f.Path()+".new", both[i%2])
		if err := os.Rename(f.Path()+".new", f.Path()); err != nil {
			t.Fatal(err)
		}
		if err := f.Reload(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	group.Wait()
}

// TestUnavailable: a check that gets no turn is not a failed try.
func TestUnavailable(t *testing.T) {
	f := open(t, "users: {alice: '"+cheap("x")+"'}", FileOptions{})
	if err := f.slots.Acquire(context.Background(), f.options.Memory); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	for _, login := range []string{"alice", "nobody"} {
		if _, err := f.Password(ctx, login, "x"); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrCredentials) {
			t.Errorf("%s: %v", login, err)
		}
	}
	f.slots.Release(f.options.Memory)
	if _, err := f.Password(context.Background(), "alice", "x"); err != nil {
		t.Error(err)
	}
	if _, err := new(File).Password(context.Background(), "alice", "x"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("zero File: %v", err)
	}
}

// TestBroken reads each testdata/broken/*.yaml, whose first line says what the error must be.
func TestBroken(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(text), "\n")
		want, ok := strings.CutPrefix(first, "# want: ")
		if !ok {
			t.Errorf("%s does not begin with # want:", path)
			continue
		}
		_, err = OpenFile(path, FileOptions{})
		if err == nil || !strings.Contains(err.Error(), path+":"+want) {
			t.Errorf("%s:\ngot  %v\nwant %s", path, err, want)
		}
	}
}

func BenchmarkPassword(b *testing.B) {
	text, err := HashPassword(rand.Reader, "secret")
	if err != nil {
		b.Fatal(err)
	}
	users := map[string]string{"argon2id": text, "bcrypt10": ""}
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), 10)
	if err != nil {
		b.Fatal(err)
	}
	users["bcrypt10"] = string(hash)
	for _, life := range []time.Duration{-1, time.Hour} {
		for kind, h := range users {
			f := open(b, "users: {alice: '"+h+"'}", FileOptions{CacheLife: life})
			b.Run(fmt.Sprintf("hash=%s/cache=%v", kind, life > 0), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := f.Password(context.Background(), "alice", "secret"); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	var text strings.Builder
	text.WriteString("users:\n")
	for i := range 10000 {
		fmt.Fprintf(&text, "  user%d: %q\n", i, cheap("x"))
	}
	f := open(b, text.String(), FileOptions{})
	b.ReportAllocs()
	for b.Loop() {
		if err := f.Reload(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestTrustedDoNotWait: while unknown clients use all the memory, a further one gets an error after its time-out, and a known client is
// served.
func TestTrustedDoNotWait(t *testing.T) {
	f := open(t, "users: {alice: '"+cheap("x")+"'}", FileOptions{Wait: 20 * time.Millisecond, CacheLife: -1})
	if err := f.slots.Acquire(context.Background(), f.options.Memory); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Password(context.Background(), "alice", "x"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a stranger: %v", err)
	}
	f.options.Wait, f.options.Queue = 30*time.Second, 0
	if _, err := f.Password(context.Background(), "alice", "x"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a stranger, with the queue full: %v", err)
	}
	if _, err := f.Password(WithTrust(context.Background()), "alice", "x"); err != nil {
		t.Errorf("a trusted one: %v", err)
	}
	if _, err := f.Password(WithTrust(context.Background()), "alice", "y"); !errors.Is(err, ErrCredentials) {
		t.Errorf("trust took the place of a password: %v", err)
	}
}
