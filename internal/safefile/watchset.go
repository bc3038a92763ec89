package safefile

import (
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// watchSet watches a number of paths: the directories that hold them, the directory of every symbolic link on the way to
// them, the nearest existing parent of a path that does not exist yet, and all directories below.
type watchSet struct {
	watcher  *fsnotify.Watcher // nil when the system grants none; polling has to do
	names    map[string]bool   // single names that matter
	trees    map[string]bool   // directories all of whose names matter, dotfiles apart
	dotfiles []string
}

// maxWatches bounds the directories of one set.
const maxWatches = 20_000

func newWatchSet(paths, dotfiles []string, log *slog.Logger) *watchSet {
	s := &watchSet{names: map[string]bool{}, trees: map[string]bool{}, dotfiles: dotfiles}
	var err error
	if len(paths) == 0 {
		return s
	}
	if s.watcher, err = fsnotify.NewWatcher(); err != nil {
		log.Warn("changes of files are found by polling only", "error", err)
		return s
	}
	for _, path := range paths {
		full, err := filepath.Abs(path)
		if err == nil {
			err = s.follow(full)
		}
		if err != nil {
			log.Warn("some changes of files are found by polling only", "path", path, "error", err)
		}
	}
	return s
}

// Close ends the watches and their goroutine. A nil set has none.
func (s *watchSet) Close() {
	if s != nil && s.watcher != nil {
		s.watcher.Close()
	}
}

// Events returns the channel of changes; nil when there are no watches.
func (s *watchSet) Events() <-chan fsnotify.Event {
	if s.watcher == nil {
		return nil
	}
	return s.watcher.Events
}

// Errors returns the channel of errors, after which changes may be lost; nil when there are no watches.
func (s *watchSet) Errors() <-chan error {
	if s.watcher == nil {
		return nil
	}
	return s.watcher.Errors
}

// follow walks a path from the root, link by link, and watches every directory in which a change would make the path lead
// to another file.
func (s *watchSet) follow(full string) error {
	current := filepath.VolumeName(full) + string(filepath.Separator)
	rest := strings.Split(strings.TrimPrefix(full, current), string(filepath.Separator))
	links := 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			current = filepath.Dir(current)
			continue
		}
		next := filepath.Join(current, name)
		info, err := os.Lstat(next)
		if err != nil {
			return s.name(current, next) // wait for it to appear
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			if len(rest) == 0 {
				return s.last(current, next, info)
			}
			current = next
			continue
		}
		if links++; links > maxLinks {
			return fmt.Errorf("more than %d symbolic links", maxLinks)
		}
		if err := s.name(current, next); err != nil {
			return err
		}
		target, err := os.Readlink(next)
		if err != nil {
			return err
		}
		if filepath.IsAbs(target) {
			current = filepath.VolumeName(target) + string(filepath.Separator)
			target = strings.TrimPrefix(target, current)
		}
		rest = append(strings.Split(target, string(filepath.Separator)), rest...)
	}
	// The path is the root of the file system, or ends in a link to a directory above.
	info, err := os.Lstat(current)
	if err != nil {
		return err
	}
	return s.last(filepath.Dir(current), current, info)
}

// name watches a directory for one name, and for the directory's own removal.
func (s *watchSet) name(directory, name string) error {
	s.names[directory], s.names[name] = true, true
	return s.watcher.Add(directory)
}

// last watches where a path ends: one name, or a directory and all directories below.
func (s *watchSet) last(directory, name string, info fs.FileInfo) error {
	if err := s.name(directory, name); err != nil || !info.IsDir() {
		return err
	}
	return filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil // removed meanwhile: the watch of its parent reports that
		}
		if !entry.IsDir() {
			return nil
		}
		if path != name && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		if len(s.trees) >= maxWatches {
			return fmt.Errorf("more than %d directories", maxWatches)
		}
		s.trees[path] = true
		if err := s.watcher.Add(path); err != nil {
			if _, gone := os.Lstat(path); gone != nil {
				return nil
			}
			return err
		}
		return nil
	})
}

// relevant reports whether an event can mean that the content has changed.
func (s *watchSet) relevant(event fsnotify.Event) bool {
	name := filepath.Clean(event.Name)
	if event.Name == "" {
		return false
	}
	if s.names[name] || s.trees[name] {
		return true
	}
	if !s.trees[filepath.Dir(name)] {
		return false
	}
	return counts(filepath.Base(name), s.dotfiles)
}
