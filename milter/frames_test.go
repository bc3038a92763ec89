package milter

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-milter"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/testmilter"
)

// offer is a negotiation frame: version 6, everything.
func offer() string {
	b := binary.BigEndian.AppendUint32(nil, 6)
	b = binary.BigEndian.AppendUint32(b, testmilter.AllActions)
	b = binary.BigEndian.AppendUint32(b, testmilter.AllProtocol)
	return frameOf('O', string(b))
}

func frameOf(code byte, data string) string { return string(appendFrame(nil, code, data)) }

const (
	goodConnect = "client.example.net\x004\x9c\x40192.0.2.1\x00"
	goodMail    = "<a@example.com>\x00"
)

// malformed are conversations of which the last frame breaks the protocol; open ones are inside a transaction.
func malformed() map[string]string {
	start := offer() + frameOf('C', goodConnect) + frameOf('H', "client\x00")
	open := start + frameOf('M', goodMail) + frameOf('R', "<b@example.net>\x00")
	m := map[string]string{
		"zero length":              offer() + "\x00\x00\x00\x00",
		"longest length":           offer() + "\xff\xff\xff\xff",
		"longer than a frame":      offer() + "\x00\x10\x00\x01B",
		"cut in its length":        offer() + "\x00\x00",
		"cut after its length":     offer() + "\x00\x00\x00\x05",
		"cut in its data":          offer() + "\x00\x00\x00\x05Cab",
		"unknown command":          start + frameOf('z', ""),
		"command NUL":              start + frameOf(0, ""),
		"CONNECT first":            frameOf('C', goodConnect),
		"offered twice":            offer() + offer(),
		"old version":              frameOf('O', "\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"),
		"CONNECT in transaction":   open + frameOf('C', goodConnect),
		"MAIL without NUL":         start + frameOf('M', "<a@example.com>"),
		"MAIL empty":               start + frameOf('M', ""),
		"MAIL with empty path":     start + frameOf('M', "\x00"),
		"MAIL parameter, no NUL":   start + frameOf('M', goodMail+"SIZE=1"),
		"MAIL too many parameters": start + frameOf('M', goodMail+strings.Repeat("A=1\x00", 64)),
		"RCPT without MAIL":        start + frameOf('R', "<b@example.net>\x00"),
		"RCPT without NUL":         open + frameOf('R', "<b@example.net>"),
		"header without MAIL":      start + frameOf('L', "Subject\x00 x\x00"),
		"header name only":         open + frameOf('L', "Subject\x00"),
		"header value without NUL": open + frameOf('L', "Subject\x00 x"),
		"header of three":          open + frameOf('L', "Subject\x00 x\x00y\x00"),
		"header empty":             open + frameOf('L', ""),
		"body without MAIL":        start + frameOf('B', "x"),
		"EOH without MAIL":         start + frameOf('N', ""),
		"EOH with data":            open + frameOf('N', "x"),
		"EOM without MAIL":         start + frameOf('E', ""),
		"ABORT with data":          open + frameOf('A', "x"),
		"QUIT with data":           open + frameOf('Q', "x"),
		"DATA with data":           open + frameOf('T', "x"),
		"HELO without NUL":         offer() + frameOf('H', "client"),
		"HELO of two":              offer() + frameOf('H', "a\x00b\x00"),
		"HELO empty":               offer() + frameOf('H', ""),
		"UNKNOWN without NUL":      start + frameOf('U', "XFOO"),
		"macros without stage":     start + frameOf('D', ""),
		"macro without NUL":        start + frameOf('D', "Mi\x00Q1"),
		"macro without value":      start + frameOf('D', "Mi\x00"),
		"too many macros":          start + frameOf('D', "M"+strings.Repeat("a\x00b\x00", 300)),
		"CONNECT without family":   offer() + frameOf('C', "client\x00"),
		"CONNECT without NUL":      offer() + frameOf('C', "client"),
		"CONNECT unknown family":   offer() + frameOf('C', "client\x009\x00\x19a\x00"),
		"CONNECT cut in port":      offer() + frameOf('C', "client\x004\x19"),
		"CONNECT without address":  offer() + frameOf('C', "client\x004\x00\x19"),
		"CONNECT address no NUL":   offer() + frameOf('C', "client\x004\x00\x19192.0.2.1"),
		"CONNECT 'U' and more":     offer() + frameOf('C', "client\x00U\x00\x19"),
	}
	for n := range 12 {
		m["offer of "+string(rune('a'+n))] = frameOf('O', strings.Repeat("\x00", n))
	}
	m["offer of 13"] = frameOf('O', "\x00\x00\x00\x06"+strings.Repeat("\x00", 9))
	return m
}

