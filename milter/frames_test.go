package milter

import (
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

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/testmilter"
)

func TestMalformedFrames(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"message": "note contains input"}), nil)
	n := 0.0
	for name, text := range testmilter.Malformed() {
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
	for rest := out; len(rest) > 0; {
		n := frameSize(rest)
		if n <= headSize || n > len(rest) {
			t.Fatalf("answers %q are not whole frames", out)
		}
		if rest[headSize] == 'a' {
			t.Fatalf("accepted: %q", rest[:n])
		}
		rest = rest[n:]
	}
}

// FuzzFrames sends frames over a connection with the real library, after several beginnings. For all input the connection ends,
// nothing panics, the answers are whole frames, none accepts, and a message is changed only if one has ended. The answers are
// the same whether the octets come at once or in pieces.
func FuzzFrames(f *testing.F) {
	for _, text := range testmilter.Malformed() {
		f.Add(byte(0), []byte(text))
	}
	states := testmilter.FrameStates()
	for i := range states {
		for _, next := range []string{testmilter.Frame('E', "tail\r\n") + testmilter.Frame('U', "XFOO\x00"), testmilter.Frame('E', "") + testmilter.Frame('K', "") + testmilter.Frame('C', "x\x00U") + testmilter.Frame('Q', ""),
			testmilter.Frame('A', "") + testmilter.Frame('M', "<>\x00") + testmilter.Frame('M', testmilter.GoodMail), testmilter.Frame('R', "<bad@example.net>\x00") + testmilter.Frame('L', "A\x00b\x00") + testmilter.Frame('N', "") + testmilter.Frame('E', "")} {
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
		if ended, changed := count(text, 'E'), count(whole, 'i'); changed > ended {
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

// dialogueOf writes pieces and returns the answers. whole is false if a reset may have cut them.
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
			_, _ = c.Write(p) // fails if the milter has closed
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

// count counts the whole frames of a command.
func count(b []byte, cmd byte) (n int) {
	for size := frameSize(b); size > 0 && size <= len(b) && size > headSize; size = frameSize(b) {
		if b[headSize] == cmd {
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

// headSize is the number of octets of a frame's length field.
const headSize = 4

// frameSize is the size of the whole frame at the start of b, or 0 if its length field is not complete.
func frameSize(b []byte) int {
	if len(b) < headSize {
		return 0
	}
	return headSize + int(binary.BigEndian.Uint32(b))
}
