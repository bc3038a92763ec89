package relay

import (
	"os"
	"path/filepath"
	"time"
)

// leftoverAge is after how long a file in tmp is nobody's any more: whoever wrote it was killed before the message was whole,
// and its sender has not been told that it was taken. Maildir's own rule has 36 hours.
const leftoverAge = 36 * time.Hour

// tidy removes such files, when the Maildir is opened and then once a day, with a delivery. What cannot be removed stays.
func (m *Maildir) tidy() {
	now := m.o.Now()
	due := m.tidied.Load()
	if now.Unix() < due || !m.tidied.CompareAndSwap(due, now.Add(24*time.Hour).Unix()) {
		return
	}
	entries, err := os.ReadDir(m.path("tmp", ""))
	if err != nil {
		return // a delivery will say so
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || now.Sub(info.ModTime()) < leftoverAge {
			continue
		}
		file := filepath.Join(m.path("tmp", ""), e.Name())
		if err := os.Remove(file); err != nil {
			m.o.Log.Warn("a file that was left behind cannot be removed", "file", file, "error", err)
			continue
		}
		m.o.Log.Info("a file was removed that a delivery left behind when the program was killed", "file", file, "octets", info.Size())
	}
}
