package safefile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Bounds of what a fingerprint reads and visits.
const (
	// maxHashed is the size up to which a file counts by its content, in bytes. A larger one counts by what the file system
	// says of it, because it would be read at every poll.
	maxHashed  = 1 << 20
	maxEntries = 50_000 // names in directories, all together
)

// Fingerprint returns a text that changes when the content of one of the files does, even if its size and time stay the same.
// A path may be a directory, or missing. Take it before the files are read: a change while they are read then leads to
// another fingerprint.
func Fingerprint(paths ...string) string { return fingerprint(paths, nil) }

func fingerprint(paths, dotfiles []string) string {
	sum := sha256.New()
	entries := 0
	for _, path := range paths {
		real, err := filepath.EvalSymlinks(path)
		fmt.Fprintf(sum, "%q %q\n", path, problem(err))
		if err != nil {
			continue
		}
		filepath.WalkDir(real, func(name string, entry fs.DirEntry, err error) error {
			entries++
			switch {
			case err != nil || entries > maxEntries:
				fmt.Fprintf(sum, "%q %q\n", name, problem(err))
			case name != real && !counts(entry.Name(), dotfiles):
				if entry.IsDir() {
					return fs.SkipDir
				}
			case !entry.IsDir():
				addFile(sum, name)
			}
			if entries > maxEntries {
				return fs.SkipAll
			}
			return nil
		})
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// addFile adds a file, or where a symbolic link leads.
func addFile(sum hash.Hash, name string) {
	info, err := os.Stat(name)
	if err != nil || info.IsDir() {
		link, _ := os.Readlink(name)
		fmt.Fprintf(sum, "%q %q\n", name, link)
		return
	}
	if info.Mode().IsRegular() && info.Size() <= maxHashed {
		data, err := ReadFile(name, maxHashed)
		if err == nil {
			fmt.Fprintf(sum, "%q %x\n", name, sha256.Sum256(data))
			return
		}
		fmt.Fprintf(sum, "%q %q\n", name, problem(err))
	}
	fmt.Fprintf(sum, "%q %d %d %v\n", name, info.Size(), info.ModTime().UnixNano(), Identify(info))
}

// counts reports whether a name in a watched directory matters: editors keep their own files under names that begin with
// a dot. ..data is the link that Kubernetes swaps when a volume changes.
func counts(name string, dotfiles []string) bool {
	return !strings.HasPrefix(name, ".") || name == "..data" || slices.Contains(dotfiles, name)
}

func problem(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
