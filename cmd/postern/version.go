package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// versionReport is what `postern version --json` prints.
type versionReport struct {
	Version  string            `json:"version"`
	Revision string            `json:"revision,omitempty"` // of the source
	Time     string            `json:"time,omitempty"`     // of that revision, RFC 3339
	Modified bool              `json:"modified,omitempty"` // the source had changes beyond it
	Go       string            `json:"go"`
	Platform string            `json:"platform"`
	Modules  map[string]string `json:"modules"`
}

// shownModules are those whose behaviour an operator may have to look up.
var shownModules = []struct{ name, path string }{
	{"opa", "github.com/open-policy-agent/opa"},
	{"go-smtp", "github.com/emersion/go-smtp"},
	{"go-milter", "github.com/emersion/go-milter"},
}

func newVersionCmd(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Say which version this is, and of which OPA",
		Long:    "Say which version this is, from which source it was built, and with which versions of OPA and the mail libraries.",
		Example: "  postern version\n  postern version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			info, _ := debug.ReadBuildInfo()
			r := reportVersion(info)
			if p.json {
				return json.NewEncoder(p.stdout).Encode(r)
			}
			source := r.Revision
			if r.Modified {
				source += " with changes"
			}
			fmt.Fprintf(p.stdout, "postern %s\n", r.Version)
			for _, line := range [][2]string{{"source", source}, {"date", r.Time}, {"go", r.Go + " " + r.Platform}} {
				if line[1] != "" {
					fmt.Fprintf(p.stdout, "%-10s %s\n", line[0], line[1])
				}
			}
			for _, m := range shownModules {
				if v := r.Modules[m.name]; v != "" {
					fmt.Fprintf(p.stdout, "%-10s %s\n", m.name, v)
				}
			}
			return nil
		},
	}
}

// reportVersion reads what the Go tool put into the binary; info may be nil.
func reportVersion(info *debug.BuildInfo) versionReport {
	r := versionReport{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Modules: map[string]string{}}
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
		for _, shown := range shownModules {
			if m.Path != shown.path {
				continue
			}
			r.Modules[shown.name] = m.Version
			if m.Replace != nil {
				r.Modules[shown.name] = m.Version + " replaced by " + m.Replace.Path + " " + m.Replace.Version
			}
		}
	}
	return r
}
