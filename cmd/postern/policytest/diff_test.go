package policytest

import (
	"strings"
	"testing"
)

func TestVisible(t *testing.T) {
	for _, c := range []struct {
		text string
		eml  bool
		want string
	}{
		{"plain\n", false, "plain\n"},
		{"a\r\nb\r\n", true, "a\nb\n"},
		{"a\nb\r\n", true, "a\\n\nb\n"},
		{"a\r\n", false, "a\\r\n"},
		{"a\rb\r\n", true, "a\\rb\n"},
		{"a\tb \t\r\n", true, "a\\tb\\x20\\t\n"},
		{" \n", false, "\\x20\n"},
		{"a\u00a0b\u200bc\u202ed\n", false, "a\\u00a0b\\u200bc\\u202ed\n"},
		{"gr\u00fc\u00df \u4e16\n", false, "gr\u00fc\u00df \u4e16\n"},
		{"\xff\ufffd\x1b[31m\n", false, "\\xff\ufffd\\x1b[31m\n"},
		{"no end", true, "no end"},
		{"", true, ""},
	} {
		if got := visible(c.text, c.eml); got != c.want {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
}

func TestUnified(t *testing.T) {
	want := "--- a\n+++ b\n@@ -1,2 +1,2 @@\n same\n-one\n+one\\x20"
	if got := unified("a", "b", []byte("same\r\none\r\n"), []byte("same\r\none \r\n"), true); got != want {
		t.Errorf("got\n%s", got)
	}
	// What is shown for something that cannot be seen, and that text itself, differ all the same.
	if got := unified("a", "b", []byte("x\\t\n"), []byte("x\t\n"), false); !strings.Contains(got, `-"x\\t\n"`) || !strings.Contains(got, `+"x\t\n"`) {
		t.Errorf("got\n%s", got)
	}
}
