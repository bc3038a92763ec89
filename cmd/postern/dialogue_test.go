package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdSMTP speaks a dialogue: `smtp ADDR FILE`, or `smtp tls:ADDR FILE` with TLS from the start. Lines of FILE are
//
//	C: line      send it
//	S: 250 text  want a reply that begins with the code and contains the text
//	TLS          shake hands
//	DATA file    send a message file, dot-stuffed, with its end
//	EOF          want the connection closed
//	SH command   run a shell command while the connection is open
//	ALSO file    speak another dialogue over another connection while this one is open
func cmdSMTP(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: smtp [tls:]ADDR FILE")
	}
	addr, implicit := strings.CutPrefix(args[0], "tls:")
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	ts.Check(err)
	d := &scriptConn{ts: ts, addr: args[0], conn: conn}
	defer func() { d.conn.Close() }()
	conn.SetDeadline(time.Now().Add(time.Minute))
	if implicit {
		d.handshake()
	}
	d.r = bufio.NewReader(d.conn)
	for n, line := range strings.Split(ts.ReadFile(args[1]), "\n") {
		if err := d.line(line); err != nil {
			ts.Fatalf("%s:%d: %s: %v", args[1], n+1, line, err)
		}
	}
}

type scriptConn struct {
	ts   *testscript.TestScript
	addr string
	conn net.Conn
	r    *bufio.Reader
}

func (d *scriptConn) handshake() {
	d.conn = tls.Client(d.conn, &tls.Config{InsecureSkipVerify: true})
	d.r = bufio.NewReader(d.conn)
}

func (d *scriptConn) line(line string) (err error) {
	kind, rest, _ := strings.Cut(line, " ")
	switch kind {
	case "", "#":
	case "C:":
		_, err = io.WriteString(d.conn, rest+"\r\n")
	case "S:":
		return expect(d.r, rest)
	case "TLS":
		d.handshake()
	case "DATA":
		_, err = d.conn.Write(stuffed(d.ts.ReadFile(rest)))
	case "EOF":
		if _, err := d.r.ReadByte(); err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
			return fmt.Errorf("wanted the connection closed, got %v", err)
		}
	case "SH":
		cmd := exec.Command("sh", "-c", rest)
		cmd.Dir = d.ts.MkAbs(".")
		cmd.Env = os.Environ()
		for _, name := range []string{"SERVER", "ADDR0", "ADDR1"} {
			cmd.Env = append(cmd.Env, name+"="+d.ts.Getenv(name))
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	case "ALSO":
		cmdSMTP(d.ts, false, []string{d.addr, rest})
	default:
		return errors.New("unknown line")
	}
	return err
}

func expect(r *bufio.Reader, want string) error {
	var reply string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		reply += line
		if len(line) < 4 || line[3] != '-' {
			break
		}
	}
	code, text, _ := strings.Cut(want, " ")
	if !strings.HasPrefix(reply, code) || !strings.Contains(reply, text) {
		return fmt.Errorf("got %q", reply)
	}
	return nil
}

// stuffed is a message as it goes over the wire after 354, its end included.
func stuffed(text string) []byte {
	var b bytes.Buffer
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, ".") {
			b.WriteByte('.')
		}
		b.WriteString(strings.TrimRight(line, "\r\n") + "\r\n")
	}
	b.WriteString(".\r\n")
	return b.Bytes()
}

// cmdUntil waits until FILE has PATTERN in it, COUNT times where that is given: `until FILE PATTERN [COUNT]`.
func cmdUntil(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: until FILE PATTERN [COUNT]")
	}
	count := 1
	if len(args) > 2 {
		_, err := fmt.Sscan(args[2], &count)
		ts.Check(err)
	}
	pattern := regexp.MustCompile(args[1])
	var text []byte
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		text, _ = os.ReadFile(ts.MkAbs(args[0]))
		if len(pattern.FindAllIndex(text, count)) == count {
			return
		}
	}
	ts.Fatalf("%s never had %q %d times:\n%s", args[0], args[1], count, text)
}
