// Package version reads from the binary which version of the program it is.
package version

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

// Report is what `postern version --json` prints.
type Report struct {
	Version  string            `json:"version"`
	Revision string            `json:"revision,omitempty"` // of the source
	Time     string            `json:"time,omitempty"`     // of that revision, RFC 3339
	Modified bool              `json:"modified,omitempty"` // the source had changes beyond it
	Go       string            `json:"go"`
	Platform string            `json:"platform"`
	Modules  map[string]string `json:"modules"`
}

// Modules are the modules whose versions are reported, because an operator may have to look up how they behave.
var Modules = []struct{ Name, Path string }{
	{"opa", "github.com/open-policy-agent/opa"},
	{"go-smtp", "github.com/emersion/go-smtp"},
	{"go-milter", "github.com/emersion/go-milter"},
}

// Read returns what the Go tool recorded in the binary, as debug.ReadBuildInfo returns it. info may be nil.
func Read(info *debug.BuildInfo) Report {
	r := Report{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Modules: map[string]string{}}
	if info == nil {
		return r
	}
	if info.Main.Version != "" {
		r.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			r.Revision = s.Value
		case "vcs.time":
			r.Time = s.Value
		case "vcs.modified":
			r.Modified = s.Value == "true"
		}
	}
	for _, m := range info.Deps {
		for _, shown := range Modules {
			if m.Path != shown.Path {
				continue
			}
			r.Modules[shown.Name] = m.Version
			if m.Replace != nil {
				r.Modules[shown.Name] = m.Version + " replaced by " + m.Replace.Path + " " + m.Replace.Version
			}
		}
	}
	return r
}

// Fingerprint returns a text that differs between builds of the program: of another version, another revision, other modules, another Go
// version or other flags, and also of the same source built again. It costs no reading of the binary, so it is made of what the Go tool
// recorded, and of the size and time of the file. The error says that the file of this process cannot be found.
func Fingerprint() (string, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", errors.New("the binary does not say how it was built")
	}
	file, err := runningFile()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d %d\n", info, file.Size(), file.ModTime().UnixNano()))
	return hex.EncodeToString(sum[:]), nil
}

// runningFile returns the file that this process runs. On Linux that is right even if another file has its name by now.
func runningFile() (os.FileInfo, error) {
	if info, err := os.Stat("/proc/self/exe"); err == nil {
		return info, nil
	}
	name, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return os.Stat(name)
}