func TestMalformedFrames(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"message": "note contains input"}), nil)
	n := 0.0
	for name, text := range malformed() {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(name, "cut") {
				_ = c.(*net.TCPConn).CloseWrite()
			} else {
				n++
			}
			answers(t, hungUp(t, c))
		})
	}
	if got := r.gauge(t, "postern_milter_protocol_errors_total"); got != n {
		t.Errorf("%v protocol errors counted, want %v", got, n)
	}
	if strings.Contains(r.logs.String(), "panic") {
		t.Error("a panic was logged")
	}
	// And the milter goes on.
	m := r.dial(t, testmilter.Options{})
	greet(t, m)
	go1(t)(m.Mail("<a@example.com>"))
}

// answers checks that out is whole frames, none of which accepts a message.
func answers(t testing.TB, out []byte) {
	t.Helper()
	r := bufio.NewReader(bytes.NewReader(out))
	var buf []byte
	for {
		cmd, data, err := readFrame(r, &buf)
		if errors.Is(err, io.EOF) && cmd == 0 {
			return
		}
		if err != nil {
			t.Fatalf("answers %q: %v", out, err)
		}
		if cmd == 'a' {
			t.Fatalf("accepted: %q %q", out, data)
		}
	}
}

// frameStates are what a fuzzer's frames come after: nothing, and each place in a connection where the next frame means something else.
func frameStates() []string {
	start := offer() + frameOf('D', "Cj\x00mta\x00") + frameOf('C', goodConnect)
	helo := start + frameOf('H', "x\x00")
	open := helo + frameOf('D', "Mi\x00Q1\x00{auth_authen}\x00alice\x00") + frameOf('M', goodMail)
	rcpt := open + frameOf('R', "<b@example.net>\x00")
	header := rcpt + frameOf('T', "") + frameOf('L', "Subject\x00 x\x00")
	body := header + frameOf('N', "") + frameOf('B', "body\r\n")
	return []string{"", offer(), start, helo, open, rcpt, header, body, body + frameOf('E', ""), rcpt + frameOf('A', ""), body + frameOf('E', "") + frameOf('K', "")}
}

// FuzzFrames feeds frames to a connection under the real library, after several beginnings. Whatever comes, the connection ends,
// nothing panics, what was answered is whole frames, none accepts, and a message is changed only where one has ended; and it is
// the same whether the octets come at once or in pieces.
func FuzzFrames(f *testing.F) {
	for _, text := range malformed() {
		f.Add(byte(0), []byte(text))
	}
	states := frameStates()
	for i := range states {
		for _, next := range []string{frameOf('E', "tail\r\n") + frameOf('U', "XFOO\x00"), frameOf('E', "") + frameOf('K', "") + frameOf('C', "x\x00U") + frameOf('Q', ""),
			frameOf('A', "") + frameOf('M', "<>\x00") + frameOf('M', goodMail), frameOf('R', "<bad@example.net>\x00") + frameOf('L', "A\x00b\x00") + frameOf('N', "") + frameOf('E', "")} {
			f.Add(byte(i), []byte(next))
		}
	}
	p := rego(f, "1", map[string]string{
		"mail": "note contains input.envelope", "rcpt": `reject contains "x" if input.recipient.local == "bad"`,
		"message": "note contains input\n" + `edit contains {"op": "insert_header", "name": "X-A", "value": "1"}` + "\n" + `edit contains {"op": "remove_header", "name": "subject"}`})
	eng := &engine.Engine{}
	eng.Swap(p)
	logged := &logs{}
	s := &Server{Engine: eng, Log: testLog(logged), SpoolDir: f.TempDir(), Limits: Limits{BodyBytes: 4096, HeaderBytes: 4096, HeaderFields: 20, Recipients: 5}}
	path := filepath.Join(f.TempDir(), "s")
	ln, err := Listen("unix:"+path, 0, "")
	if err != nil {
		f.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), ln, ListenerConfig{Name: "fuzz"}) }()
	f.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := errors.Join(s.Shutdown(ctx), <-served); err != nil {
			f.Errorf("the milter did not end: %v", err)
		}
	})
	f.Fuzz(func(t *testing.T, state byte, data []byte) {
		text := append([]byte(states[int(state)%len(states)]), data...)
		whole, ok := dialogueOf(t, path, text)
		answers(t, whole)
		if ended, changed := count(text, 'E'), count(whole, opInsertHead); changed > ended {
			t.Fatalf("%d messages were changed, %d ended: %q", changed, ended, whole)
		}
		if n := len(text); n > 3 && n < 4096 {
			third := n / 3
			if pieces, cut := dialogueOf(t, path, text[:1], text[1:third+1], text[third+1:2*third+1], text[2*third+1:]); ok && cut && !bytes.Equal(whole, pieces) {
				t.Fatalf("%q is answered %q, in pieces %q", text, whole, pieces)
			}
		}
		if log := logged.take(); strings.Contains(log, "panic") {
			t.Fatal(log)
		}
	})
}

// dialogueOf writes pieces, and returns what was answered, and whether that is all of it: a reset may cut an answer.
func dialogueOf(t *testing.T, path string, pieces ...[]byte) (out []byte, whole bool) {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		_ = c.SetWriteDeadline(time.Now().Add(20 * time.Second))
		for _, p := range pieces {
			_, _ = c.Write(p) // fails where the milter has hung up
		}
		_ = c.(*net.UnixConn).CloseWrite()
	}()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	out, err = io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the connection did not end")
	}
	<-wrote
	if err != nil {
		return nil, false
	}
	return out, true
}

