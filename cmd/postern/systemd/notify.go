package systemd

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Manager hears of our states. Its methods do nothing where nobody wants to know.
type Manager struct {
	// Log hears of what the manager could not be told; nil: nobody does.
	Log *slog.Logger
}

// Watchdog is how often Alive must be called, with room to spare; 0: nobody watches.
func (m Manager) Watchdog() time.Duration {
	every, err := daemon.SdWatchdogEnabled(true)
	if err != nil && m.Log != nil {
		m.Log.Warn("the service manager's watchdog is not served", "error", err)
	}
	return every / 2
}

// Ready: sockets are open and mail is taken. status is for people.
func (m Manager) Ready(status string) { m.say(false, daemon.SdNotifyReady+"\nSTATUS="+status) }

// Reloading until Ready is called.
func (m Manager) Reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return
	}
	m.say(false, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

// Stopping: nothing more will be said.
func (m Manager) Stopping() { m.say(true, daemon.SdNotifyStopping+"\nSTATUS=letting transactions end") }

// Alive feeds the watchdog.
func (m Manager) Alive() { m.say(false, daemon.SdNotifyWatchdog) }

func (m Manager) say(last bool, state string) {
	if _, err := daemon.SdNotify(last, state); err != nil && m.Log != nil {
		m.Log.Warn("the service manager could not be told", "error", err)
	}
}
