package message

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/textproto"
	"strings"
	"testing"
)

func TestReply(t *testing.T) {
	r := MustReply(550, "5.7.1", "one\r\ntwo\nthree\x00\x07é\r\n")
	if got := string(r.AppendTo(nil)); got != "550-5.7.1 one\r\n550-5.7.1 two\r\n550 5.7.1 three???\r\n" {
		t.Errorf("got %q", got)
	}
	if got := string(MustReply(354, "", "go").AppendTo(nil)); got != "354 go\r\n" {
		t.Errorf("got %q", got)
	}
	for _, tc := range []struct {
		code   int
		status string
	}{{199, ""}, {600, ""}, {550, "4.7.1"}, {550, "5.7"}, {550, "5.7.1 x"}, {550, "5.7.01"}, {550, "x"}, {550, "5.7.1\r\n"}, {550, "3.0.0"}} {
		if r, err := NewReply(tc.code, tc.status, "x"); err == nil {
			t.Errorf("%d %q made %v", tc.code, tc.status, r)
		}
	}
	if !(Reply{}).IsZero() || r.IsZero() {
		t.Error("IsZero")
	}
}

func FuzzReply(f *testing.F) {
	f.Add(550, "5.7.1", "a\r\nb")
	f.Add(451, "", strings.Repeat("x", 2000))
	f.Add(250, "2.0.0", strings.Repeat("x\n", 100))
	f.Fuzz(func(t *testing.T, code int, status, text string) {
		r, err := NewReply(code, status, text)
		if err != nil {
			return
		}
		wire := r.AppendTo(nil)
		// Another reader takes it for one reply, with that code, and with the status on each line.
		in := textproto.NewReader(bufio.NewReader(bytes.NewReader(wire)))
		got, said, err := in.ReadResponse(code)
		if rest, _ := io.ReadAll(in.R); err != nil || got != r.Code() || len(rest) > 0 {
			t.Fatalf("%q is read as %d %q, %v, and %q is left", wire, got, said, err, rest)
		}
		for line := range strings.SplitSeq(said, "\n") {
			if status != "" && !strings.HasPrefix(line+" ", status+" ") {
				t.Fatalf("%q: a line without %s", wire, status)
			}
		}
		lines := bytes.SplitAfter(wire, []byte("\r\n"))
		if len(lines) < 2 || len(lines) > maxReplyLines+1 || len(lines[len(lines)-1]) != 0 {
			t.Fatalf("%q", wire)
		}
		for _, l := range lines[:len(lines)-1] {
			if len(l) > maxReplyLine {
				t.Fatalf("a line of %d octets", len(l))
			}
			for _, c := range bytes.TrimSuffix(l, []byte("\r\n")) {
				if c < ' ' || c > '~' {
					t.Fatalf("%q", l)
				}
			}
		}
	})
}

func TestLineChecker(t *testing.T) {
	for _, tc := range []struct {
		in string
		ok bool
	}{{"", true}, {"a\r\nb\r\n", true}, {"a", true}, {"\r\n\r\n", true}, {"a\nb", false}, {"a\rb", false}, {"\n", false}, {"a\r", false}, {"a\r\r\n", false}, {"a\n\r\n", false}, {"a\x00b", false}, {"\r\n.\n", false}} {
		for cut := 0; cut <= len(tc.in); cut++ { // in two blocks, cut everywhere
			var c LineChecker
			err := c.Check([]byte(tc.in[:cut]))
			if err == nil {
				err = c.Check([]byte(tc.in[cut:]))
			}
			if err == nil {
				err = c.End()
			}
			if (err == nil) != tc.ok {
				t.Errorf("%q cut at %d: %v", tc.in, cut, err)
			}
		}
	}
}

// TestLineCheckerOffset: an error names the octet of the stream, and not of its block.
func TestLineCheckerOffset(t *testing.T) {
	var c LineChecker
	for range 2 {
		if err := c.Check([]byte("abc\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	var bad *LineError
	if err := c.Check([]byte("de\nf")); !errors.As(err, &bad) || bad.Offset != 12 {
		t.Errorf("got %v, want octet 12", err)
	}
}

func BenchmarkLineChecker(b *testing.B) {
	block := bytes.Repeat([]byte(strings.Repeat("x", 76)+"\r\n"), 1300)
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		if err := CheckLines(block); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzLineChecker holds the checker, fed in three blocks, against the rule written down plainly.
func FuzzLineChecker(f *testing.F) {
	f.Add("a\r\nb\r\n", 1, 2)
	f.Add("\r", 0, 1)
	f.Add("a\n", 1, 1)
	f.Add("\r\r\n.\r\n", 1, 2)
	f.Fuzz(func(t *testing.T, s string, i, j int) {
		if i < 0 || j < i || j > len(s) {
			return
		}
		plain := strings.ReplaceAll(s, "\r\n", "")
		ok := !strings.ContainsAny(plain, "\r\n\x00")
		if strings.Contains(s, "\r\r\n") || strings.Contains(s, "\r\n\n") {
			ok = false // taking CRLF out brought none of its halves together
		}
		var c LineChecker
		var err error
		for _, part := range []string{s[:i], s[i:j], s[j:]} {
			if err == nil {
				err = c.Check([]byte(part))
			}
		}
		if err == nil {
			err = c.End()
		}
		if (err == nil) != ok {
			t.Fatalf("%q cut at %d and %d: %v", s, i, j, err)
		}
		if whole := CheckLines([]byte(s)); (whole == nil) != ok {
			t.Fatalf("%q in one: %v", s, whole)
		}
	})
}
