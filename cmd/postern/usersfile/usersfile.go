// Package usersfile changes a users file and keeps its comments, order and layout. The reader of the server checks the new text before it
// replaces the old file. Of two changes at the same time, the later one wins. It starts no goroutines.
package usersfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/internal/safefile"
	"github.com/postern-mail/postern/internal/yamldoc"
	"github.com/postern-mail/postern/smtpd/auth"
)

// maxFile bounds the size of a users file, in bytes.
const maxFile = 64 << 20

// plainKey matches logins that need no quotes in YAML, except for words such as yes and null.
var plainKey = regexp.MustCompile(`^[a-z][a-z0-9._@+-]*$`)

// Line returns the line of a user, indented to follow "users:".
func Line(login, hash string) string {
	return "  " + key(login) + ": " + strconv.Quote(hash) + "\n"
}

func key(login string) string {
	words := []string{"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
	if plainKey.MatchString(login) && !slices.Contains(words, login) {
		return login
	}
	return strconv.Quote(login)
}

// SetPassword sets the hash of login in the users file at path. It makes the file if it does not exist. login is canonical (auth.Login). added
// says whether the user is new. Errors about the old file are yamldoc.Findings.
func SetPassword(path, login, hash string) (added bool, err error) {
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, replace(path, "users:\n"+Line(login, hash), 1)
	}
	if err != nil {
		return false, err
	}
	if len(old) > maxFile {
		return false, fmt.Errorf("%s is longer than %d bytes", path, maxFile)
	}
	// A file that is wrong already is not changed.
	before, err := auth.OpenFile(path, auth.FileOptions{})
	if err != nil {
		return false, err
	}
	text, added, err := edit(path, string(old), login, hash)
	if err != nil {
		return false, err
	}
	users := before.Users()
	if added {
		users++
	}
	return added, replace(path, text, users)
}

// edit returns the new text of a users file.
func edit(path, text, login, hash string) (edited string, added bool, err error) {
	doc, err := yamldoc.Parse(path, []byte(text))
	if err != nil {
		return "", false, err
	}
	var found yamldoc.Node // the scalar to replace
	known, any := false, false
	indent := 2
	doc.Root().Map(yamldoc.Keys{"users": func(users yamldoc.Node) {
		users.Each(func(name string, n yamldoc.Node) {
			any = true
			indent = n.KeyPos().Column - 1
			if canonical, _ := auth.Login(name); canonical != login {
				return
			}
			known = true
			found = n
			if n.IsMap() {
				n.Each(func(name string, n yamldoc.Node) {
					if name == "password" {
						found = n
					}
				})
			}
		})
	}})
	if known {
		edited, ok := replaceScalar(text, found.Pos(), strconv.Quote(hash))
		if !ok {
			return "", false, fmt.Errorf("%s:%d: the hash of %s is not on one line; replace it by hand with %q", path, found.Pos().Line, login, hash)
		}
		return edited, false, nil
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	line := strings.Repeat(" ", max(indent, 1)) + strings.TrimLeft(Line(login, hash), " ")
	if any {
		return text + line, true, nil
	}
	// There is no user yet, and "users:" may be missing or have the value {}.
	head := regexp.MustCompile(`(?m)^users:[ \t]*(?:\{[ \t]*\}|~|null)?([ \t]*(?:#.*)?)$`)
	if at := head.FindStringSubmatchIndex(text); at != nil {
		return text[:at[0]] + "users:" + text[at[2]:at[3]] + "\n" + line + strings.TrimPrefix(text[at[1]:], "\n"), true, nil
	}
	return text + "users:\n" + line, true, nil
}

// replaceScalar replaces the one-line scalar that begins at a place by value.
func replaceScalar(text string, at yamldoc.Pos, value string) (string, bool) {
	lines := strings.SplitAfter(text, "\n")
	if at.Line < 1 || at.Line > len(lines) {
		return "", false
	}
	line := []rune(lines[at.Line-1])
	if at.Column < 1 || at.Column > len(line) {
		return "", false
	}
	before, rest := string(line[:at.Column-1]), string(line[at.Column-1:])
	var end int
	switch rest[0] {
	case '"', '\'':
		end = strings.IndexByte(rest[1:], rest[0]) + 2 // a hash has neither quotes nor escapes
		if end < 2 {
			return "", false
		}
	case '$', 'S': // SCRAM-SHA-256$...
		// A plain scalar ends before white space, or before the end of a flow mapping. The commas in argon2 parameters have no space after them.
		end = strings.IndexAny(rest, " \t\r\n}")
		if end < 0 {
			end = len(rest)
		}
		end = len(strings.TrimRight(rest[:end], ","))
	default:
		return "", false
	}
	lines[at.Line-1] = before + value + rest[end:]
	return strings.Join(lines, ""), true
}

// replace writes text to path if the reader of the server finds that many users in it. An existing file keeps its mode and owner.
func replace(path, text string, users int) error {
	return safefile.Write(path, 0o600, func(f *os.File) error {
		if _, err := f.WriteString(text); err != nil {
			return err
		}
		if after, err := auth.OpenFile(f.Name(), auth.FileOptions{}); err != nil || after.Users() != users {
			return fmt.Errorf("%s has a layout that this command cannot change; run it without --file and paste the line", path)
		}
		return nil
	})
}
