package bundles

import (
	"io/fs"
	"syscall"
)

// identity tells a file from another that took its place, and from itself after a change that kept size and time.
type identity struct {
	inode   uint64
	changed int64 // ns, the inode's change time
}

func identify(info fs.FileInfo) identity {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}
	}
	return identity{inode: stat.Ino, changed: stat.Ctim.Nano()}
}
