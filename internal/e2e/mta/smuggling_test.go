package mta

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/internal/testmilter"
)

// smuggledMail is a second transaction in the body of the first. A server that ends the message too early takes it for commands.
const smuggledMail = "MAIL FROM:<alice@example.com>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\nFrom: ceo@example.com\r\nSubject: smuggled\r\n\r\nevil\r\n"

// smuggling is one try: octets as the client sends them, cut into writes or chunks.
type smuggling struct {
	name    string
	chunked bool
	pieces  []string // together the message: dots stuffed already, the end of DATA not included
	loose   bool     // it has lines so long that a next hop may break them
	octets  bool     // each octet is a write of its own
}

// endsOfData are what some server somewhere takes for the end of data, or makes it of (CVE-2023-51764 to 51766).
var endsOfData = []string{
	"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\r.\n", "\n.\r", "\r\n.\r\r\n", "\r\r\n.\r\n", "\n\r\n.\r\n", "\r\n.\n\r\n", "\n\n.\r\n",
	"\r\n\x00.\r\n", "\r\n.\x00\r\n", "\x00\r\n.\r\n", "\r\n.\r\x00\n", "\r\x00\n.\r\n", "\r\n.\r\n\x00",
	"\r\n..\r\n", "\r\n...\r\n", "\r\n. \r\n", "\r\n.\t\r\n", "\r\n .\r\n", "\r\n.x\r\n", "\r\n..\r\n..\r\n", "\r\n\r\n..\r\n\r\n",
	"\r\n\u0085.\r\n", "\u2028.\u2028", "\r\n\v..\r\n", "\f.\f", "\x1a", "\r\n\x1a\r\n", "\r\n.\x1a\r\n", "\r\n.\r\n",
}

// smugglings are all the tries with which a next hop is plagued.
func smugglings() []smuggling {
	const head = "From: alice@example.com\r\nSubject: {id}\r\n\r\nbody"
	var all []smuggling
	for _, end := range endsOfData {
		text, cut := head+end+smuggledMail, len(head)+len(end)/2
		all = append(all, smuggling{fmt.Sprintf("BDAT %q", end), true, []string{text}, false, false},
			smuggling{fmt.Sprintf("BDAT %q, cut", end), true, []string{text[:cut], text[cut:]}, false, false},
			smuggling{fmt.Sprintf("BDAT %q, an empty chunk", end), true, []string{text[:cut], "", text[cut:]}, false, false},
			smuggling{fmt.Sprintf("BDAT %q, cut behind", end), true, []string{text[:len(head)+len(end)], text[len(head)+len(end):]}, false, false})
		if strings.HasPrefix(end, "\r\n.\r\n") {
			continue // by DATA this is the end, and the rest another message of the same login
		}
		all = append(all, smuggling{fmt.Sprintf("DATA %q", end), false, []string{text}, false, false},
			smuggling{fmt.Sprintf("DATA %q, cut", end), false, []string{text[:cut], text[cut:]}, false, false},
			smuggling{fmt.Sprintf("DATA %q, octets", end), false, []string{text}, false, true},
			smuggling{fmt.Sprintf("DATA %q in the header", end), false, []string{strings.Replace(text, "\r\n\r\nbody", "\r\nX: y", 1)}, false, false})
	}
	// Where a next hop breaks a long line, what follows must not become the end.
	for _, n := range []int{510, 511, 512, 988, 989, 990, 991, 997, 998, 999, 1000, 1022, 1023, 1024, 2046, 2047, 2048, 2049, 4094, 4095, 4096, 8192, 65535, 65536} {
		text := head + "\r\n" + strings.Repeat("x", n) + ".\r\n" + smuggledMail
		all = append(all, smuggling{fmt.Sprintf("DATA, a dot after %d", n), false, []string{text}, true, false}, smuggling{fmt.Sprintf("BDAT, a dot after %d", n), true, []string{text}, true, false})
	}
	for name, text := range map[string]string{"a dot last": head + "\r\n.", "two dots last": head + "\r\n..", "a dot first": ".\r\nMAIL FROM:<x@example.com>\r\n", "dot and mail": head + "\r\n.\r\n.\r\n" + smuggledMail + ".\r\n"} {
		all = append(all, smuggling{"BDAT, " + name, true, []string{text}, false, false})
	}
	return all
}

// wanted is the message that s is, and whether it may be taken.
func (s smuggling) wanted() (eml string, ok bool) {
	eml = strings.Join(s.pieces, "")
	if !s.chunked {
		eml = strings.ReplaceAll("\n"+eml, "\n.", "\n")[1:]
	}
	ok = message.CheckLines([]byte(eml)) == nil
	end, _ := message.HeaderEnd([]byte(eml))
	if _, err := message.ParseHeader([]byte(eml[:end]), message.Limits{}); err != nil || end == 0 {
		ok = false
	}
	if !strings.HasSuffix(eml, "\r\n") {
		eml += "\r\n"
	}
	return eml, ok
}

