package auth

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// ScramOffer says when a users file offers SCRAM. Many clients use the strongest mechanism that is offered and give up when it
// fails. A user without a verifier could then not log in, although PLAIN would work.
type ScramOffer uint8

// The ways to offer SCRAM. The zero value is ScramAuto.
const (
	ScramAuto ScramOffer = iota // offered if every user of the file has a verifier
	ScramOn                     // offered if one user has a verifier
	ScramOff
)

// FileOptions configure a File. Zero fields mean the defaults.
type FileOptions struct {
	// Memory bounds the memory of all checks that run at a time, in bytes; 0: 256 MiB. A single hash that needs more runs
	// alone. Checks with WithTrust have the same amount for themselves, so that they do not wait behind a storm of unknown
	// clients.
	Memory int64
	// Parallel is how many checks may run at a time; 0: half of GOMAXPROCS and at least one, so that many logins leave
	// processors for mail.
	Parallel int
	// Queue is how many checks of unknown clients may wait for their turn; 0: 256. Further ones get ErrUnavailable at once,
	// because they would use up the connections, and their clients would have given up when their turn comes.
	Queue int
	// Wait is how long a check may wait for its turn, before it gets ErrUnavailable; 0: 10 s.
	Wait time.Duration
	// MaxHashMemory bounds the parameter m of argon2id in the file, in KiB; 0: 1 GiB.
	MaxHashMemory uint32
	// CacheLife is how long a successful check is remembered, unless the user's hash changes; 0: ten minutes, negative: not at
	// all.
	CacheLife time.Duration
	// CacheSize is how many successful checks are remembered; 0: 65,536 (about 8 MB).
	CacheSize int
	// Scram says when SCRAM-SHA-256 is offered.
	Scram ScramOffer
	// DecoyKey is the key from which the salts for unknown logins are made, which SCRAM clients get. With the same key after a
	// restart the salts stay the same, as those of users do; empty: a random key.
	DecoyKey []byte
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Logger gets a record of each reload; nil: nothing is logged.
	Logger *slog.Logger
}

// File is a Backend with a users file:
//
//	users:
//	  alice: "$argon2id$v=19$m=65536,t=3,p=1$c2FsdA...$aGFzaA..."
//	  bob: "$2b$12$..."
//	  carol: {password: "$argon2id$...", groups: [sales], attributes: {phone: "17"}}
//
// Logins are compared in the form that Login returns. Make one with OpenFile; it is safe for concurrent use.
type File struct {
	path    string
	options FileOptions
	table   atomic.Pointer[table]
	slots   *semaphore.Weighted // memory of unknown clients' checks, in bytes
	trusted *semaphore.Weighted // memory of checks with WithTrust
	waiting atomic.Int64        // checks that wait for slots
	known   activity            // checks with WithTrust that are under way
	share   int64               // least weight of a check, which enforces Parallel
}

