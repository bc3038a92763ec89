package printable

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// all are hidden characters of each kind, with their escapes.
var all = map[string]string{
	"\x00": `\u0000`, "\x1b": `\u001b`, "\x7f": `\u007f`, "\u0080": `\u0080`, "\u0085": `\u0085`, "\u009b": `\u009b`, "\u009f": `\u009f`,
	"\u00ad": `\u00ad`, "\u061c": `\u061c`, "\u200b": `\u200b`, "\u200d": `\u200d`, "\u200e": `\u200e`, "\u200f": `\u200f`,
	"\u2028": `\u2028`, "\u2029": `\u2029`, "\u202a": `\u202a`, "\u202e": `\u202e`, "\u2060": `\u2060`, "\u2066": `\u2066`, "\u2069": `\u2069`,
	"\ufeff": `\ufeff`, "\u3164": `\u3164`, "\U000e0041": `\udb40\udc41`, "\xff": `\ufffd`, "\x9b": `\ufffd`,
}

// shown are characters that stay as they are.
var shown = []string{" ", "~", "\u00a0", "ü", "é", "語", "ي", "😀", "\ufffd", "\ue000"}

func TestHiddenIsEscaped(t *testing.T) {
	for in, want := range all {
		if got := string(AppendJSON(nil, "a"+in+"b")); got != `"a`+want+`b"` {
			t.Errorf("AppendJSON(%+q) = %s, want %s", in, got, want)
		}
		if got := Line("a"+in+"b", 9); got != "a"+want+"b" {
			t.Errorf("Line(%+q) = %s, want %s", in, got, want)
		}
		if got := through(false, "a"+in+"b"); got != "a"+want+"b" {
			t.Errorf("Writer: %+q gives %s, want %s", in, got, want)
		}
	}
	for _, s := range shown {
		if got := string(AppendJSON(nil, s)) + Line(s, 1) + through(false, s); got != `"`+s+`"`+s+s {
			t.Errorf("%+q gives %+q", s, got)
		}
	}
}

func TestLine(t *testing.T) {
	for in, want := range map[string]string{"a\nb\tc\rd": `a b c\u000dd`, "0123456789": "0123456789", "0123456789x": "0123456789...", "\x1b\x1b": `\u001b\u001b`} {
		if got := Line(in, 10); got != want {
			t.Errorf("%q gives %q, want %q", in, got, want)
		}
	}
}

func through(colours bool, parts ...string) string {
	var b bytes.Buffer
	w := &Writer{W: &b, Colours: colours}
	for _, p := range parts {
		if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
			panic("a short write")
		}
	}
	w.Flush()
	return b.String()
}

func TestWriter(t *testing.T) {
	for _, c := range []struct {
		colours bool
		in      []string
		want    string
	}{
		{false, []string{"a\tb\n"}, "a\tb\n"},
		{false, []string{"\xe2", "\x80", "\xae!"}, `\u202e!`},
		{false, []string{"ü\xc3", "\xbcx"}, "üüx"},
		{false, []string{"x\xe2\x80"}, `x\ufffd\ufffd`},
		{false, []string{"\xe2", "\xff"}, `\ufffd\ufffd`},
		{false, []string{"\x1b[31mred\x1b[0m"}, `\u001b[31mred\u001b[0m`},
		{true, []string{"\x1b[31mred\x1b[0m\x1b[1;92m"}, "\x1b[31mred\x1b[0m\x1b[1;92m"},
		{true, []string{"\x1b[2J\x1b]0;title\a\x1b[K\r\x1b[\x1b"}, `\u001b[2J\u001b]0;title\u0007\u001b[K\u000d\u001b[\u001b`},
		{true, []string{"\x1b[8mx\x1b[0;8m\x1b[30m\x1b[40m\x1b[m"}, `\u001b[8mx\u001b[0;8m\u001b[30m\u001b[40m` + "\x1b[m"},
		{true, []string{"\u009b31m"}, `\u009b31m`},
		{true, []string{"\x1b[1111111111111111111m"}, `\u001b[1111111111111111111m`},
	} {
		if got := through(c.colours, c.in...); got != c.want {
			t.Errorf("%q gives %q, want %q", c.in, got, c.want)
		}
	}
}

// FuzzPrintable: no hidden character is left, the value of JSON stays, a prefix is the longest that fits, and how the octets are split into
// writes makes no difference.
func FuzzPrintable(f *testing.F) {
	for in := range all {
		f.Add("a"+in+"\n\"b\\", 5)
	}
	f.Add("\xf3\xa0\x81", 0)
	f.Fuzz(func(t *testing.T, s string, room int) {
		whole := AppendJSON(nil, s)
		var back string
		if err := json.Unmarshal(whole, &back); err != nil || back != strings.ToValidUTF8(s, "\ufffd") && utf8.ValidString(s) {
			t.Fatalf("%q: %s gives %q, %v", s, whole, back, err)
		}
		for _, text := range []string{string(whole), Line(s, 1<<30), strings.NewReplacer("\n", "", "\t", "").Replace(through(true, strings.ReplaceAll(s, "\x1b", "")))} {
			for i, r := range text {
				if Hidden(r) || r == utf8.RuneError && !strings.HasPrefix(text[i:], "\ufffd") {
					t.Fatalf("%q: %q is left in %q", s, r, text)
				}
			}
		}
		var each []string
		for i := range len(s) {
			each = append(each, s[i:i+1])
		}
		if a, b := through(false, s), through(false, each...); a != b {
			t.Fatalf("%q gives %q at once, %q octet by octet", s, a, b)
		}
		if twice := through(false, through(false, s)); twice != through(false, s) {
			t.Fatalf("%q gives %q the second time", s, twice)
		}
		room = max(room, 0) % 64
		part, used := AppendJSONWithin(nil, s, room)
		if len(part) > room+2 || string(part) != string(AppendJSON(nil, s[:used])) {
			t.Fatalf("%q within %d: %s of %d", s, room, part, used)
		}
		if used < len(s) {
			_, n := utf8.DecodeRuneInString(s[used:])
			if more := AppendJSON(nil, s[:used+n]); len(more) <= room+2 {
				t.Fatalf("%q within %d: %s, though %s fits", s, room, part, more)
			}
		}
	})
}
