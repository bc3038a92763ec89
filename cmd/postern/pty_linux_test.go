package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/internal/testenv"
)

// TestPasswdTerminal types a password twice on a real terminal, which must not show it.
func TestPasswdTerminal(t *testing.T) {
	for name, c := range map[string]struct {
		second string
		code   int
		want   string
	}{
		"the same":  {"hunter2", exitcode.OK, `  alice: "$argon2id$`},
		"different": {"hunter3", exitcode.Failed, "the two passwords differ"},
	} {
		t.Run(name, func(t *testing.T) {
			person, terminal := testenv.Terminal(t)
			var stdout bytes.Buffer
			code := make(chan int, 1)
			go func() { code <- run([]string{"passwd", "alice"}, terminal, &stdout, terminal) }()
			seen := until(t, person, "Password for alice: ")
			// The prompt comes after the echo is off only if the program asks for it before it prints; typing waits for that.
			awaitNoEcho(t, terminal)
			fmt.Fprint(person, "hunter2\n")
			seen += until(t, person, "Once more: ")
			awaitNoEcho(t, terminal)
			fmt.Fprint(person, c.second+"\n")
			select {
			case got := <-code:
				if got != c.code {
					t.Errorf("code %d, want %d", got, c.code)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("it still waits")
			}
			fmt.Fprint(terminal, "\x04")
			seen += until(t, person, "\x04")
			if strings.Contains(seen, "hunter") {
				t.Errorf("the terminal shows the password: %q", seen)
			}
			if !strings.Contains(seen+stdout.String(), c.want) {
				t.Errorf("printed %q, %q; want %q", seen, stdout.String(), c.want)
			}
		})
	}
}

// until reads what the terminal shows up to text.
func until(t *testing.T, person *os.File, text string) string {
	t.Helper()
	found := make(chan string, 1)
	go func() {
		var seen []byte
		buf := make([]byte, 256)
		for !bytes.Contains(seen, []byte(text)) {
			n, err := person.Read(buf)
			if err != nil {
				break
			}
			seen = append(seen, buf[:n]...)
		}
		found <- string(seen)
	}()
	select {
	case s := <-found:
		return s
	case <-time.After(30 * time.Second):
		t.Fatalf("the terminal never shows %q", text)
		return ""
	}
}

func awaitNoEcho(t *testing.T, terminal *os.File) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		if state.Lflag&unix.ECHO == 0 {
			return
		}
	}
	t.Fatal("the echo is never turned off")
}
