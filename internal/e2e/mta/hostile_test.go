package mta

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/textproto"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/internal/testmilter"
)

// reading is whom one reader takes for the originators of a message: addresses by field, sorted, domains in lower case.
type reading struct {
	From, Sender, Resent []string
	Err                  string // why the reader gave up on a field and shows no address there
}

func (r reading) String() string {
	s := fmt.Sprintf("From %q Sender %q Resent %q", r.From, r.Sender, r.Resent)
	if r.Err != "" {
		s += " (" + r.Err + ")"
	}
	return s
}

// accepted are the harmless differences between what a reader and Postern read, by reader and name of the message. With some
// set, only some versions of the reader differ.
var accepted = []struct {
	reader, name, why string
	some              bool
}{
	{"python compat32", `(from|sender|resent)/folded-in-quotes-plain`, "it ends a quoted name at the line end and so loses the address: nobody else is read", false},
	{"python compat32", `(from|sender|resent)/comment-comma`, "since the fix of CVE-2023-27043 it refuses a field with a comma in a comment: nobody is read", true},
}

// TestHostileMessages submits messages that can be read in two ways, and has other programs read what the next hop received. The
// login may send as one address only: a reader that finds another originator in an accepted message has been deceived.
func TestHostileMessages(t *testing.T) {
	t.Parallel()
	sink := testmilter.StartSink(t)
	s := e2e.StartSite(t, "smtp://"+sink.Addr, "")
	corpus := hostileCorpus()
	if len(corpus) < 300 {
		t.Fatalf("%d messages", len(corpus))
	}
	x := &submitter{t: t, s: s}
	var names []string
	var arrived [][]byte
	chunked := 0
	for i, m := range corpus {
		reply := x.data(m.eml)
		if took := strings.HasPrefix(reply, "250"); took {
			names, arrived = append(names, m.name), append(arrived, sink.Next(t).Data)
		} else if reply[0] != '5' {
			t.Errorf("%s: neither taken nor refused for good: %q", m.name, reply)
		}
		// A message says the same however it comes; every third shows it, and those that DATA changes: dots.
		if i%3 == 0 || strings.Contains(m.name, "dot") {
			chunked++
			again := x.bdat(m.eml)
			if again[:3] != reply[:3] {
				t.Errorf("%s: DATA was answered %q, BDAT %q", m.name, reply, again)
			}
			if strings.HasPrefix(again, "250") {
				names, arrived = append(names, m.name), append(arrived, sink.Next(t).Data)
			}
		}
	}
	t.Logf("%d messages by DATA and %d by BDAT, of which %d were accepted", len(corpus), chunked, len(arrived))
	if len(arrived) < 100 || len(arrived) > (len(corpus)+chunked)*3/4 {
		t.Errorf("%d messages were accepted: the corpus has become too harmless, or Postern too strict, for this to show anything", len(arrived))
	}
	if more := len(sink.Mail); more > 0 {
		t.Errorf("%d messages more arrived than were accepted", more)
	}
	compareReadings(t, names, arrived)
}

// compareReadings has each message read by all readers.
func compareReadings(t *testing.T, names []string, arrived [][]byte) {
	t.Helper()
	readers := map[string][]reading{
		"python default": pythonReadings(t, "default", arrived), "python compat32": pythonReadings(t, "compat32", arrived),
		"net/mail": goReadings(arrived), "dovecot": dovecotReadings(t, arrived),
	}
	used := make([]bool, len(accepted))
	var known []*regexp.Regexp
	for _, a := range accepted {
		known = append(known, regexp.MustCompile("^(?:"+a.name+")$"))
	}
	for i, eml := range arrived {
		want := posternReading(t, names[i], eml)
		for reader, all := range readers {
			got := all[i]
			if reader == "dovecot" { // it tells nothing of Resent fields
				got.Resent = want.Resent
			}
			if fmt.Sprint(got) == fmt.Sprint(want) {
				continue
			}
			k := 0
			for k < len(accepted) && (accepted[k].reader != reader || !known[k].MatchString(names[i])) {
				k++
			}
			if k == len(accepted) {
				t.Errorf("%s: %s reads\n  %s\nPostern said\n  %s\nof\n%.2000q", names[i], reader, got, want, eml)
				continue
			}
			used[k] = true
			// Even where readers differ, no address of another user may be shown.
			for _, a := range slices.Concat(got.From, got.Sender, got.Resent) {
				if _, err := message.ParseAddresses(a); err == nil && !ownAddress(a) {
					t.Errorf("%s: %s reads %q, although the difference is called harmless:\n%.2000q", names[i], reader, a, eml)
				}
			}
		}
	}
	for i, a := range accepted {
		if !used[i] && !a.some {
			t.Errorf("%s and Postern do not differ about %s any more: take it out of the table", a.reader, a.name)
		}
	}
}

