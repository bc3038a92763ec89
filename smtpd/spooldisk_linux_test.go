package smtpd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestSpoolCannotBeRead: the disk fails between the data and the decision, or the file is cut short. That is no fault of the
// message, so the reply is 451, and no next hop gets a part of it.
func TestSpoolCannotBeRead(t *testing.T) {
	big := "Subject: x\r\n\r\n" + strings.Repeat(strings.Repeat("x", 998)+"\r\n", 300)
	reads := map[bool]string{true: `note contains "h" if input.message.header.subject`, false: `note contains "n"`}
	for name, spoil := range map[string]func(t *testing.T, fd int){
		"an error": func(t *testing.T, fd int) { // a pipe in its place cannot be read at an offset
			var p [2]int
			if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
				t.Error(err)
			}
			if err := syscall.Dup3(p[0], fd, syscall.O_CLOEXEC); err != nil {
				t.Error(err)
			}
			syscall.Close(p[0])
			syscall.Close(p[1])
		},
		"cut short": func(t *testing.T, fd int) {
			if err := syscall.Ftruncate(fd, 100_000); err != nil {
				t.Error(err)
			}
		},
	} {
		for header, rule := range reads {
			t.Run(fmt.Sprintf("%s, header read: %v", name, header), func(t *testing.T) {
				armed := atomic.Bool{}
				s := start(t, limits(func(l *Limits) { l.SpoolMemory = 64 << 10 }),
					hop(func(h *recorder) { h.discards, h.short = true, true }), rules(t, "message", rule),
					func(srv *Server, _ *Listener) {
						srv.Clock = func() time.Time { // read after the message has arrived and before it is parsed
							if fd := spoolFile(srv.SpoolDir); armed.Load() && fd > 0 {
								armed.Store(false)
								spoil(t, fd)
							}
							return time.Now()
						}
					})
				c := s.talk(hello + envelope + "C: DATA\nS: 354")
				armed.Store(true)
				c.split(big+".\r\n", 1<<20)
				c.talk("S: 451 4.")
				if armed.Load() {
					t.Error("the spool file was not found")
				}
				c.talk(envelope[1:] + message1 + quit)
				if got := s.hop.got(); len(got) != 1 {
					t.Errorf("%d messages at the next hop", len(got))
				}
			})
		}
	}
}

// spoolFile is the descriptor of the unlinked file in dir; 0: there is none.
func spoolFile(dir string) int {
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, dir+"/postern-spool-") {
			n := 0
			for _, c := range filepath.Base(fd) {
				n = 10*n + int(c-'0')
			}
			return n
		}
	}
	return 0
}
