//go:build !linux

package bundles

import "io/fs"

// identity is known on Linux only; elsewhere size and modification time must do.
type identity struct{}

func identify(fs.FileInfo) identity { return identity{} }