// ownAddress says whether the login may send as an address.
func ownAddress(a string) bool {
	return a == e2e.Address || a == "alice+x@example.com"
}

// posternReading is what Postern says of a message that it let pass, which has to be the login's.
func posternReading(t *testing.T, name string, eml []byte) reading {
	t.Helper()
	end, whole := message.HeaderEnd(eml)
	if !whole {
		end = len(eml)
	}
	h, err := message.ParseHeader(eml[:end], message.Limits{})
	if err != nil {
		t.Errorf("%s: the header that left cannot be read: %v", name, err)
		return reading{}
	}
	facts := message.ReadFacts(h)
	addresses := func(list []message.Mailbox) []string {
		var all []string
		for _, m := range list {
			all = append(all, m.Local+"@"+strings.ToLower(m.Domain))
			if !ownAddress(strings.ToLower(all[len(all)-1])) {
				t.Errorf("%s: %s may not send as %s, and did", name, e2e.Login, m.Address())
			}
		}
		slices.Sort(all)
		return all
	}
	return reading{From: addresses(facts.From), Sender: addresses(facts.Sender), Resent: addresses(facts.Resent)}
}

func goReadings(arrived [][]byte) []reading {
	var all []reading
	for _, eml := range arrived {
		var r reading
		m, err := mail.ReadMessage(bytes.NewReader(eml))
		if err != nil {
			all = append(all, reading{Err: err.Error()})
			continue
		}
		read := func(names ...string) (out []string) {
			for _, name := range names {
				for _, v := range m.Header[name] {
					list, err := mail.ParseAddressList(v)
					if err != nil {
						r.Err += name + ": " + err.Error() + " "
					}
					for _, a := range list {
						at := strings.LastIndexByte(a.Address, '@')
						out = append(out, a.Address[:at]+strings.ToLower(a.Address[at:]))
					}
				}
			}
			slices.Sort(out)
			return out
		}
		r.From, r.Sender, r.Resent = read("From"), read("Sender"), read("Resent-From", "Resent-Sender")
		all = append(all, r)
	}
	return all
}

// readPy reads messages as a JSON list of base64 and writes what it read as JSON.
const readPy = `
import base64, email, email.policy, email.utils, json, sys
which = sys.argv[1]
policy = email.policy.default if which == "default" else email.policy.compat32
def local(s):
    if s.startswith('"') and s.endswith('"'): s = s[1:-1]
    return s
def read(m, names, errors):
    out = []
    for name in names:
        try:
            values = m.get_all(name, [])
            if which == "default":
                pairs = [(a.username, a.domain) for v in values for a in v.addresses]
            else:
                pairs = [tuple(a.rpartition("@")[::2]) for _, a in email.utils.getaddresses([str(v) for v in values])]
            out += [local(l) + "@" + d.lower() for l, d in pairs]
        except Exception as e:
            errors.append("%s: %r" % (name, e))
    return sorted(out)
all = []
for b in json.load(sys.stdin):
    errors = []
    m = email.message_from_bytes(base64.b64decode(b), policy=policy)
    r = {"From": read(m, ["From"], errors), "Sender": read(m, ["Sender"], errors), "Resent": read(m, ["Resent-From", "Resent-Sender"], errors)}
    r["Err"] = " ".join(errors)
    all.append(r)
json.dump(all, sys.stdout, ensure_ascii=True)
`

