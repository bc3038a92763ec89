// Package usersfile changes a users file as its owner would: in place, keeping comments, order and layout. The new text is
// checked by the same reader that the server uses, and renamed over the old only when it is good. No goroutines; of two
// changes at the same time, the later wins.
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

// maxFile is more than anybody edits by this command.
const maxFile = 64 << 20

// plainKey needs no quotes in YAML: it begins with a letter and is no word that YAML reads as something else.
var plainKey = regexp.MustCompile(`^[a-z][a-z0-9._@+-]*$`)

// Line is the line of a user, indented to stand below "users:".
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

// SetPassword gives login the hash in the users file at path, which is made if it does not exist. login is canonical
// (auth.Login). added says whether the user is new. Errors of the file as it was are yamldoc.Findings.
func SetPassword(path, login, hash string) (added bool, err error) {
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, replace(path, "users:\n"+Line(login, hash), 1)
	}
	if err != nil {
		return false, err
	}
	if len(old) > maxFile {
		return false, fmt.Errorf("%s has more than %d octets", path, maxFile)
	}
	// What is wrong already is not ours to build upon.
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
	// Nobody yet: below "users:", which may be missing, or say {}.
	head := regexp.MustCompile(`(?m)^users:[ \t]*(?:\{[ \t]*\}|~|null)?([ \t]*(?:#.*)?)$`)
	if at := head.FindStringSubmatchIndex(text); at != nil {
		return text[:at[0]] + "users:" + text[at[2]:at[3]] + "\n" + line + strings.TrimPrefix(text[at[1]:], "\n"), true, nil
	}
	return text + "users:\n" + line, true, nil
}

// replaceScalar puts value where a one-line scalar begins.
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
		// A plain scalar ends before white space, or before what ends it in a flow mapping: argon2 parameters have commas, but
		// no space after them.
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

// replace makes text the content of path, if the server's own reader finds users users in it. What was there keeps its mode
// and owner.
func replace(path, text string, users int) error {
	return safefile.Write(path, 0o600, func(f *os.File) error {
		if _, err := f.WriteString(text); err != nil {
			return err
		}
		if after, err := auth.OpenFile(f.Name(), auth.FileOptions{}); err != nil || after.Users() != users {
			return fmt.Errorf("%s is laid out in a way that this command cannot change; print the line without --file and paste it", path)
		}
		return nil
	})
}
