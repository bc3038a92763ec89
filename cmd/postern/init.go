package main

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/policies"
)

// skeleton holds the files of a policy repository except for the default bundle. A name that begins with "dot-" stands for one that
// begins with a dot, so that Git and editors do not use the files here.
//
//go:embed skeleton
var skeleton embed.FS

// initReport is what `postern init --json` prints.
type initReport struct {
	Directory string   `json:"directory"`
	Files     []string `json:"files"` // paths below it, sorted
}

func newInitCmd(p *program) *cobra.Command {
	var overwrite bool
	cmd := &cobra.Command{
		Use:   "init DIRECTORY",
		Short: "Make a policy repository to start from",
		Long: `Make a policy repository to start from. It has the default bundle, an example rule with its test,
message tests, the data document, schemas for editors, a configuration that runs it on loopback,
.gitignore and a CI workflow. Files that exist are not overwritten.

Exit codes: 0 done; 1 a file with other contents exists, or a file could not be written; 2 wrong
usage.`,
		Example: `  postern init mail-policy
  cd mail-policy && postern check policy --data data/senders.yaml && postern test policy --data data/senders.yaml --cases cases`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := repository()
			if err != nil {
				return err
			}
			r := initReport{Directory: args[0], Files: slices.Sorted(maps.Keys(files))}
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
	cmd.Flags().BoolVar(&overwrite, "force", false, "overwrite files that exist")
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return cmd
}

// repository returns the text of every file by its path with slashes: the skeleton, and the default bundle below policy.
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

// writeRepository writes all files, or none if one exists with other contents and overwrite is false.
func writeRepository(dir string, files map[string][]byte, overwrite bool) error {
	var existing []string
	for name, text := range files {
		there, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err == nil && !bytes.Equal(there, text) {
			existing = append(existing, name)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if len(existing) > 0 && !overwrite {
		slices.Sort(existing)
		return fmt.Errorf("%s has files with these names and other contents: %s; name another directory, or add --force to overwrite them", dir, strings.Join(existing, ", "))
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
