package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestAllGroupsOrNone: a login in too many groups cannot log in with only some of them, because a rule may refuse a group that would be
// missing. The error is not that of a wrong password.
func TestAllGroupsOrNone(t *testing.T) {
	for _, n := range []int{65, maxGroups, maxGroups + 1} {
		var names, members []string
		for i := range n {
			names = append(names, fmt.Sprintf("g%d", i))
			members = append(members, fmt.Sprintf("cn=g%d,ou=groups,dc=example", i))
		}
		claims, _ := json.Marshal(map[string]any{"email": "alice@example.com", "groups": names, "exp": 2e9})
		d := &Dovecot{o: DovecotOptions{Groups: "groups"}}
		fields := []string{"user=alice@example.com"}
		for _, name := range names {
			fields = append(fields, "groups="+name)
		}
		for backend, ask := range map[string]func() (Identity, error){
			"dovecot, one field":   func() (Identity, error) { return d.proved([]string{fields[0], "groups=" + strings.Join(names, ",")}) },
			"dovecot, many fields": func() (Identity, error) { return d.proved(fields) },
			"token": func() (Identity, error) {
				set, err := parseClaims(claims)
				if err != nil {
					t.Fatal(err)
				}
				return (&Claims{Groups: "groups"}).identity(set, "oauth", time.Unix(1e9, 0), true)
			},
			"ldap": func() (Identity, error) { return Identity{}.inGroups(groupsOf(members, "ou=groups,dc=example")) },
		} {
			id, err := ask()
			if n <= maxGroups && (err != nil || len(id.Groups) != n || id.Groups[n-1] != names[n-1]) {
				t.Errorf("%s, %d groups: %d, %v", backend, n, len(id.Groups), err)
			}
			if n > maxGroups && (!errors.Is(err, ErrUnavailable) || errors.Is(err, ErrCredentials) || id.Login != "" || id.Groups != nil) {
				t.Errorf("%s, %d groups: %+v, %v", backend, n, id.Login, err)
			}
		}
	}
}
