package decisionlog

import (
	"strings"
	"unicode/utf8"
)

// addresses replaces each mail address in s, whatever it stands between, by what f gives for it, and what stands between by
// what rest gives. An address without a domain cannot be told from a word.
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

// localStart finds where the local part before the "@" at at begins, not before least; at where there is none.
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
	// What stands around an address in prose, or before it in a name=value, is seldom part of it.
	for start < at && strings.IndexByte("'`{|*/=!#$%&?^~.", s[start]) >= 0 {
		start++
	}
	return start
}

// localOctet is an octet of a dot-string (RFC 5321 §4.1.2, RFC 6531 §3.3).
func localOctet(c byte) bool {
	return c >= utf8.RuneSelf || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("!#$%&'*+-/=?^_`{|}~.", c) >= 0
}

// domainEnd finds where the domain that begins at start ends; start where there is none.
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

// words replaces each occurrence of word in s that is no part of a longer one. Case does not count.
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

// inside says that s[i:j] goes on to the left or to the right as the same word.
func inside(s string, i, j int) bool {
	word := func(c byte) bool { return letterDigit(c) || c >= utf8.RuneSelf }
	return i > 0 && word(s[i-1]) && word(s[i]) || j < len(s) && word(s[j]) && word(s[j-1])
}
