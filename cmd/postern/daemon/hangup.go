package daemon

import (
	"os"
	"os/signal"
	"syscall"
)

// hangUp tells a terminal that was closed from a request to reload. Both are SIGHUP.
//
// A process that was started from a terminal has it as its controlling terminal, and can open it as /dev/tty. When it is closed, the kernel
// takes it away before it sends SIGHUP, so that /dev/tty cannot be opened any more (ENXIO). Under systemd, after setsid and in most
// containers there was no terminal; under nohup SIGHUP was ignored. There, SIGHUP is always a request to reload.
type hangUp struct{ terminal bool }

// newHangUp looks whether there is a terminal to lose. It must be called before the process asks for SIGHUP, which ends nohup's setting.
func newHangUp() hangUp { return hangUp{!signal.Ignored(syscall.SIGHUP) && hasTerminal()} }

// happened reports whether the terminal was there at the start and is gone.
func (h hangUp) happened() bool { return h.terminal && !hasTerminal() }

// hasTerminal reports whether the process has a controlling terminal.
func hasTerminal() bool {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}
