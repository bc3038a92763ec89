package mta

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/internal/testmilter"
)

// TestSlowUpload uploads a message for 15 s through a real Postfix that waits for a command for 5 s only, as next hop alone and as the first
// of two. It is delivered once, by DATA and by BDAT, small and large, and the first next hop stays the first. From the shared cases
// people/upload 01 and 02.
func TestSlowUpload(t *testing.T) {
	for _, two := range []bool{false, true} {
		t.Run(fmt.Sprintf("two %v", two), func(t *testing.T) {
			t.Parallel()
			sink, other := testmilter.StartSink(t), testmilter.StartSink(t)
			mta := testmilter.StartPostfix(t, testmilter.PostfixOptions{NoMilters: true, Relay: sink.Addr, Main: "smtpd_timeout = 5s\n"})
			relay := "smtp://" + mta.Addr
			if two {
				relay += "', 'smtp://" + other.Addr
			}
			s := e2e.NewSite(t, "TO", "")
			file := s.Dir + "/postern.yaml"
			testenv.Write(t, file, strings.Replace(testenv.Read(t, file), "'TO'", "['"+relay+"']", 1))
			s.Start(t)
			var done []chan string
			for _, chunks := range []bool{false, true} {
				for _, size := range []int{1_000, 400_000} { // in memory, and in a file
					c, reply := s.Client(t), make(chan string, 1)
					done = append(done, reply)
					c.Say("MAIL FROM:<" + e2e.Address + ">")
					if r := c.Say("RCPT TO:<bob@example.net>"); r[:3] != "250" {
						t.Fatal(r)
					}
					go func() { reply <- upload(c, size, chunks) }()
				}
			}
			for _, reply := range done {
				if r := <-reply; !strings.HasPrefix(r, "250") {
					t.Error(r)
				}
			}
			if r := s.Client(t).Send("quick", 100); !strings.HasPrefix(r, "250") {
				t.Error(r)
			}
			for range len(done) + 1 {
				sink.Next(t)
			}
			time.Sleep(time.Second) // for a message too many
			if len(sink.Mail)+len(other.Mail) != 0 {
				t.Errorf("%d messages too many, %d at the second next hop", len(sink.Mail), len(other.Mail))
			}
			m := s.Metrics(t)
			hop := `{hop="smtp://` + mta.Addr + `"}`
			if m["postern_relay_restarts_total"+hop] != float64(len(done)) || two && m["postern_relay_hop_up"+hop] != 1 {
				t.Errorf("counted %v restarts, up %v", m["postern_relay_restarts_total"+hop], m["postern_relay_hop_up"+hop])
			}
		})
	}
}

// upload sends a message of about size octets at a steady pace for 15 s, and returns the reply to it.
func upload(c *e2e.Client, size int, chunks bool) string {
	const steps = 30
	line := strings.Repeat("x", 62) + "\r\n"
	write := func(text string) {
		if chunks {
			text = fmt.Sprintf("BDAT %d\r\n%s", len(text), text)
		}
		_, _ = io.WriteString(c.Conn, text)
	}
	if !chunks {
		c.Say("DATA")
	}
	write("From: " + e2e.Address + "\r\nTo: bob@example.net\r\nSubject: slow\r\n\r\n")
	for range steps {
		time.Sleep(15 * time.Second / steps)
		write(strings.Repeat(line, size/64/steps+1))
	}
	if !chunks {
		return c.Say(".")
	}
	_, _ = io.WriteString(c.Conn, "BDAT 0 LAST\r\n")
	reply := ""
	for range steps + 2 {
		reply = c.Say("NOOP") // the reply to the next chunk; those to NOOP come last
	}
	return reply
}
