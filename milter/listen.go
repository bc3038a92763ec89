package milter

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Listen binds the address spec: "unix:/path" or "tcp:host:port". mode and group are for a unix socket: mode 0 means 0660,
// group is a name or a number, and "" keeps the process's own. A socket that an ended process has left behind is removed. A
// socket that another process listens on, or a file that is not a socket, is an error.
func Listen(spec string, mode fs.FileMode, group string) (net.Listener, error) {
	network, address, ok := strings.Cut(spec, ":")
	switch {
	case ok && network == "tcp" && address != "":
		ln, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("milter: listen on %q: %w", spec, err)
		}
		return ln, nil
	case ok && network == "unix" && address != "":
		return listenUnix(address, mode, group)
	}
	return nil, fmt.Errorf(`milter: listen on %q: write "unix:/path/of/socket" or "tcp:host:port"`, spec)
}

func listenUnix(path string, mode fs.FileMode, group string) (net.Listener, error) {
	if mode == 0 {
		mode = 0o660
	}
	gid := -1
	if group != "" {
		var err error
		if gid, err = groupID(group); err != nil {
			return nil, fmt.Errorf("milter: socket %s: %w", path, err)
		}
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("milter: socket %s: %w", path, err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("milter: socket %s: %w", path, err)
	}
	// The group is set first, so that the mode never admits members of another group.
	if err = os.Chown(path, -1, gid); err == nil {
		err = os.Chmod(path, mode.Perm())
	}
	if err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("milter: socket %s: %w", path, err)
	}
	return ln, nil
}

func groupID(group string) (int, error) {
	if n, err := strconv.Atoi(group); err == nil && n >= 0 {
		return n, nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("group %q: %w", group, err)
	}
	return strconv.Atoi(g.Gid)
}

// removeStale removes a socket that no process listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return errors.New("a file that is not a socket is in the way")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
		return errors.New("another process is listening on it")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("cannot find out whether another process is listening on it: %w", err)
	}
	return os.Remove(path)
}