func pythonReadings(t *testing.T, policy string, arrived [][]byte) []reading {
	t.Helper()
	in, err := json.Marshal(arrived) // octets become base64
	testenv.Must(t, err)
	said, err := testenv.Output(t, string(in), "python3", "-c", readPy, policy)
	var all []reading
	if err := errors.Join(err, json.Unmarshal([]byte(said), &all)); err != nil || len(all) != len(arrived) {
		t.Fatalf("%v: %d readings of %d messages\n%.4000s", err, len(all), len(arrived), said)
	}
	return all
}

// dovecotReadings delivers the messages to a Dovecot, and asks it what an IMAP client would see in the list of messages.
func dovecotReadings(t *testing.T, arrived [][]byte) []reading {
	t.Helper()
	addr, socket, _ := e2e.DovecotLMTP(t)
	deliverLMTP(t, addr, arrived)
	conf := filepath.Join(filepath.Dir(socket), "dovecot.conf")
	cmd := exec.Command(testenv.Program(t, "dovecot-core", "doveadm", "/usr/bin/doveadm"), "-c", conf, "-f", "json", "fetch", "-u", "bob@example.net", "uid hdr.sender imap.envelope", "mailbox", "INBOX", "all")
	out, err := cmd.Output()
	var rows []map[string]string
	if err := errors.Join(err, json.Unmarshal(out, &rows)); err != nil || len(rows) != len(arrived) {
		t.Fatalf("%v: Dovecot has %d messages of %d\n%.4000s", err, len(rows), len(arrived), out)
	}
	var all []reading
	for i, row := range rows {
		if row["uid"] != fmt.Sprint(i+1) {
			t.Fatalf("message %d has the UID %s", i+1, row["uid"])
		}
		var r reading
		list := envelope(row["imap.envelope"])
		if len(list) < 4 {
			r.Err = "unreadable envelope " + row["imap.envelope"]
			all = append(all, r)
			continue
		}
		r.From = envelopeAddresses(list[2])
		if _, has := row["hdr.sender"]; has && row["hdr.sender"] != "" { // else the envelope repeats From
			r.Sender = envelopeAddresses(list[3])
		}
		all = append(all, r)
	}
	return all
}

// deliverLMTP hands over messages for bob@example.net.
func deliverLMTP(t *testing.T, addr string, arrived [][]byte) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	testenv.Must(t, err)
	defer c.Close()
	testenv.Must(t, c.SetDeadline(time.Now().Add(5*time.Minute)))
	tp := textproto.NewConn(c)
	want := func(code int) {
		t.Helper()
		if _, _, err := tp.ReadResponse(code); err != nil {
			t.Fatal(err)
		}
	}
	want(220)
	testenv.Must(t, tp.PrintfLine("LHLO mail.example.com"))
	want(250)
	for _, eml := range arrived {
		testenv.Must(t, tp.PrintfLine("MAIL FROM:<alice@example.com>\r\nRCPT TO:<bob@example.net>\r\nDATA"))
		want(250)
		want(250)
		want(354)
		_, err := c.Write(dotStuffed(eml))
		testenv.Must(t, err)
		want(250)
	}
}

// dotStuffed is a message as DATA sends it, its end included.
func dotStuffed(eml []byte) []byte {
	b := bytes.ReplaceAll(append([]byte("\r\n"), eml...), []byte("\r\n."), []byte("\r\n.."))[2:]
	if len(b) > 0 && !bytes.HasSuffix(b, []byte("\r\n")) {
		b = append(b, '\r', '\n')
	}
	return append(b, ".\r\n"...)
}

// submitter is an authenticated client that comes back when it was thrown out.
type submitter struct {
	t    *testing.T
	s    *e2e.Site
	conn net.Conn
	tp   *textproto.Conn
}

// data submits by DATA and gives the last reply.
func (x *submitter) data(eml string) string {
	x.t.Helper()
	x.begin(eml, "DATA", "354")
	if _, err := x.conn.Write(dotStuffed([]byte(eml))); err != nil {
		x.t.Fatal(err)
	}
	return x.end()
}

// bdat submits in two chunks.
func (x *submitter) bdat(eml string) string {
	x.t.Helper()
	half := len(eml) / 2
	x.begin(eml, "NOOP", "250")
	if _, err := fmt.Fprintf(x.conn, "BDAT %d\r\n%sBDAT %d LAST\r\n%s", half, eml[:half], len(eml)-half, eml[half:]); err != nil {
		x.t.Fatal(err)
	}
	if r := x.end(); !strings.HasSuffix(r, "octets received") {
		return r
	}
	return x.end()
}

