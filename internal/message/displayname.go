package message

import (
	"mime"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// visible removes control characters and format characters, such as bidirectional ones, from a display name. The two joiners stay after a
// letter of a script that needs them.
func visible(s string) string {
	last := rune(0)
	return strings.Map(func(r rune) rune {
		joiner := r == '\u200c' || r == '\u200d'
		switch {
		case joiner && last >= 0x0600 && (unicode.IsLetter(last) || unicode.IsMark(last) || last >= 0x1f000):
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r):
			return -1
		}
		last = r
		return r
	}, s)
}

// plainName reports whether every program reads the words of a display name alike, so that they can stay as they are.
func plainName(s string, p phrase) bool {
	encoded := 0
	for _, w := range p.words {
		raw := s[w.start:w.end]
		if !w.quoted {
			if _, found := nextWord(raw, 0); found {
				if !plainWord(raw) {
					return false
				}
				encoded++
			}
			continue
		}
		if strings.IndexByte(raw, '\\') >= 0 || strings.Contains(raw, "\r\n") {
			return false
		}
		if _, encoded := nextWord(raw, 0); encoded {
			return false
		}
		if strings.IndexByte(raw, '@') >= 0 && strings.ContainsAny(raw[1:len(raw)-1], `<>()[]:;,`) {
			return false
		}
		if raw != visible(raw) {
			return false
		}
	}
	if encoded == 0 {
		return countWords(p.written()) == 0
	}
	text, _ := decodeWords(p.written())
	return encoded == countWords(p.written()) && balanced(text)
}

// countWords counts the encoded words of s. Some have blanks in them, and so stand in several atoms.
func countWords(s string) (n int) {
	for w, ok := nextWord(s, 0); ok; w, ok = nextWord(s, w.end) {
		n++
	}
	return n
}

// plainWord reports whether an atom is one encoded word in UTF-8, well-formed, with nothing in it that ends a name.
func plainWord(atom string) bool {
	w, ok := nextWord(atom, 0)
	if !ok || w.start != 0 || w.end != len(atom) || len(atom) > 75 || w.charset != "utf-8" || strings.Contains(atom, "*") {
		return false
	}
	if w.encoding == 'b' && len(w.text)%4 != 0 {
		return false
	}
	text, fault := decodeWords(atom)
	return fault == 0 && text != "" && text == visible(text) && !strings.ContainsAny(text, "\"\\<>@") && !strings.ContainsAny(w.text, " ?")
}

// nameMarks are marks that programs take for a part of the structure of a field, with what is shown instead.
var nameMarks = strings.NewReplacer(`"`, "\u201d", `\`, "/", "<", "\u2039", ">", "\u203a", "@", " at ", "=?", "= ?", "\t", " ")

// maxName bounds a display name that is written again, in characters.
const maxName = 256

// cleanName returns a decoded display name without anything that a program could take for the structure of a field, and at most maxName
// characters of it.
func cleanName(decoded string) string {
	if len(decoded) > maxName {
		if r := []rune(decoded); len(r) > maxName {
			decoded = string(r[:maxName])
		}
	}
	s := nameMarks.Replace(strings.ReplaceAll(visible(norm.NFC.String(decoded)), "\ufffd", ""))
	if !balanced(s) {
		s = strings.NewReplacer("(", "", ")", "").Replace(s)
	}
	return strings.Join(strings.Fields(s), " ")
}

// balanced reports whether each bracket of s is closed, in order.
func balanced(s string) bool {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth < 0 {
				return false
			}
		}
	}
	return depth == 0
}

// encodeName writes a name of cleanName as a phrase: atoms, a quoted string or encoded words in UTF-8.
func encodeName(name string) string {
	atoms := true
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 0x80:
			return mime.BEncoding.Encode("utf-8", name)
		case c != ' ' && !atext(c):
			atoms = false
		}
	}
	if atoms {
		return name
	}
	return `"` + name + `"`
}

// addressInName is an address that a display name or comment shows.
type addressInName struct {
	key   string // in lower case
	plain bool   // it stands there letter by letter, in ASCII
	via   bool   // the name is the address and "via ...", as ticket systems and mailing lists write it
}

// lookalikes are characters that look like a dot; those of "@" are replaced by NFKC.
var lookalikes = strings.NewReplacer("\u3002", ".", "\uff61", ".", "\u2024", ".", "\ufe52", ".", "\uff0e", ".")

// skeleton returns a name in which an address cannot be hidden: without white space, quotes, brackets and invisible characters, and with
// look-alikes of "@" and "." replaced.
func skeleton(name string) string {
	s := lookalikes.Replace(norm.NFKC.String(name))
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r), unicode.IsControl(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Mn, r), unicode.Is(unicode.Me, r):
			return -1
		case unicode.Is(unicode.Quotation_Mark, r), r < 0x80 && strings.IndexByte("`()\\", byte(r)) >= 0:
			return -1
		}
		return r
	}, s)
}

// otherAddress looks for an address in a display name or comment that is not the mailbox's own. raw is the text as it was written, and
// decoded the text that people see.
func otherAddress(raw, decoded string, own func(key string) bool) (a addressInName, found bool) {
	if !strings.ContainsAny(decoded, "@\uff20\ufe6b") {
		return a, false
	}
	address, owned := firstOther(decoded, own)
	if address == "" {
		s := skeleton(decoded)
		if owned == strings.Count(s, "@") {
			return a, false // the own address, with a word before it that the skeleton would join to it
		}
		address, _ = firstOther(s, own)
	}
	if address == "" {
		return a, false
	}
	a.key = lower(address)
	a.plain = ascii(raw) && strings.Contains(raw, address)
	a.via = a.plain && strings.HasPrefix(strings.Trim(raw, `"'`), address+" via ") && strings.Count(raw, "@") == 1
	return a, true
}

// firstOther returns the first address of text that is not the own one, and how many before it are.
func firstOther(text string, own func(key string) bool) (address string, owned int) {
	for at := range len(text) {
		if text[at] != '@' {
			continue
		}
		switch address := addressAround(text, at); {
		case address == "":
		case own(lower(address)):
			owned++
		default:
			return address, owned
		}
	}
	return "", owned
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// addressAround is the address whose @ is s[at]. It looks no further than the longest possible address,
// so that a name of many @ and letters takes linear time.
func addressAround(s string, at int) string {
	start, end := at, at+1
	for start > max(0, at-maxLocal) && (atext(s[start-1]) || s[start-1] == '.') && s[start-1] != '\'' {
		start--
	}
	for end < min(len(s), at+maxDomain) && (letterDigit(s[end]) || s[end] == '-' || s[end] == '.' || s[end] >= 0x80) {
		end++
	}
	if start == at || !strings.Contains(strings.Trim(s[at+1:end], "."), ".") {
		return ""
	}
	return strings.Trim(s[start:end], ".")
}
