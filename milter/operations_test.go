package milter

import (
	"bytes"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/testmilter"
	"github.com/postern-mail/postern/milter/wire"
)

// TestOperationsGiveTheSameBytes: the operations, carried out one after the other by a mail server, give the same message as
// message.Header.Apply. Thousands of random headers and edits are tried, with and without leading white space.
func TestOperationsGiveTheSameBytes(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	names := []string{"From", "To", "Subject", "X-A", "X-B", "x-a", "Received"}
	values := []string{" a", " b", "  two  spaces ", "no-space", " folded\r\n line", " \tmixed", "", " ", " long " + strings.Repeat("word ", 40)}
	for n := range 3000 {
		var head strings.Builder
		for range rnd.Intn(12) {
			head.WriteString(names[rnd.Intn(len(names))] + ":" + values[rnd.Intn(len(values))] + "\r\n")
		}
		head.WriteString("\r\n")
		before, err := message.ParseHeader([]byte(head.String()), message.Limits{})
		if err != nil {
			continue
		}
		var list []message.Edit
		for range rnd.Intn(6) {
			op := message.OpRemoveHeader + message.Op(rnd.Intn(4))
			index, value := rnd.Intn(4), ""
			if op == message.OpAddHeader {
				index = 0
			}
			if op != message.OpRemoveHeader {
				value = fmt.Sprint("new ", rnd.Intn(3), strings.Repeat(" and more of it", rnd.Intn(9)))
				if rnd.Intn(8) == 0 {
					value = ""
				}
			}
			if e, err := message.NewEdit(op, names[rnd.Intn(len(names))], index, value, false); err == nil {
				list = append(list, e)
			}
		}
		edits, err := message.Plan(list)
		if err != nil {
			continue
		}
		after, err := before.Apply(edits)
		if err != nil {
			continue
		}
		for _, leading := range []bool{true, false} {
			if !leading && !plain(before) {
				continue // without leading space these fields look like others
			}
			res := testmilter.NewResult([]byte(head.String()), leading, testmilter.AllActions)
			ops := headerOperations(before, after, dialect{leading: leading})
			for _, op := range ops {
				b := op.AppendTo(nil)
				if err := res.Apply(b[headSize], b[headSize+1:]); err != nil {
					t.Fatalf("%d: %v: %v\n%s\n%v", n, op, err, head.String(), ops)
				}
			}
			if want := after.AppendTo(nil); !bytes.Equal(res.Bytes(), want) {
				t.Fatalf("%d, leading %v:\n%q\nbecame\n%q\nby %v; want\n%q", n, leading, head.String(), res.Bytes(), ops, want)
			}
			checkSendmail(t, before, after, leading)
		}
	}
}

func plain(h *message.Header) bool {
	for i := range h.Len() {
		_, v, _ := strings.Cut(string(h.Field(i).Raw()), ":")
		if !strings.HasPrefix(v, " ") {
			return false
		}
	}
	return true
}

// sendmailField is one entry of the list that Sendmail keeps of a header: its own defaults first, then the message's fields.
// An entry without a value is not sent; it keeps its place in the list.
type sendmailField struct {
	name, value           string
	gone, fallback, trace bool
}

// sendmailList is the list as an ordinary sendmail.cf begins it.
func sendmailList(h *message.Header, leading bool) []sendmailField {
	list := []sendmailField{{name: "Return-Path", gone: true}, {name: "Received", value: " ours", trace: true}}
	for _, name := range []string{"Date", "From", "Message-Id"} {
		has := false
		for i := range h.Len() {
			has = has || strings.EqualFold(h.Field(i).Name(), name)
		}
		list = append(list, sendmailField{name: name, value: " default", gone: has, fallback: true})
	}
	for i := range h.Len() {
		list = append(list, sendmailField{name: h.Field(i).Name(), value: valueOnWire(h.Field(i))})
	}
	return list
}

func valueOnWire(f message.Field) string { return fieldValue(f, true) }

// sendmailApply does what Sendmail 8.17 does with one operation, as observed.
func sendmailApply(list []sendmailField, op wire.Operation, leading bool) []sendmailField {
	f := sendmailField{name: op.Text[0], value: op.Text[1]}
	if !leading {
		f.value = " " + f.value
	}
	same := func(x sendmailField) bool { return strings.EqualFold(x.name, f.name) }
	switch op.Op {
	case wire.InsertHeader:
		at := min(op.Index+1, len(list))
		return slices.Insert(list, at, f)
	case wire.AddHeader:
		if i := slices.IndexFunc(list, func(x sendmailField) bool { return same(x) && x.fallback }); i >= 0 {
			list[i].value, list[i].gone, list[i].fallback = f.value, false, false
			return list
		}
		if i := slices.IndexFunc(list, same); i >= 0 {
			return slices.Insert(list, i, f)
		}
		return append(list, f)
	}
	left := op.Index
	for i, x := range list {
		if same(x) && !x.fallback && !x.trace {
			if left--; left == 0 {
				list[i].value, list[i].gone = f.value, op.Text[1] == ""
				return list
			}
		}
	}
	return append(list, sendmailField{name: "Not-Found", value: " " + op.String()})
}

// checkSendmail checks that Sendmail ends up with after, except for Received: in the same order if the message had all fields that
// Sendmail has defaults for, and otherwise with the same fields, each once.
func checkSendmail(t *testing.T, before, after *message.Header, leading bool) {
	t.Helper()
	list := sendmailList(before, leading)
	had := before.Len()
	ops := headerOperations(before, after, dialect{leading: leading, sendmail: true})
	for _, op := range ops {
		list = sendmailApply(list, op, leading)
	}
	var got, want []string
	ownPlace := false
	for _, x := range list {
		if !x.gone && !x.trace && x.value != " default" {
			got = append(got, x.name+":"+x.value)
		}
		ownPlace = ownPlace || x.fallback && !x.gone
	}
	for i := range after.Len() {
		want = append(want, after.Field(i).Name()+":"+valueOnWire(after.Field(i)))
	}
	hasAll := had > 0 && slices.ContainsFunc(list, func(x sendmailField) bool { return x.fallback && x.gone && x.name == "From" })
	if !hasAll {
		// From, added to a message without one, replaces Sendmail's default, under the default's name.
		for _, l := range [][]string{got, want} {
			for i := range l {
				l[i] = strings.ToLower(l[i])
			}
			slices.Sort(l)
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("Sendmail, leading %v: %v became\n%q\nwant\n%q", leading, ops, got, want)
	}
}
