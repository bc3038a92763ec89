package smtpd

import (
	"strconv"
	"strings"
	"testing"
)

// TestMboxLine: a line of an mbox file before the header is removed. Policy sees what is relayed: header, size and body without the line.
func TestMboxLine(t *testing.T) {
	t.Parallel()
	const line, rest = "From alice@example.com Mon Nov 30 10:00:00 2026\r\n", "Subject: t\r\n\r\nhi\r\n"
	const note = `note contains {"size": input.message.size, "line": object.get(input.message, "mbox_line", "")}` + "\n"
	const check = `reject contains "differs" if {
	input.message.mbox_line != "From alice@example.com Mon Nov 30 10:00:00 2026"
}
reject contains "size" if input.message.size != 18
reject contains "body" if input.message.body.text != "hi\r\n"
reject contains "header" if input.message.header.subject != ["t"]
`
	for name, tt := range map[string]struct{ rules, want string }{
		"read and edited": {note + check + `edit contains {"op": "add_header", "name": "X-Seen", "value": "yes"}`, "Subject: t\r\nX-Seen: yes\r\n\r\nhi\r\n"},
		"read":            {note + check, rest},
		"not read":        {`reject contains "never" if input.id == ""`, rest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, rules(t, "message", tt.rules))
			s.talk(hello + envelope + "C: DATA\nS: 354\nW: " + strconv.Quote(line+rest+".\r\n") + "\nS: 250" + quit)
			got := s.hop.got()[0]
			_, body, _ := strings.Cut(string(got.body), "+0000\r\n")
			if body != tt.want {
				t.Errorf("got %q, want %q", body, tt.want)
			}
		})
	}
	s := start(t, rules(t, "message", check))
	s.talk(hello + envelope + "C: DATA\nS: 354\nW: " + strconv.Quote(line+line+rest+".\r\n") + "\nS: 554 5.6.0" + quit)
	s.talk(hello + envelope + "C: DATA\nS: 354\nW: " + strconv.Quote("From alice\r\n"+rest+".\r\n") + "\nS: 554 5.6.0" + quit)
	s.hop.want()
}