func (x *submitter) begin(eml, last, want string) {
	x.t.Helper()
	if x.conn == nil {
		x.login()
	}
	params := " BODY=8BITMIME"
	if header, _, _ := strings.Cut(eml, "\r\n\r\n"); strings.ContainsFunc(header, func(r rune) bool { return r >= 0x80 }) {
		params += " SMTPUTF8"
	}
	testenv.Must(x.t, x.tp.PrintfLine("MAIL FROM:<%s>%s\r\nRCPT TO:<bob@example.net>\r\n%s", e2e.Address, params, last))
	for _, want := range []string{"250", "250", want} {
		if r := x.reply(); !strings.HasPrefix(r, want) {
			x.t.Fatalf("got %q, want %s", r, want)
		}
	}
}

// end reads the reply to a message. A server that cannot tell where a message ends has to hang up after it.
func (x *submitter) end() string {
	x.t.Helper()
	r := x.reply()
	if strings.Contains(r, "lines must end in CR LF") {
		if line, err := x.tp.ReadLine(); err == nil {
			x.t.Errorf("after %q: %q", r, line)
		}
		x.conn.Close()
		x.conn = nil
	}
	return r
}

func (x *submitter) reply() string {
	x.t.Helper()
	code, text, err := x.tp.ReadResponse(0)
	if err != nil && code == 0 {
		x.t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", code, text)
}

func (x *submitter) login() {
	x.t.Helper()
	c, err := tls.Dial("tcp", x.s.TLS, &tls.Config{InsecureSkipVerify: true})
	testenv.Must(x.t, err)
	x.t.Cleanup(func() { c.Close() })
	testenv.Must(x.t, c.SetDeadline(time.Now().Add(5*time.Minute)))
	x.conn, x.tp = c, textproto.NewConn(c)
	x.reply()
	for _, line := range []string{"EHLO laptop.example.com", "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+e2e.Login+"\x00"+e2e.Password))} {
		testenv.Must(x.t, x.tp.PrintfLine("%s", line))
		if r := x.reply(); r[0] != '2' {
			x.t.Fatal(r)
		}
	}
}

// envelope reads an IMAP ENVELOPE (RFC 3501 §7.4.2): string, nil or a list of these.
func envelope(s string) []any {
	s = "(" + strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "("), ")") + ")"
	list, _ := imapList(s)
	return list
}

// imapList reads a list with its brackets, and gives what follows.
func imapList(s string) (list []any, rest string) {
	for s = s[1:]; s != ""; {
		switch s[0] {
		case ')':
			return list, s[1:]
		case ' ':
			s = s[1:]
		case '(':
			var inner []any
			inner, s = imapList(s)
			list = append(list, inner)
		case '"', '{':
			var text string
			text, s = imapString(s)
			list = append(list, text)
		default:
			n := strings.IndexAny(s, " ()")
			if n <= 0 {
				return list, ""
			}
			list, s = append(list, nil), s[n:]
		}
	}
	return list, ""
}

// imapString reads a quoted string or a literal.
func imapString(s string) (text, rest string) {
	if s[0] == '{' {
		var n int
		head, tail, _ := strings.Cut(s, "\n")
		if _, err := fmt.Sscanf(head, "{%d}", &n); err != nil || n > len(tail) {
			return "", ""
		}
		return tail[:n], tail[n:]
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:]
		case '\\':
			i++
		}
		if i < len(s) {
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}

// envelopeAddresses are those of one list of an ENVELOPE. Where a group begins and ends, there is no host.
func envelopeAddresses(list any) []string {
	var all []string
	for _, a := range asList(list) {
		parts := asList(a)
		if len(parts) != 4 {
			return []string{fmt.Sprint("unreadable: ", a)}
		}
		local, _ := parts[2].(string)
		host, ok := parts[3].(string)
		if !ok && local == "" {
			continue
		}
		all = append(all, local+"@"+strings.ToLower(host))
	}
	slices.Sort(all)
	return all
}

func asList(a any) []any {
	list, _ := a.([]any)
	return list
}
