package bundles

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Tarball returns a bundle in a .tar.gz file, as `opa build` writes it.
func Tarball(name string) Source { return tarball(name) }

type tarball string

func (t tarball) String() string { return string(t) }

func (t tarball) Paths() []string { return []string{string(t)} }

func (t tarball) Read(ctx context.Context, limits Limits) (*Tree, error) {
	packed, err := readWhole(ctx, string(t), limits.orDefault().Total)
	if err != nil {
		return nil, from(t.String(), err)
	}
	tree, err := Unpack(bytes.NewReader(packed), limits)
	return tree, from(t.String(), err)
}

// Unpack reads a gzip-compressed tar archive. It refuses what `opa build` does not write: links and devices, names that lead
// out of the archive, names that come twice, and a stream that is truncated or goes on after the archive.
func Unpack(r io.Reader, limits Limits) (*Tree, error) {
	c := newCollector(limits)
	unpacked, err := gzip.NewReader(r)
	if err != nil {
		return nil, fault("", "not a gzip-compressed tar archive: %v", err).because(err).
			hint("make one with: opa build --bundle DIRECTORY --output bundle.tar.gz")
	}
	// Headers and padding take at most three blocks a member. This bound stops a stream that hides data between members.
	bounded := &boundedReader{r: unpacked, left: c.limits.Total + 1536*int64(c.limits.Files) + 1<<20}
	archive := tar.NewReader(bounded)
	for {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, archiveFault(err)
		}
		if err := c.member(archive, header); err != nil {
			return nil, err
		}
	}
	if err := onlyZeros(bounded); err != nil {
		return nil, err
	}
	if c.entries == 0 {
		return nil, fault("", "the archive is empty")
	}
	slices.SortFunc(c.tree.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return &c.tree, nil
}

// member reads one member of the archive.
func (c *collector) member(r io.Reader, header *tar.Header) error {
	switch header.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, tar.TypeDir:
	default:
		return fault(shown(header.Name), "is a link or a special file").hint("put the file itself into the bundle")
	}
	name, err := memberName(header)
	if err != nil || name == "." {
		return err
	}
	if err := c.entry(name); err != nil {
		return err
	}
	if header.Typeflag == tar.TypeDir {
		return nil
	}
	if err := c.reserve(name, header.Size); err != nil {
		return err
	}
	if !c.reads(name) {
		c.ignore(name)
		return nil
	}
	// Memory grows with what is read, because the size in the header may be wrong.
	var data bytes.Buffer
	if _, err := io.CopyN(&data, r, header.Size); err != nil {
		f := archiveFault(err)
		f.File = name
		return f
	}
	c.add(newFile(name, data.Bytes()))
	return nil
}

// memberName cleans a member's name. `opa build` begins names with a slash, tar with "./".
func memberName(header *tar.Header) (string, error) {
	name := header.Name
	if !utf8.ValidString(name) || strings.Contains(name, "\\") || strings.ContainsFunc(name, unicode.IsControl) {
		return "", fault(shown(name), "has a name that is not allowed")
	}
	if header.Typeflag == tar.TypeDir {
		name = strings.TrimSuffix(name, "/")
	}
	name = strings.TrimPrefix(strings.TrimPrefix(name, "/"), "./")
	if name == "" {
		name = "."
	}
	if !fs.ValidPath(name) || path.Clean(name) != name || (name == "." && header.Typeflag != tar.TypeDir) {
		return "", fault(shown(header.Name), "has a name that leads out of the bundle or is not in plain form")
	}
	return name, nil
}

// shown quotes a name from an archive for a message.
func shown(name string) string {
	const most = 200
	return strings.Trim(fmt.Sprintf("%+q", name[:min(len(name), most)]), `"`)
}

func archiveFault(err error) *LoadError {
	switch {
	case errors.Is(err, errTooLarge):
		return fault("", "%v", err).because(err)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fault("", "the archive is truncated").because(err).hint("was it still being written? build or copy it again")
	}
	return fault("", "the archive is damaged: %v", err).because(err).hint("build or copy it again")
}

// onlyZeros reads the stream to its end, which checks the checksum, and refuses anything but padding.
func onlyZeros(r io.Reader) error {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return fault("", "there is data after the end of the archive").hint("build it again")
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return archiveFault(err)
		}
	}
}

var errTooLarge = errors.New("the archive unpacks to more than is allowed")

// boundedReader fails after more than left bytes.
type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
