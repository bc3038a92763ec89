package systemd

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Manager reports the state of the program to the service manager (sd_notify(3)). Its methods do nothing if there is none.
type Manager struct {
	Log *slog.Logger // for what could not be reported; may be nil
}

// Watchdog returns how often to call Alive, which is twice as often as the manager wants. It returns 0 without a watchdog.
func (m Manager) Watchdog() time.Duration {
	every, err := daemon.SdWatchdogEnabled(true)
	if err != nil && m.Log != nil {
		m.Log.Warn("the watchdog of the service manager is not served", "error", err)
	}
	return every / 2
}

// Ready reports that the sockets are open and mail is accepted. status is a text for people.
func (m Manager) Ready(status string) { m.notify(false, daemon.SdNotifyReady+"\nSTATUS="+status) }

// Reloading reports that the program reloads. Call Ready when it has done that.
func (m Manager) Reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return
	}
	m.notify(false, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

// Stopping reports that the program stops. It must be the last call.
func (m Manager) Stopping() {
	m.notify(true, daemon.SdNotifyStopping+"\nSTATUS=letting transactions end")
}

// Alive tells the watchdog that the program runs.
func (m Manager) Alive() { m.notify(false, daemon.SdNotifyWatchdog) }

func (m Manager) notify(last bool, state string) {
	if _, err := daemon.SdNotify(last, state); err != nil && m.Log != nil {
		m.Log.Warn("the state could not be reported to the service manager", "error", err)
	}
}
