package decisionlog

import (
	"strings"
	"unicode/utf8"
)

// addresses replaces each mail address in s with the result of f, and the text between addresses with the result of rest. An
// address without a domain is not recognised, because it looks like a word.
func addresses(s string, f, rest func(string) string) string {
	var out strings.Builder
	done := 0 // s up to here is in out
	for from := 0; ; {
		i := strings.IndexByte(s[from:], '@')
		if i < 0 {
			break
		}
		at := from + i
		from = at + 1
		start, end := localStart(s, done, at), domainEnd(s, at+1)
		if start == at || end == at+1 {
			continue
		}
		out.WriteString(rest(s[done:start]))
		out.WriteString(f(s[start:end]))
		done, from = end, end
	}
	if done == 0 {
		return rest(s)
	}
	out.WriteString(rest(s[done:]))
	return out.String()
}

// localStart returns the start of the local part before the "@" at position at, but not before least. It returns at where there
// is no local part.
func localStart(s string, least, at int) int {
	if at > least && s[at-1] == '"' {
		for i := at - 2; i >= least; i-- {
			if s[i] == '"' && (i == least || s[i-1] != '\\') {
				return i
			}
		}
		return at
	}
	start := at
	for start > least && localOctet(s[start-1]) {
		start--
	}
	// Punctuation around an address, or before it in name=value, is seldom part of it.
	for start < at && strings.IndexByte("'`{|*/=!#$%&?^~.", s[start]) >= 0 {
		start++
	}
	return start
}

// localOctet reports whether c may be in a dot-string (RFC 5321 §4.1.2, RFC 6531 §3.3).
func localOctet(c byte) bool {
	return c >= utf8.RuneSelf || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("!#$%&'*+-/=?^_`{|}~.", c) >= 0
}

// domainEnd returns the end of the domain that begins at start; start where there is none.
func domainEnd(s string, start int) int {
	if start < len(s) && s[start] == '[' {
		if n := strings.IndexByte(s[start:], ']'); n > 1 {
			return start + n + 1
		}
		return start
	}
	end := start
	for end < len(s) && (s[end] >= utf8.RuneSelf || letterDigit(s[end]) || s[end] == '-' || s[end] == '.') {
		end++
	}
	for end > start && (s[end-1] == '.' || s[end-1] == '-') {
		end--
	}
	return end
}

func letterDigit(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// words replaces each occurrence of word in s that is not part of a longer word. Case is ignored.
func words(s, word, by string) string {
	if len(word) == 0 || len(word) > len(s) {
		return s
	}
	var out strings.Builder
	done := 0
	for i := 0; i+len(word) <= len(s); {
		if s[i]|0x20 != word[0]|0x20 || !strings.EqualFold(s[i:i+len(word)], word) || inside(s, i, i+len(word)) {
			i++
			continue
		}
		out.WriteString(s[done:i])
		out.WriteString(by)
		i += len(word)
		done = i
	}
	if done == 0 {
		return s
	}
	out.WriteString(s[done:])
	return out.String()
}

// inside reports whether s[i:j] is part of a longer word.
func inside(s string, i, j int) bool {
	word := func(c byte) bool { return letterDigit(c) || c >= utf8.RuneSelf }
	return i > 0 && word(s[i-1]) && word(s[i]) || j < len(s) && word(s[j]) && word(s[j-1])
}
