package message

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/ianaindex"
	"golang.org/x/text/encoding/simplifiedchinese"
)

// wordFault is a reason why programs differ in what they read in an encoded word.
type wordFault uint8

const (
	wordMalformed      wordFault = 1 << iota // the encoding is broken, or the result holds another encoded word
	wordUnknownCharset                       // no program is sure to know the character set
	wordUndecodable                          // octets that the character set does not have
)

// encodedWord is one encoded word of RFC 2047 section 2, or what a lenient program takes for one.
type encodedWord struct {
	charset    string // lower case, without a language tag (RFC 2231 section 5)
	encoding   byte   // 'b' or 'q'
	text       string
	start, end int // in the string it was found in
}

// nextWord finds the first encoded word in s at or after from. ok is false if there is none. The text may hold blanks and question marks,
// because some programs read on to the closing "?=".
func nextWord(s string, from int) (w encodedWord, ok bool) {
	for from < len(s) {
		start := strings.Index(s[from:], "=?")
		if start < 0 {
			return w, false
		}
		start += from
		from = start + 2
		end := strings.IndexByte(s[from:], '?')
		if end < 0 {
			return w, false
		}
		end += from
		if end+2 >= len(s) || s[end+2] != '?' || strings.IndexByte("bBqQ", s[end+1]) < 0 {
			continue
		}
		text := end + 3
		closing := strings.Index(s[text:], "?=")
		if closing < 0 {
			return w, false // nothing further on is closed either
		}
		charset, _, _ := strings.Cut(s[start+2:end], "*")
		return encodedWord{lower(charset), s[end+1] | 0x20, s[text : text+closing], start, text + closing + 2}, true
	}
	return w, false
}

// decodeWords decodes the encoded words of s as lenient programs do: at any place, without the white space between two words, and with the
// octets of one character joined if they were split over two words. fault says why programs differ in what they read; 0: they do not.
func decodeWords(s string) (text string, fault wordFault) {
	w, ok := nextWord(s, 0)
	if !ok {
		return s, 0
	}
	var b strings.Builder
	at := 0
	for ok {
		if between := s[at:w.start]; at == 0 || strings.Trim(between, " \t") != "" {
			b.WriteString(between)
		}
		octets, bad := w.octets()
		fault |= bad
		at = w.end
		next, more := nextWord(s, at)
		for more && next.charset == w.charset && strings.Trim(s[at:next.start], " \t") == "" {
			o, bad := next.octets()
			octets, fault = append(octets, o...), fault|bad
			at = next.end
			next, more = nextWord(s, at)
		}
		decoded, bad := decodeCharset(w.charset, octets)
		fault |= bad
		b.WriteString(decoded)
		w, ok = next, more
	}
	b.WriteString(s[at:])
	text = b.String()
	if _, again := nextWord(text, 0); again {
		fault |= wordMalformed
	}
	return text, fault
}

// octets undoes the transfer encoding of w. It leaves out what does not belong there, as lenient programs do.
func (w encodedWord) octets() ([]byte, wordFault) {
	if w.encoding == 'b' {
		return base64Octets(w.text)
	}
	out, fault := make([]byte, 0, len(w.text)), wordFault(0)
	for i := 0; i < len(w.text); i++ {
		switch c := w.text[i]; {
		case c == '_':
			out = append(out, ' ')
		case c == '=':
			if i+2 < len(w.text) && hex(w.text[i+1]) >= 0 && hex(w.text[i+2]) >= 0 {
				out = append(out, byte(hex(w.text[i+1])<<4|hex(w.text[i+2])))
				i += 2
				break
			}
			fault = wordMalformed
			out = append(out, c)
		default:
			if c < ' ' || c >= 0x7f {
				fault = wordMalformed
			}
			out = append(out, c)
		}
	}
	return out, fault
}

// base64Octets decodes base64. Missing padding is no fault, because every program reads it alike.
func base64Octets(text string) ([]byte, wordFault) {
	digits := strings.TrimRight(text, "=")
	fault := wordFault(0)
	if len(text)-len(digits) > 2 {
		fault = wordMalformed
	}
	clean := strings.Map(func(r rune) rune {
		if r < 0x80 && (letterDigit(byte(r)) || r == '+' || r == '/') {
			return r
		}
		fault = wordMalformed
		return -1
	}, digits)
	if len(clean)%4 == 1 {
		clean, fault = clean[:len(clean)-1], wordMalformed
	}
	out, err := base64.RawStdEncoding.DecodeString(clean)
	if err != nil {
		fault = wordMalformed
	}
	return out, fault
}

// hex is the value of a hexadecimal digit, or -1.
func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// decodeCharset returns octets of a character set as UTF-8.
func decodeCharset(charset string, octets []byte) (string, wordFault) {
	switch charset {
	case "utf-8", "utf8":
		if !utf8.Valid(octets) {
			return strings.ToValidUTF8(string(octets), "\ufffd"), wordUndecodable
		}
		return string(octets), 0
	case "us-ascii", "ascii":
		for _, c := range octets {
			if c >= 0x80 {
				return strings.ToValidUTF8(string(octets), "\ufffd"), wordUndecodable
			}
		}
		return string(octets), 0
	}
	e := charsetEncoding(charset)
	if e == nil {
		return strings.ToValidUTF8(string(octets), "\ufffd"), wordUnknownCharset
	}
	out, err := e.NewDecoder().Bytes(octets)
	text := strings.ToValidUTF8(string(out), "\ufffd")
	if err != nil || strings.ContainsRune(text, utf8.RuneError) {
		return text, wordUndecodable
	}
	return text, 0
}

// charsetAliases are names that mail programs use and neither WHATWG nor IANA lists.
var charsetAliases = map[string]string{
	"latin-1": "iso-8859-1", "iso-8859-1-windows-1252": "windows-1252", "cp932": "shift_jis", "ms932": "shift_jis", "cp936": "gbk", "ms936": "gbk",
	"cp949": "euc-kr", "ms949": "euc-kr", "uhc": "euc-kr", "cp950": "big5", "ms950": "big5", "tis620": "tis-620", "iso-8859-11": "windows-874",
	"koi8r": "koi8-r", "koi8u": "koi8-u", "win-1251": "windows-1251", "win-1252": "windows-1252", "x-gbk": "gbk", "euc-cn": "gb2312",
}

// charsetEncoding returns the encoding of a character set, or nil if its name is not known. Names are those of WHATWG, IANA, and
// charsetAliases. UTF-7 is not known, because programs differ in whether they decode it.
func charsetEncoding(name string) encoding.Encoding {
	if alias := charsetAliases[name]; alias != "" {
		name = alias
	}
	if name == "hz-gb-2312" {
		return simplifiedchinese.HZGB2312
	}
	if e, err := htmlindex.Get(name); err == nil {
		if canonical, _ := htmlindex.Name(e); canonical != "replacement" && canonical != "x-user-defined" {
			return e
		}
		return nil
	}
	if e, err := ianaindex.MIME.Encoding(name); err == nil {
		return e // nil where the name is known and the encoding is not
	}
	return nil
}
