package bundles

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/open-policy-agent/opa/v1/bundle"
)

// lastGood is the name of the copy within its directory.
const lastGood = "last-good.tar.gz"

// SaveLastGood keeps a copy of an activated candidate in directory dir, which is made if need be, as the tarball
// last-good.tar.gz that stock OPA reads too. The extra data is merged into it and its revision is the candidate's; a
// signature is not kept, since it would no longer fit. The file is complete or not there: written aside, synced, renamed,
// mode 0600.
func SaveLastGood(dir string, c *Candidate) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keeping the last good policy: %w", err)
	}
	file, err := os.CreateTemp(dir, lastGood+".*.tmp") // 0600 by itself
	if err != nil {
		return fmt.Errorf("keeping the last good policy: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("keeping the last good policy: %w", err), ignoreMissing(file.Close()), ignoreMissing(os.Remove(file.Name())))
		}
	}()
	b := bundle.Bundle{Manifest: c.Bundle.Manifest.Copy(), Modules: c.Bundle.Modules, Data: c.Bundle.Data}
	b.Manifest.Revision = c.Revision
	if outside(*b.Manifest.Roots, b.Data) != "" {
		b.Manifest.Roots = &[]string{""}
	}
	b.Manifest.Metadata = maps.Clone(b.Manifest.Metadata)
	if err := bundle.NewWriter(file).UseModulePath(true).DisableFormat(true).Write(b); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), filepath.Join(dir, lastGood)); err != nil {
		return err
	}
	return syncDir(dir)
}

// LoadLastGood loads the copy that SaveLastGood made. The error says fs.ErrNotExist where there is none, and is a
// *LoadError where it is damaged; either way the caller goes on without.
func LoadLastGood(ctx context.Context, dir string) (*Candidate, error) {
	return Load(ctx, Tarball(filepath.Join(dir, lastGood)))
}

// syncDir makes a rename durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
