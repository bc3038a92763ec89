package main

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/policies"
)

// skeleton is what a policy repository has beside the default bundle. A name that begins with dot- stands for one with a dot,
// so that Git and editors do not take our copy for their own.
//
//go:embed skeleton
var skeleton embed.FS

// initReport is what `postern init --json` prints.
type initReport struct {
	Directory string   `json:"directory"`
	Files     []string `json:"files"` // below it, in order
}

func newInitCmd(p *program) *cobra.Command {
	var overwrite bool
	cmd := &cobra.Command{
		Use:   "init DIRECTORY",
		Short: "Make a policy repository to start from",
		Long: `Make a policy repository to start from: the default bundle to change, an example of a rule of one's own with its test,
message tests, the data document, schemas for editors, a configuration that runs it on loopback, .gitignore and a CI
workflow. Nothing that is there is overwritten.

Exit codes: 0 made; 1 files are in the way, or it could not be written; 2 usage.`,
		Example: `  postern init mail-policy
  cd mail-policy && postern check policy --data data/senders.yaml && postern test policy --data data/senders.yaml --cases cases`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := repository()
			if err != nil {
				return err
			}
			r := initReport{Directory: args[0], Files: slices.Sorted(keysOf(files))}
			if err := writeRepository(args[0], files, overwrite); err != nil {
				return err
			}
			if p.json {
				return writeJSON(cmd.OutOrStdout(), r)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d files in %s; read %s next\n", len(r.Files), r.Directory, filepath.Join(r.Directory, "README.md"))
			return nil
		},
	}
	cmd.Flags().BoolVar(&overwrite, "force", false, "overwrite files that are in the way")
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return cmd
}

func keysOf(files map[string][]byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for name := range files {
			if !yield(name) {
				return
			}
		}
	}
}

// repository is every file by its path with slashes: the skeleton, and the default bundle under policy.
func repository() (map[string][]byte, error) {
	files := map[string][]byte{}
	collect := func(from fs.FS, root, below string) error {
		return fs.WalkDir(from, root, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := fs.ReadFile(from, name)
			if err != nil {
				return err
			}
			to := path.Join(below, strings.TrimPrefix(name, root+"/"))
			files[strings.ReplaceAll("/"+to, "/dot-", "/.")[1:]] = text
			return nil
		})
	}
	return files, errors.Join(collect(policies.FS, ".", "policy"), collect(skeleton, "skeleton", ""))
}

// writeRepository writes all files, or none where one is in the way.
func writeRepository(dir string, files map[string][]byte, overwrite bool) error {
	var inTheWay []string
	for name, text := range files {
		there, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err == nil && !bytes.Equal(there, text) {
			inTheWay = append(inTheWay, name)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if len(inTheWay) > 0 && !overwrite {
		slices.Sort(inTheWay)
		return fmt.Errorf("%s has files that would be overwritten: %s; name another directory, or add --force", dir, strings.Join(inTheWay, ", "))
	}
	for name, text := range files {
		full := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(full, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
