package main

import (
	"encoding/json"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/version"
)

func newVersionCmd(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Say which version this is, and of which OPA",
		Long:    "Say which version this is, from which source it was built, and with which versions of OPA and the mail libraries.",
		Example: "  postern version\n  postern version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			info, _ := debug.ReadBuildInfo()
			r := version.Read(info)
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
			for _, m := range version.Modules {
				if v := r.Modules[m.Name]; v != "" {
					fmt.Fprintf(p.stdout, "%-10s %s\n", m.Name, v)
				}
			}
			return nil
		},
	}
}
