package docs_test

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
)

// TestArchitecture holds the map in architecture.md against the packages: each directory with Go files is named, and each name with a slash in
// its tables is a directory.
func TestArchitecture(t *testing.T) {
	page := read(t, "architecture.md")
	rooms := map[string]bool{}
	err := fs.WalkDir(os.DirFS(".."), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && name != "."):
			return fs.SkipDir
		case !d.IsDir() && path.Ext(name) == ".go":
			rooms[path.Dir(name)] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for room := range rooms {
		if !strings.Contains(page, "`"+room+"`") {
			t.Errorf("the page does not name %s", room)
		}
	}
	for line := range strings.Lines(page) {
		if cells := strings.Split(line, "|"); len(cells) == 4 {
			for _, m := range regexp.MustCompile("`([a-z]+/[a-z/]+)`").FindAllStringSubmatch(cells[1], -1) {
				if !rooms[m[1]] {
					t.Errorf("the page names %s, which is no package", m[1])
				}
			}
		}
	}
}
