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
		Use:   "version",
		Short: "Print the version, and the versions of OPA and the mail libraries",
		Long: `Print the version, the source from which it was built, and the versions of OPA and the mail
libraries in it.

Exit codes: 0 printed; 2 wrong usage.`,
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