// count the whole frames of a command.
func count(b []byte, cmd byte) (n int) {
	for size := frameSize(b); size > 0 && size <= len(b) && size > frameHeadSize; size = frameSize(b) {
		if b[frameHeadSize] == cmd {
			n++
		}
		b = b[size:]
	}
	return n
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	ln, err := Listen("unix:"+path, 0o600, "0")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := Listen("unix:"+path, 0, ""); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a socket in use was taken: %v", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // as a killed process leaves it
	_ = ln.Close()
	ln, err = Listen("unix:"+path, 0, "")
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o660 {
		t.Errorf("default mode %v, want 0660", info.Mode())
	}
	_ = ln.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for spec, want := range map[string]string{
		"unix:" + file: "not a socket", "127.0.0.1:25": "write \"unix:", "unix:": "write \"unix:", "": "write \"unix:", "tcp:nowhere": "missing port",
		"unix:" + path + "2": "",
	} {
		group := ""
		if want == "" {
			group, want = "no-such-group-here", "no-such-group-here"
		}
		if _, err := Listen(spec, 0, group); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Listen(%q): %v; want %q in it", spec, err, want)
		}
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Error("a file was replaced")
	}
}

func TestAgree(t *testing.T) {
	const every = milter.OptAction(testmilter.AllActions)
	all := terms{version: 6, actions: every, protocol: testmilter.AllProtocol}
	edits := engine.Needs{Message: true, Header: true, Edits: []string{"add_header", "remove_header"}}
	for _, c := range []struct {
		name    string
		offer   terms
		needs   engine.Needs
		actions milter.OptAction
		has     milter.OptProtocol
		lacks   milter.OptProtocol
		missing string
	}{
		{"no edits", all, engine.Needs{Message: true, Header: true}, milter.OptSetSymList, milter.OptNoBody | milter.OptNoEOHReply | milter.OptNoMailReply | milter.OptNoRcptReply | milter.OptHeaderLeadingSpace, milter.OptSkip, ""},
		{"edits", all, edits, milter.OptSetSymList | milter.OptAddHeader | milter.OptChangeHeader, milter.OptNoBody | milter.OptNoEOHReply, 0, ""},
		{"edits, and the body comes", terms{6, every, testmilter.AllProtocol &^ testmilter.NoBody}, edits, milter.OptSetSymList | milter.OptAddHeader | milter.OptChangeHeader, milter.OptNoBodyReply, milter.OptNoEOHReply, ""},
		{"withheld", terms{6, milter.OptAddHeader, 0}, edits, milter.OptAddHeader, 0, milter.OptNoBody, "remove_header"},
		{"quarantine withheld", terms{6, 0, 0}, engine.Needs{Message: true, Quarantine: true}, 0, 0, 0, "quarantine"},
		{"body", all, engine.Needs{Message: true, Body: true}, milter.OptSetSymList, milter.OptSkip | milter.OptNoEOHReply, milter.OptNoBody | milter.OptNoBodyReply, ""},
		{"size", all, engine.Needs{Message: true, Size: true, Body: true}, milter.OptSetSymList, milter.OptNoBodyReply | milter.OptNoEOHReply, milter.OptNoBody | milter.OptSkip, ""},
		{"stages", all, engine.Needs{Connect: true, Mail: true, Rcpt: true}, milter.OptSetSymList, milter.OptNoEOHReply, milter.OptNoConnReply | milter.OptNoMailReply | milter.OptNoRcptReply, ""},
		{"version 2", terms{2, 0x3f, 0x7f}, edits, milter.OptAddHeader | milter.OptChangeHeader, milter.OptNoBody, milter.OptNoHeaderReply, ""},
		{"newer", terms{99, every, testmilter.AllProtocol}, edits, milter.OptSetSymList | milter.OptAddHeader | milter.OptChangeHeader, 0, 0, ""},
	} {
		got, missing := agree(c.offer, c.needs)
		if got.version != min(c.offer.version, 6) || got.actions != c.actions || got.protocol&c.has != c.has || got.protocol&c.lacks != 0 || got.protocol&^c.offer.protocol != 0 {
			t.Errorf("%s: version %d, actions %#x, protocol %#x; want actions %#x, of protocol %#x and none of %#x", c.name, got.version, got.actions, got.protocol, c.actions, c.has, c.lacks)
		}
		if strings.Join(missing, " ") != c.missing {
			t.Errorf("%s: missing %v, want %q", c.name, missing, c.missing)
		}
	}
}

// frameSize is the size of the whole frame at the start of b, or 0 while that cannot be told yet.
func frameSize(b []byte) int {
	if len(b) < frameHeadSize {
		return 0
	}
	return frameHeadSize + int(binary.BigEndian.Uint32(b))
}
