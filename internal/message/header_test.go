package message

import (
	"bytes"
	"errors"
	"net/mail"
	"net/textproto"
	"slices"
	"strings"
	"testing"
)

func crlf(s string) []byte { return []byte(strings.ReplaceAll(s, "\n", "\r\n")) }

func TestParseHeader(t *testing.T) {
	block := crlf("From:a@b.c\nSubject: one\n two\n\tthree \nX-Empty:\nfrom : x\n\n")
	if _, err := ParseHeader(block, Limits{}); err == nil || !strings.Contains(err.Error(), "line 6") {
		t.Errorf("white space before the colon: %v", err)
	}
	block = crlf("From:a@b.c\nSubject: one\n two\n\tthree \nX-Empty:\nX-8: caf\xc3\xa9\n\n")
	h, err := ParseHeader(block, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if h.Len() != 4 || h.Field(1).Value() != "one two\tthree" || h.Field(1).Key() != "subject" || h.Field(2).Value() != "" || h.Count("from") != 1 {
		t.Errorf("got %+v", h)
	}
	for name, text := range map[string]string{
		"no colon": "From: a\nnonsense\n\n", "no name": ": x\n\n", "continuation first": " x: y\n\n", "bare LF": "A: b\n",
		"mbox line": "From alice Mon Jun  1 12:00:00 2026\nA: b\n\n", "empty line inside": "A: b\n\nC: d\n",
	} {
		b := crlf(text)
		if name == "bare LF" {
			b = []byte("A: b\nC: d\r\n\r\n")
		}
		if h, err := ParseHeader(b, Limits{}); err == nil {
			t.Errorf("%s was read: %+v", name, h)
		}
	}
	var bad *HeaderError
	if _, err := ParseHeader([]byte("A: b\r\n\r\nC"), Limits{}); !errors.As(err, &bad) || bad.Line != 2 {
		t.Errorf("an octet after the empty line: %v", err)
	}
	if _, err := ParseHeader(crlf(" x: y\n\n"), Limits{}); !errors.As(err, &bad) || bad.What != "a continuation line that continues nothing" {
		t.Errorf("continuation first: %v", err)
	}
	for _, bad := range []string{"A: b\rc\r\n\r\n", "A: b\x00c\r\n\r\n", "A: b\r\n", "", "\r\n"} {
		_, err := ParseHeader([]byte(bad), Limits{})
		if ok := !strings.ContainsAny(bad, "\x00") && !strings.Contains(bad, "b\rc"); ok != (err == nil) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := ParseHeader(crlf("A: b\nC: d\nE: f\n\n"), Limits{Fields: 2}); err == nil {
		t.Error("too many fields were read")
	}
	if _, err := ParseHeader(crlf("A: b\n"+strings.Repeat(" c\n", 50)+"\n"), Limits{FieldBytes: 100}); err == nil {
		t.Error("too long a field was read")
	}
}

func plan(t *testing.T, edits ...Edit) Edits {
	t.Helper()
	p, err := Plan(edits)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func edit(t *testing.T, op Op, name string, index int, value string) Edit {
	t.Helper()
	e, err := NewEdit(op, name, index, value, false)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestApply(t *testing.T) {
	block := crlf("A: 1\nB:  two\n folded\nA: 3\nC: 4\na: 5\n\n")
	for _, tc := range []struct {
		name  string
		edits []Edit
		want  string
	}{
		{"nothing", nil, "A: 1\nB:  two\n folded\nA: 3\nC: 4\na: 5\n\n"},
		{"remove all", []Edit{edit(t, OpRemoveHeader, "a", 0, "")}, "B:  two\n folded\nC: 4\n\n"},
		{"remove second", []Edit{edit(t, OpRemoveHeader, "A", 2, "")}, "A: 1\nB:  two\n folded\nC: 4\na: 5\n\n"},
		{"replace all", []Edit{edit(t, OpReplaceHeader, "A", 0, "x")}, "A: x\nB:  two\n folded\nC: 4\n\n"},
		{"replace third, remove first", []Edit{edit(t, OpReplaceHeader, "A", 3, "x"), edit(t, OpRemoveHeader, "A", 1, "")}, "B:  two\n folded\nA: 3\nC: 4\nA: x\n\n"},
		{"replace what is not there", []Edit{edit(t, OpReplaceHeader, "Z", 0, "x")}, "A: 1\nB:  two\n folded\nA: 3\nC: 4\na: 5\nZ: x\n\n"},
		{"index past the last", []Edit{edit(t, OpReplaceHeader, "A", 4, "x"), edit(t, OpRemoveHeader, "B", 2, "")}, "A: 1\nB:  two\n folded\nA: 3\nC: 4\na: 5\n\n"},
		{"insert and add", []Edit{edit(t, OpAddHeader, "Z", 0, "z"), edit(t, OpInsertHeader, "T", 0, "t"), edit(t, OpInsertHeader, "M", 3, "m"), edit(t, OpInsertHeader, "E", 99, "e"), edit(t, OpAddHeader, "Y", 0, "y")},
			"T: t\nA: 1\nB:  two\n folded\nA: 3\nM: m\nC: 4\na: 5\nE: e\nY: y\nZ: z\n\n"},
	} {
		h, err := ParseHeader(block, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		out, err := h.Apply(plan(t, tc.edits...))
		if err != nil || !bytes.Equal(out.AppendTo(nil), crlf(tc.want)) {
			t.Errorf("%s: got %q, %v", tc.name, out.AppendTo(nil), err)
		}
		if !bytes.Equal(h.AppendTo(nil), block) {
			t.Errorf("%s: the original changed", tc.name)
		}
	}
}

// TestApplyToNothing: a field that is added to a message without a header gets the empty line that ends the header.
func TestApplyToNothing(t *testing.T) {
	for in, want := range map[string]string{"": "A: b\r\n\r\n", "\r\n": "A: b\r\n\r\n", "C: d\r\n": "C: d\r\nA: b\r\n"} {
		h, err := ParseHeader([]byte(in), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if out, err := h.Apply(plan(t, edit(t, OpAddHeader, "A", 0, "b"))); err != nil || string(out.AppendTo(nil)) != want {
			t.Errorf("%q: got %q, %v, want %q", in, out.AppendTo(nil), err, want)
		}
	}
}

// TestPlanBound: a plan has at most maxEdits edits, those that are the same included.
func TestPlanBound(t *testing.T) {
	for n, ok := range map[int]bool{maxEdits: true, maxEdits + 1: false} {
		if _, err := Plan(slices.Repeat([]Edit{edit(t, OpAddHeader, "A", 0, "b")}, n)); (err == nil) != ok {
			t.Errorf("%d edits: %v", n, err)
		}
	}
}

func TestPlanRefusesContradictions(t *testing.T) {
	env := func(op Op, addr string) Edit {
		e, err := NewEnvelopeEdit(op, addr, false)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	for name, edits := range map[string][]Edit{
		"two values":           {edit(t, OpReplaceHeader, "A", 1, "x"), edit(t, OpReplaceHeader, "a", 1, "y")},
		"one and all":          {edit(t, OpReplaceHeader, "A", 2, "x"), edit(t, OpReplaceHeader, "A", 0, "x")},
		"remove all, one kept": {edit(t, OpReplaceHeader, "A", 2, "x"), edit(t, OpRemoveHeader, "A", 0, "")},
		"remove one, all kept": {edit(t, OpReplaceHeader, "A", 0, "x"), edit(t, OpRemoveHeader, "A", 2, "")},
		"two senders":          {env(OpChangeSender, "a@b.c"), env(OpChangeSender, "<>")},
		"in and out":           {env(OpAddRecipient, "a@b.c"), env(OpRemoveRecipient, "A@b.c")},
	} {
		if p, err := Plan(edits); err == nil {
			t.Errorf("%s: planned as %v", name, p)
		}
	}
	same := plan(t, edit(t, OpAddHeader, "B", 0, "x"), edit(t, OpAddHeader, "A", 0, "x"), edit(t, OpAddHeader, "B", 0, "x"), edit(t, OpRemoveHeader, "C", 1, ""), edit(t, OpRemoveHeader, "C", 0, ""))
	if same.Len() != 4 || same.At(0).Op() != OpRemoveHeader || same.At(2).Name() != "A" {
		t.Errorf("got %v", same)
	}
}

func TestNewEditRefuses(t *testing.T) {
	for _, tc := range []struct {
		op    Op
		name  string
		index int
		value string
	}{
		{OpAddHeader, "", 0, "x"}, {OpAddHeader, "A B", 0, "x"}, {OpAddHeader, "A:", 0, "x"}, {OpAddHeader, "A\r\nB", 0, "x"}, {OpAddHeader, strings.Repeat("A", 77), 0, "x"},
		{OpAddHeader, "A", 1, "x"}, {OpInsertHeader, "A", -1, "x"}, {OpReplaceHeader, "A", 10001, "x"}, {OpRemoveHeader, "A", 0, "x"}, {0, "A", 0, "x"}, {OpChangeSender, "A", 0, "x"},
		{OpAddHeader, "A", 0, "x\r\nB: y"}, {OpAddHeader, "A", 0, "x\nB: y"}, {OpAddHeader, "A", 0, "x\ry"}, {OpAddHeader, "A", 0, "x\x00"}, {OpAddHeader, "A", 0, "é"},
		{OpAddHeader, "A", 0, strings.Repeat("x", 996)}, {OpAddHeader, "A", 0, strings.Repeat("x ", 20000)},
	} {
		if e, err := NewEdit(tc.op, tc.name, tc.index, tc.value, false); err == nil {
			t.Errorf("%v was made", e)
		}
	}
	if e, err := NewEdit(OpAddHeader, "A", 0, "é", true); err != nil || e.Value() != "é" {
		t.Errorf("SMTPUTF8: %v, %v", e, err)
	}
	if _, err := NewEnvelopeEdit(OpAddRecipient, "<>", false); err == nil {
		t.Error("a null recipient was made")
	}
	if _, err := NewEnvelopeEdit(OpAddRecipient, "a@b.c> X=1", false); err == nil {
		t.Error("a parameter was smuggled in")
	}
}

// FuzzHeader: a header is written as it was read; a plain reading of it and net/textproto's, where that takes it, find the same
// fields; what a milter hands over of it is the same header; and an edit does what it says, and leaves every other field alone.
func FuzzHeader(f *testing.F) {
	f.Add("A: b\r\n c\r\n\r\n", "X", "value of it", 1)
	f.Add("\r\n", "A", "", 0)
	f.Add("A:b\r\nB: \r\n \r\n", "a", "x", 0)
	f.Fuzz(func(t *testing.T, block, name, value string, index int) {
		h, err := ParseHeader([]byte(block), Limits{})
		if err != nil {
			var he *HeaderError
			if !errors.As(err, &he) || he.Line < 1 || he.What == "" || len(he.Error()) > 1000 {
				t.Fatalf("%q: %#v", block, err)
			}
			return
		}
		if got := h.AppendTo(nil); string(got) != block {
			t.Fatalf("%q was written as %q", block, got)
		}
		readPlainly(t, h, block)
		handedOver(t, h)
		wantFacts(t, h)
		for _, op := range []Op{OpRemoveHeader, OpReplaceHeader, OpInsertHeader, OpAddHeader} {
			v := value
			if op == OpRemoveHeader {
				v = ""
			}
			e, err := NewEdit(op, name, index, v, true)
			if err != nil {
				continue
			}
			p, err := Plan([]Edit{e})
			if err != nil {
				t.Fatal(err)
			}
			out, err := h.Apply(p)
			if err != nil {
				t.Fatal(err)
			}
			untouched(t, h, out, e)
			done(t, h, out, e)
		}
	})
}

// readPlainly reads a block in another way, and as the standard library does.
func readPlainly(t *testing.T, h *Header, block string) {
	t.Helper()
	text := strings.NewReplacer("\r\n ", " ", "\r\n\t", "\t").Replace(block)
	lines := strings.Split(strings.TrimSuffix(text, "\r\n"), "\r\n")
	if text == "" || text == "\r\n" {
		lines = nil
	} else if strings.HasSuffix(text, "\r\n\r\n") {
		lines = lines[:len(lines)-1]
	}
	theirs, err := mail.ReadMessage(strings.NewReader(strings.TrimSuffix(block, "\r\n") + "\r\n\r\n"))
	count := 0
	if err == nil {
		for _, values := range theirs.Header {
			count += len(values)
		}
	}
	if len(lines) != h.Len() || err == nil && count != h.Len() {
		t.Fatalf("%q has %d fields, and is read as %d, by net/mail as %d", block, len(lines), h.Len(), count)
	}
	seen := map[string]int{}
	for i, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		f := h.Field(i)
		if f.Name() != name || f.Key() != strings.ToLower(name) || f.Value() != strings.Trim(value, " \t") {
			t.Fatalf("%q: field %d is %q: %q, want %q: %q", block, i, f.Name(), f.Value(), name, value)
		}
		key := textproto.CanonicalMIMEHeaderKey(name)
		seen[key]++
		if err != nil || len(theirs.Header[key]) < seen[key] {
			continue
		}
		words := func(s string) string {
			return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' }), " ")
		}
		if got := theirs.Header[key][seen[key]-1]; words(got) != words(f.Value()) {
			t.Fatalf("%q: field %d is %q, net/mail reads %q", block, i, f.Value(), got)
		}
	}
}

// handedOver: the fields as a milter gets them make the same header.
func handedOver(t *testing.T, h *Header) {
	t.Helper()
	var fields [][2]string
	for i := range h.Len() {
		raw := string(h.Field(i).Raw())
		value := strings.TrimSuffix(raw[len(h.Field(i).Name())+1:], "\r\n")
		fields = append(fields, [2]string{h.Field(i).Name(), strings.ReplaceAll(value, "\r\n", "\n")})
	}
	again, err := NewHeader(fields, true, Limits{Bytes: DefaultLimits.Bytes + 2})
	if err != nil {
		t.Fatalf("%q: %v", h.AppendTo(nil), err)
	}
	if a, b := strings.TrimSuffix(string(again.AppendTo(nil)), "\r\n"), string(h.AppendTo(nil)); a != strings.TrimSuffix(b, h.end) {
		t.Fatalf("%q was handed over as %q", b, a)
	}
}

// wantFacts: who stands in a header can be written and read again, and what cannot be read is named, a bounded number of times.
func wantFacts(t *testing.T, h *Header) {
	t.Helper()
	facts := ReadFacts(h)
	for _, m := range slices.Concat(facts.From, facts.Sender, facts.ReplyTo, facts.To, facts.Cc, facts.Bcc, facts.Resent) {
		wantMailbox(t, m)
	}
	kinds := map[string]int{}
	for _, a := range facts.Ambiguous {
		if a.Kind == "" || a.Text == "" {
			t.Fatalf("%q: %+v", h.AppendTo(nil), a)
		}
		if kinds[a.Kind+" "+a.Field]++; kinds[a.Kind+" "+a.Field] > maxAlike {
			t.Fatalf("%q: more than %d of %s", h.AppendTo(nil), maxAlike, a.Kind)
		}
	}
	if h.Count("from") > 1 && kinds["duplicate-from from"] == 0 {
		t.Fatalf("%q: two From fields are not ambiguous: %v", h.AppendTo(nil), facts.Ambiguous)
	}
	for i := range h.Len() {
		if f := h.Field(i); f.Key() == "from" {
			if _, err := ParseAddresses(f.Value()); err != nil && kinds["unparsable-from from"]+kinds["undeclared-charset-in-from from"] == 0 {
				t.Fatalf("%q: %v, and is not ambiguous: %v", h.AppendTo(nil), err, facts.Ambiguous)
			}
		}
	}
}

// wantMailbox: an address that was read is written so that it is read as the same one.
func wantMailbox(t *testing.T, m Mailbox) {
	t.Helper()
	p, rest, err := ParsePath("<"+m.Address()+">", true)
	if len(m.Address()) > maxPath-2 {
		return // longer than SMTP has them
	}
	if m.Name = ""; err != nil || rest != "" || p.Mailbox != m {
		t.Fatalf("%+v is written as %q, and read as %+v, %q, %v", m, m.Address(), p, rest, err)
	}
}

// done: e did what it says.
func done(t *testing.T, before, after *Header, e Edit) {
	t.Helper()
	n, added := before.Count(lower(e.Name())), 0
	for i := range after.Len() {
		if f := after.Field(i); f.Key() == lower(e.Name()) && f.Value() == e.Value() {
			added++
		}
	}
	want, least := n, 1
	switch e.Op() {
	case OpAddHeader, OpInsertHeader:
		want = n + 1
	case OpRemoveHeader:
		least = 0
		if want = n - 1; e.Index() == 0 {
			want = 0
		} else if e.Index() > n {
			want = n
		}
	case OpReplaceHeader:
		if e.Index() == 0 {
			want = 1
		} else if e.Index() > n {
			least = 0
		}
	}
	if got := after.Count(lower(e.Name())); got != want || added < least {
		t.Fatalf("%v of %q: %d fields, want %d; with the value %d", e, before.AppendTo(nil), got, want, added)
	}
	last := after.Len() - 1
	if e.Op() == OpAddHeader && after.Field(last).Value() != e.Value() || e.Op() == OpInsertHeader && after.Field(min(e.Index(), last)).Value() != e.Value() {
		t.Fatalf("%v stands elsewhere in %q", e, after.AppendTo(nil))
	}
}

// untouched: every field but those of e's name is still there, byte for byte and in order, and what is there is a header.
func untouched(t *testing.T, before, after *Header, e Edit) {
	t.Helper()
	others := func(h *Header) (out []string) {
		for i := range h.Len() {
			if f := h.Field(i); f.Key() != lower(e.Name()) {
				out = append(out, string(f.Raw()))
			}
		}
		return out
	}
	if a, b := strings.Join(others(before), ""), strings.Join(others(after), ""); a != b {
		t.Fatalf("%v changed %q to %q", e, a, b)
	}
	again, err := ParseHeader(after.AppendTo(nil), Limits{Bytes: 1 << 30, Fields: 1 << 20, FieldBytes: 1 << 20})
	if err != nil || again.Len() != after.Len() {
		t.Fatalf("%v wrote %q: %v", e, after.AppendTo(nil), err)
	}
	for i := range again.Len() {
		if again.Field(i).Value() != after.Field(i).Value() {
			t.Fatalf("%v: %q reads back as %q", e, after.Field(i).Value(), again.Field(i).Value())
		}
	}
}

func FuzzFold(f *testing.F) {
	f.Add(10, strings.Repeat("word ", 40))
	f.Add(3, "a  \t b"+strings.Repeat(" ", 100)+"c")
	f.Fuzz(func(t *testing.T, used int, value string) {
		if used < 0 || used > 80 || strings.ContainsAny(value, "\r\n") {
			return
		}
		value = strings.Trim(value, " \t")
		got := fold(used, value, "\n")
		if strings.ReplaceAll(got, "\n", "") != value {
			t.Fatalf("%q folded to %q", value, got)
		}
		for i, line := range strings.Split(got, "\n") {
			if strings.Trim(line, " \t") == "" && value != "" || i > 0 && !wsp(line[0]) {
				t.Fatalf("%q folded to %q", value, got)
			}
		}
	})
}

func BenchmarkParseHeader(b *testing.B) {
	block := crlf(strings.Repeat("X-Field: some value that is not long\n", 20) + "From: a@b.c\nTo: d@e.f\nSubject: x\nDate: y\nMessage-ID: z\n\n")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseHeader(block, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadFacts(b *testing.B) {
	h, _ := ParseHeader(crlf("From: Alice <alice@example.com>\nTo: "+strings.Repeat("Bob <bob@example.net>,\n ", 9)+"carol@example.net\nDate: y\nMessage-ID: z\n\n"), Limits{})
	b.ReportAllocs()
	for b.Loop() {
		ReadFacts(h)
	}
}

func BenchmarkApply(b *testing.B) {
	h, _ := ParseHeader(crlf(strings.Repeat("X-Field: some value that is not long\n", 20)+"From: a@b.c\nBcc: d@e.f\nSubject: x\nDate: y\nMessage-ID: z\n\n"), Limits{})
	add, _ := NewEdit(OpAddHeader, "Sender", 0, "Alice <alice@example.com>", false)
	remove, _ := NewEdit(OpRemoveHeader, "Bcc", 0, "", false)
	edits, err := Plan([]Edit{add, remove})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Apply(edits); err != nil {
			b.Fatal(err)
		}
	}
}
