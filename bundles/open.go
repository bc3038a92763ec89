package bundles

import (
	"net/url"
	"os"
	"strings"
)

// Open returns the source that name stands for: a directory, a tarball (.tar.gz, .tgz), or an address (https://, http://,
// oci://), which is read with the options of remote. It does not use the network. It looks at the disk only where the name
// does not say whether it is a file or a directory.
func Open(name string, remote Remote) (Source, error) {
	switch {
	case name == "":
		return nil, &LoadError{Source: `""`, Message: "no bundle named", Hint: "name a directory, a .tar.gz or an https:// address"}
	case strings.Contains(name, "://"):
		return remote.open(name)
	case strings.HasSuffix(name, ".tar.gz"), strings.HasSuffix(name, ".tgz"):
		return Tarball(name), nil
	}
	if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
		return Tarball(name), nil
	}
	return Dir(name), nil
}

// open returns the source at an address of another machine.
func (r Remote) open(name string) (Source, error) {
	address, err := url.Parse(name)
	if err != nil {
		return nil, &LoadError{Source: "the address of the bundle", Message: "is not a URL", Hint: remoteHint, Err: err}
	}
	if err := r.checkAddress(address); err != nil {
		return nil, from(address.Redacted(), err)
	}
	if address.Scheme == "oci" {
		return newRegistry(address, r)
	}
	return &web{address: address, remote: r}, nil
}

// CheckAddress says what is wrong with the address of a bundle; nil: nothing that could be told without asking. Its error is
// a *LoadError.
func (r Remote) CheckAddress(name string) error {
	_, err := r.open(name)
	return err
}
