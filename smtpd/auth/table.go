package auth

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/yamldoc"
)

// Bounds of a users file.
const (
	maxUsersFile  = 256 << 20
	maxGroups     = 1024 // of one login, also from a server
	maxAttributes = 64
	maxValues     = 64
	maxWord       = 255
)

// table is the content of a users file. It is immutable but for its cache, which the next table takes over.
type table struct {
	users    map[string]*user
	decoy    hash       // of the most common kind
	scram    *scramHash // an example of the most common kind of verifier; nil: there is none
	allScram bool       // every user has a verifier
	cache    *cache
}

// user is one user of a users file.
type user struct {
	hash       hash
	print      string // 16 bytes that identify the hash's text
	groups     []string
	attributes map[string][]string
}

// readTable reads and checks a users file. The error is yamldoc.Findings.
func readTable(path string, maxMemory uint32) (*table, error) {
	doc, err := yamldoc.ReadSecretFile(path, maxUsersFile) // findings must not quote hashes
	if err != nil {
		return nil, err
	}
	return buildTable(doc, maxMemory)
}

func buildTable(doc *yamldoc.Doc, maxMemory uint32) (*table, error) {
	t := &table{users: map[string]*user{}}
	spelt := map[string]string{}
	doc.Root().Map(yamldoc.Keys{"users": func(n yamldoc.Node) {
		n.Each(func(name string, n yamldoc.Node) {
			login, ok := Login(name)
			if !ok {
				n.Fail("this login cannot be used", fmt.Sprintf("write 1 to %d bytes without spaces or control characters", MaxLogin))
				return
			}
			if other, twice := spelt[login]; twice {
				n.Fail("is the same login as "+other, "keep one; logins that differ only in case are the same")
				return
			}
			spelt[login] = strings.TrimPrefix(n.Key(), "users.")
			t.users[login] = readUser(n, maxMemory)
		})
	}})
	if err := doc.Findings().Err(); err != nil {
		return nil, err
	}
	t.decoy = t.commonest(func(hash) bool { return true }).decoy()
	t.scram, _ = t.commonest(func(h hash) bool { _, is := h.(*scramHash); return is }).(*scramHash)
	t.allScram = true
	for _, u := range t.users {
		_, is := u.hash.(*scramHash)
		t.allScram = t.allScram && is
	}
	return t, nil
}

// readUser reads a single hash, or a mapping with password, groups and attributes. A user with findings may have a nil hash; the
// whole file is refused then.
func readUser(n yamldoc.Node, maxMemory uint32) *user {
	u := &user{}
	if !n.IsMap() {
		u.hash, u.print = readHash(n, maxMemory)
		return u
	}
	n.Map(yamldoc.Keys{
		"password":   func(n yamldoc.Node) { u.hash, u.print = readHash(n, maxMemory) },
		"groups":     func(n yamldoc.Node) { u.groups = readWords(n, maxGroups) },
		"attributes": func(n yamldoc.Node) { u.attributes = readAttributes(n) },
	})
	if u.hash == nil && !hasKey(n, "password") {
		n.Fail("has no password", "add password: with a hash that postern passwd prints")
	}
	return u
}

func readAttributes(n yamldoc.Node) map[string][]string {
	attributes := map[string][]string{}
	n.Each(func(name string, n yamldoc.Node) {
		if len(attributes) == maxAttributes || len(name) > maxWord {
			n.Fail("there are too many attributes, or a name is too long", fmt.Sprintf("write at most %d, with names of at most %d bytes", maxAttributes, maxWord))
			return
		}
		attributes[name] = readWords(n, maxValues)
	})
	return attributes
}

func hasKey(n yamldoc.Node, want string) (found bool) {
	n.Each(func(name string, _ yamldoc.Node) { found = found || name == want })
	return found
}

func readHash(n yamldoc.Node, maxMemory uint32) (h hash, fingerprint string) {
	const mend = "write a hash that postern passwd prints"
	if n.Empty() {
		n.Fail("has no password hash", mend)
		return nil, ""
	}
	s, ok := n.Text(512)
	if !ok {
		return nil, ""
	}
	h, err := parseHash(s, maxMemory)
	if err != nil {
		n.Fail(err.Error(), mend)
		return nil, ""
	}
	sum := sha256.Sum256([]byte(s))
	return h, string(sum[:16])
}

func readWords(n yamldoc.Node, max int) []string {
	var words []string
	n.List(true, func(i int, n yamldoc.Node) {
		if i == max {
			n.Fail("there are too many values", fmt.Sprintf("write at most %d", max))
		}
		if w, ok := n.Text(maxWord); ok && i < max {
			words = append(words, w)
		}
	})
	return words
}

// commonest returns a hash of the most common kind among those that count, so that an unknown login costs as much as most known
// ones. If there is none, it returns one of the kind that HashPassword makes.
func (t *table) commonest(counts func(hash) bool) hash {
	count, example := map[string]int{}, map[string]hash{}
	for _, u := range t.users {
		if !counts(u.hash) {
			continue
		}
		k := u.hash.kind()
		count[k]++
		example[k] = u.hash
	}
	best := ""
	for _, k := range slices.Sorted(maps.Keys(count)) {
		if best == "" || count[k] > count[best] {
			best = k
		}
	}
	if best == "" {
		return argon2id{m: 64 << 10, t: 3, p: 4, salt: make([]byte, 16), digest: make([]byte, 32)}
	}
	return example[best]
}