// smuggle sends one try and gives the reply to the message.
func (x *submitter) smuggle(s smuggling, id string) string {
	x.t.Helper()
	order, want := "DATA", "354"
	if s.chunked {
		order, want = "NOOP", "250"
	}
	x.begin("", order, want)
	pieces := s.pieces
	if s.octets {
		pieces = strings.Split(strings.ReplaceAll(pieces[0], "{id}", id), "")
	}
	for i, p := range pieces {
		if p = strings.ReplaceAll(p, "{id}", id); !s.chunked {
			x.conn.Write([]byte(p)) // the server may have hung up
			continue
		}
		last := ""
		if i == len(s.pieces)-1 {
			last = " LAST"
		}
		fmt.Fprintf(x.conn, "BDAT %d%s\r\n%s", len(p), last, p)
		if r := x.end(); last != "" || !strings.HasSuffix(r, "octets received") {
			return r
		}
	}
	x.conn.Write([]byte(".\r\n"))
	return x.end()
}

// letterBox is where the mail of a next hop ends up: wait gives n messages and all that came besides.
type letterBox struct {
	relay string
	eol   string
	wait  func(n int) []testmilter.Mail
}

// behind is the letterBox of an MTA that relays to sink and has queued so many messages.
func behind(t *testing.T, sink *testmilter.Sink, addr string, queued func() int) letterBox {
	return letterBox{"smtp://" + addr, "\r\n", func(n int) (all []testmilter.Mail) {
		for range n {
			all = append(all, sink.Next(t))
		}
		for range 600 {
			if queued() == 0 {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		for len(sink.Mail) > 0 {
			all = append(all, <-sink.Mail)
		}
		return all
	}}
}

// TestSmuggling checks that no server behind Postern makes two messages of one, or receives a line end other than CR LF.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t *testing.T) letterBox{
		"postfix": func(t *testing.T) letterBox {
			sink := testmilter.StartSink(t)
			p := testmilter.StartPostfix(t, testmilter.PostfixOptions{NoMilters: true, Relay: sink.Addr, Main: "in_flow_delay = 0\n"})
			return behind(t, sink, p.Addr, func() int { return len(p.Queue("incoming")) + len(p.Queue("active")) + len(p.Queue("deferred")) })
		},
		"sendmail": func(t *testing.T) letterBox {
			sink := testmilter.StartSink(t)
			addr := testenv.FreeAddr(t)
			_, port, _ := strings.Cut(addr, ":")
			testmilter.StartSendmailWith(t, sink.Addr, addr, "FEATURE(`no_default_msa')dnl\nDAEMON_OPTIONS(`Name=MTA, Family=inet, Addr=127.0.0.1, Port="+port+"')dnl\n")
			return behind(t, sink, addr, func() int { return 0 }) // it delivers before it answers
		},
		"exim": func(t *testing.T) letterBox {
			sink := testmilter.StartSink(t)
			e := testmilter.StartExim(t, sink.Addr)
			return behind(t, sink, e.Addr, e.Queued)
		},
		"dovecot": func(t *testing.T) letterBox {
			addr, _, dir := e2e.DovecotLMTP(t)
			return letterBox{"lmtp://" + addr, "\n", func(int) (all []testmilter.Mail) {
				for _, f := range e2e.Messages(t, dir) { // they are there before it answers
					all = append(all, testmilter.Mail{To: []string{"<bob@example.net>"}, Data: f})
				}
				return all
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box := start(t)
			s := e2e.StartSite(t, box.relay, "")
			x := &submitter{t: t, s: s}
			taken := map[string]smuggling{}
			tries := smugglings()
			for i, try := range tries {
				id := fmt.Sprintf("id%d.", i)
				_, ok := try.wanted()
				switch reply := x.smuggle(try, id); {
				case ok && strings.HasPrefix(reply, "250 2"):
					taken[id] = try
				case ok || !strings.HasPrefix(reply, "554 5.6.0"):
					t.Errorf("%s: %q", try.name, reply)
				}
			}
			got := box.wait(len(taken))
			t.Logf("%d tries, %d messages, %d of them at %s", len(tries), len(taken), len(got), name)
			if len(got) != len(taken) {
				t.Errorf("%d messages came of %d", len(got), len(taken))
			}
			checkSmuggled(t, box, taken, got)
		})
	}
}

var smugglingID = regexp.MustCompile(`(?m)^Subject: (id\d+\.)\r?$`)

// checkSmuggled wants each message once, complete, and sent to its one recipient only.
func checkSmuggled(t *testing.T, box letterBox, taken map[string]smuggling, got []testmilter.Mail) {
	t.Helper()
	for _, m := range got {
		id := smugglingID.FindSubmatch(m.Data)
		if id == nil {
			t.Errorf("a message that nobody sent: %q\n%.2000q", m.To, m.Data)
			continue
		}
		try, ok := taken[string(id[1])]
		delete(taken, string(id[1]))
		if !ok || len(m.To) != 1 || !strings.Contains(m.To[0], "<bob@example.net>") {
			t.Errorf("%s: came twice or to %q", id[1], m.To)
			continue
		}
		data := m.Data
		if box.eol == "\n" {
			data = bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
		}
		if err := message.CheckLines(data); err != nil {
			t.Errorf("%s: %v in %.2000q", try.name, err, m.Data)
		}
		wanted, _ := try.wanted()
		_, body, _ := strings.Cut(wanted, "\r\n\r\n")
		_, after, _ := strings.Cut(string(data), "\r\n\r\n")
		if after != body && !(try.loose && strings.HasSuffix(after, smuggledMail)) {
			t.Errorf("%s: the body is\n%.2000q\nwas\n%.2000q", try.name, after, body)
		}
	}
	for id, try := range taken {
		t.Errorf("%s (%s) did not come", try.name, id)
	}
}
