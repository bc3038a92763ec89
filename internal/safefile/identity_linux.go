package safefile

import (
	"io/fs"
	"syscall"
)

// Identity tells a file from another one that took its name, and from itself after a write that kept size and
// modification time.
type Identity struct {
	inode   uint64
	changed int64 // ns, the inode's change time
}

// Identify returns the identity of the file that info describes.
func Identify(info fs.FileInfo) Identity {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Identity{}
	}
	return Identity{inode: stat.Ino, changed: stat.Ctim.Nano()}
}
