// Package version reads from the binary which version of the program it is.
package version

import (
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