// OpenFile reads and checks the users file. Its error names file, line and column of everything that is wrong.
func OpenFile(path string, o FileOptions) (*File, error) {
	if o.Memory <= 0 {
		o.Memory = 256 << 20
	}
	if o.Parallel <= 0 {
		o.Parallel = max(1, runtime.GOMAXPROCS(0)/2)
	}
	o.Queue = cmp.Or(o.Queue, 256)
	o.Wait = cmp.Or(o.Wait, 10*time.Second)
	if o.MaxHashMemory == 0 {
		o.MaxHashMemory = 1 << 20
	}
	if o.CacheLife == 0 {
		o.CacheLife = 10 * time.Minute
	}
	if o.CacheSize <= 0 {
		o.CacheSize = 1 << 16
	}
	if len(o.DecoyKey) == 0 {
		o.DecoyKey = make([]byte, 32)
		rand.Read(o.DecoyKey) // never fails (crypto/rand)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	f := &File{path: path, options: o, slots: semaphore.NewWeighted(o.Memory), trusted: semaphore.NewWeighted(o.Memory), share: o.Memory / int64(o.Parallel)}
	return f, f.Reload()
}

// Name implements Backend.
func (f *File) Name() string { return "file" }

// Path returns the path of the users file, so that the caller can watch it.
func (f *File) Path() string { return f.path }

// Users returns the number of users.
func (f *File) Users() int {
	if t := f.table.Load(); t != nil {
		return len(t.users)
	}
	return 0
}

// Knows reports whether login is in the file.
func (f *File) Knows(login string) bool {
	t := f.table.Load()
	canonical, ok := Login(login)
	if t == nil || !ok {
		return false
	}
	_, known := t.users[canonical]
	return known
}

// Reload reads the file again and replaces the whole table. If the file has a mistake, nothing changes, and the error says what it
// is. Remembered checks stay valid for users whose hash is the same, because otherwise all clients would have to be checked again
// at the same time.
func (f *File) Reload() error {
	t, err := readTable(f.path, f.options.MaxHashMemory)
	if err != nil {
		return fmt.Errorf("users file: %w", err)
	}
	if old := f.table.Load(); old != nil {
		t.cache = old.cache
	} else {
		t.cache = newCache(f.options.CacheLife, f.options.CacheSize)
	}
	f.table.Store(t)
	f.options.Logger.Info("users file read", "file", f.path, "users", len(t.users))
	return nil
}

// Password implements Backend. ctx and Wait bound the wait for memory; a check that has begun runs to its end.
func (f *File) Password(ctx context.Context, login, password string) (Identity, error) {
	t := f.table.Load()
	if t == nil {
		return Identity{}, fmt.Errorf("the users file has not been read: %w", ErrUnavailable)
	}
	login, loginOK := Login(login)
	pw, passwordOK := preparePassword(password)
	if !loginOK || !passwordOK {
		// No file has such a login, and no hash is made of such a password, so the time tells nothing.
		return Identity{}, ErrCredentials
	}
	u, known := t.users[login]
	fingerprint := ""
	if known {
		fingerprint = u.print
	}
	p := t.cache.proof(login, pw, fingerprint)
	if known && t.cache.has(p, f.options.Now()) {
		return u.identity(f, login), nil
	}
	h := t.decoy
	if known {
		h = u.hash
	}
	weight := min(max(int64(h.memory())<<10, f.share), f.options.Memory)
	release, err := f.turn(ctx, weight)
	if err != nil {
		return Identity{}, err
	}
	defer release()
	// Another check of the same password may have succeeded while this one waited.
	if known && t.cache.has(p, f.options.Now()) {
		return u.identity(f, login), nil
	}
	if !h.matches(pw) || !known {
		return Identity{}, ErrCredentials
	}
	t.cache.add(p, f.options.Now())
	return u.identity(f, login), nil
}

// Mechanisms implements Offerer. It returns PLAIN and LOGIN, and SCRAM as FileOptions.Scram says.
func (f *File) Mechanisms() []string {
	t := f.table.Load()
	if t == nil || t.scram == nil || f.options.Scram == ScramOff || f.options.Scram == ScramAuto && !t.allScram {
		return []string{Plain, LoginMech}
	}
	return []string{ScramSHA256, Plain, LoginMech}
}

// StoredKeys implements Verifier.
func (f *File) StoredKeys(_ context.Context, login string) (StoredKeys, error) {
	t := f.table.Load()
	if t == nil || t.scram == nil {
		return StoredKeys{}, fmt.Errorf("the users file has no SCRAM verifiers: %w", ErrUnavailable)
	}
	canonical, ok := Login(login)
	if !ok {
		canonical = login // no file has such a login
	}
	// The decoy is computed for every login, so that the time is the same.
	salt := append(hmacSHA256(f.options.DecoyKey, "salt\x00", canonical), hmacSHA256(f.options.DecoyKey, "more\x00", canonical)...)
	salt = salt[:min(len(t.scram.salt), len(salt))]
	key := hmacSHA256(f.options.DecoyKey, "key\x00", canonical)
	k := StoredKeys{Iterations: t.scram.iterations, Salt: salt, StoredKey: key, ServerKey: key}
	u, known := t.users[canonical]
	if !known {
		return k, nil
	}
	if h, ok := u.hash.(*scramHash); ok {
		k = StoredKeys{h.iterations, h.salt, h.storedKey, h.serverKey, u.identity(f, canonical)}
	}
	return k, nil
}

// identity shares groups and attributes with the table, so callers must not change them.
func (u *user) identity(f *File, login string) Identity {
	return Identity{Login: login, Backend: f.Name(), Groups: u.groups, Attributes: u.attributes}
}

// courtesy is how long a check of an unknown client waits while checks of known clients are under way.
const courtesy = 500 * time.Millisecond

// turn waits until a check may begin that takes weight bytes of memory. The caller must call release at its end.
func (f *File) turn(ctx context.Context, weight int64) (release func(), err error) {
	lane := f.slots
	ctx, cancel := context.WithTimeout(ctx, f.options.Wait)
	defer cancel()
	trusted := isTrusted(ctx)
	if trusted {
		lane = f.trusted
	} else {
		defer f.waiting.Add(-1)
		if f.waiting.Add(1) > int64(f.options.Queue) {
			return nil, fmt.Errorf("too many logins at once: %w", ErrUnavailable)
		}
	}
	if err := lane.Acquire(ctx, weight); err != nil {
		return nil, fmt.Errorf("too many logins at once: %w: %w", ErrUnavailable, err)
	}
	if !trusted {
		f.known.wait(ctx, courtesy)
		return func() { lane.Release(weight) }, nil
	}
	leave := f.known.enter()
	return func() { leave(); lane.Release(weight) }, nil
}

// activity counts operations that are under way, and can wait until there are none. The zero value is ready for use.
type activity struct {
	mu     sync.Mutex
	inside int
	none   chan struct{} // closed when the last operation ends; nil while there is none
}

// enter counts an operation until leave is called.
func (c *activity) enter() (leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inside++; c.inside == 1 {
		c.none = make(chan struct{})
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.inside--; c.inside == 0 {
			close(c.none)
			c.none = nil
		}
	}
}

// wait waits until no operation is under way, most has passed, or ctx ends.
func (c *activity) wait(ctx context.Context, most time.Duration) {
	c.mu.Lock()
	none := c.none
	c.mu.Unlock()
	if none == nil {
		return
	}
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-none:
	case <-timer.C:
	case <-ctx.Done():
	}
}
