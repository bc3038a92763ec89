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

// ScramOffer says when a users file offers SCRAM. Many clients take the strongest mechanism that is offered and give up when it
// fails: a user without a verifier could then not log in, although PLAIN would do.
type ScramOffer uint8

// The zero value is ScramAuto.
const (
	ScramAuto ScramOffer = iota // when every user of the file has a verifier
	ScramOn                     // when one has
	ScramOff
)

// FileOptions configure a File; zero fields mean the defaults.
type FileOptions struct {
	// Memory that checks may take at once, in octets; 256 MiB. A single hash that needs more runs alone. Those of WithTrust may
	// take as much again, so that a storm of strangers keeps nobody waiting who has been here before.
	Memory int64
	// Parallel checks at most; half of GOMAXPROCS and at least one, so that a crowd of logins leaves room for mail.
	Parallel int
	// Queue is how many strangers' checks may wait for their turn; 256. More are answered ErrUnavailable at once: their connections
	// would be all there are, and their clients gone when their turn comes.
	Queue int
	// Wait is how long a check may wait for its turn before the answer is ErrUnavailable; 10 s.
	Wait time.Duration
	// MaxHashMemory is the greatest m of argon2id that the file may ask for, in KiB; 1 GiB.
	MaxHashMemory uint32
	// CacheLife is how long a successful check is remembered, while the user's hash is the same; ten minutes. Negative: not at all.
	CacheLife time.Duration
	// CacheSize is how many are remembered; 65,536 (about 8 MB).
	CacheSize int
	// Scram says when SCRAM-SHA-256 is offered; when all users have a verifier.
	Scram ScramOffer
	// DecoyKey keys the salts that SCRAM clients are told for logins that do not exist. One that outlives the process keeps
	// them the same as the salts of users are; empty: a random one.
	DecoyKey []byte
	// Now is the clock; time.Now.
	Now func() time.Time
	// Logger hears of reloads; none.
	Logger *slog.Logger
}

// File is a Backend over a users file:
//
//	users:
//	  alice: "$argon2id$v=19$m=65536,t=3,p=1$c2FsdA...$aGFzaA..."
//	  bob: "$2b$12$..."
//	  carol: {password: "$argon2id$...", groups: [sales], attributes: {phone: "17"}}
//
// Logins are compared as Login has them. Make one with OpenFile; it is safe for concurrent use.
type File struct {
	path    string
	options FileOptions
	table   atomic.Pointer[table]
	slots   *semaphore.Weighted // weighs in octets
	trusted *semaphore.Weighted // the same again, for those who are not to wait behind strangers; see WithTrust
	waiting atomic.Int64        // in slots
	known   calm                // checks of those with trust, before which no stranger's begins
	share   int64               // of each check: the least weight, so that Parallel holds
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

// Path of the users file, for whoever watches it.
func (f *File) Path() string { return f.path }

// Users is how many there are.
func (f *File) Users() int {
	if t := f.table.Load(); t != nil {
		return len(t.users)
	}
	return 0
}

// Knows says whether login is one of the users'.
func (f *File) Knows(login string) bool {
	t := f.table.Load()
	canonical, ok := Login(login)
	if t == nil || !ok {
		return false
	}
	_, known := t.users[canonical]
	return known
}

// Reload reads the file again and swaps the whole table. What was remembered of earlier checks holds for users whose hash is
// still the same: otherwise all who come next would have to be checked anew at once. When anything is wrong with the file,
// nothing changes and the error says what.
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
		return Identity{}, fmt.Errorf("users file was never read: %w", ErrUnavailable)
	}
	login, loginOK := Login(login)
	pw, passwordOK := preparePassword(password)
	if !loginOK || !passwordOK {
		// Such a login is in no file, such a password in no hash: nothing to learn from the time.
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
	// While this one waited, another with the same password may have been through.
	if known && t.cache.has(p, f.options.Now()) {
		return u.identity(f, login), nil
	}
	if !h.matches(pw) || !known {
		return Identity{}, ErrCredentials
	}
	t.cache.add(p, f.options.Now())
	return u.identity(f, login), nil
}

// Mechanisms implements Offerer: PLAIN and LOGIN, and SCRAM as FileOptions.Scram says.
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
		return StoredKeys{}, fmt.Errorf("no SCRAM verifiers: %w", ErrUnavailable)
	}
	canonical, ok := Login(login)
	if !ok {
		canonical = login // in no file
	}
	// Made up for everybody, so that it takes the same time.
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

// identity shares groups and attributes with the table: callers only read them.
func (u *user) identity(f *File, login string) Identity {
	return Identity{Login: login, Backend: f.Name(), Groups: u.groups, Attributes: u.attributes}
}

// courtesy is how long a stranger's check lets those go first who have been here before.
const courtesy = 500 * time.Millisecond

// turn waits until a check of some weight may begin.
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

// calm says when nobody is inside. Its zero value is ready, with nobody inside.
type calm struct {
	mu     sync.Mutex
	inside int
	none   chan struct{} // closed when the last one leaves; nil while there is none
}

// enter counts somebody until he leaves.
func (c *calm) enter() (leave func()) {
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

// wait until nobody is inside, but for no longer than most, nor beyond ctx.
func (c *calm) wait(ctx context.Context, most time.Duration) {
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
