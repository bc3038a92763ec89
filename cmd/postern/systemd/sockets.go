// Package systemd is what the service manager gives us and wants to hear: sockets that it has opened (sd_listen_fds(3)), and
// when we are ready, reloading, stopping and alive (sd_notify(3)).
//
// Without systemd all of it does nothing. What is handed over in the environment is taken out of it, so that no process of ours
// could take it for its own. No goroutines.
package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Prefix begins the address of a listener whose socket systemd opens: "systemd:submission", by FileDescriptorName= of its unit.
const Prefix = "systemd:"

// maxFiles bounds how many descriptors are taken over.
const maxFiles = 1024

// Sockets are those that systemd has opened for us. The zero value has none.
type Sockets struct {
	files []*os.File // by their names
}

// Inherit takes over what systemd has passed, once; a second time there is nothing left.
func Inherit() *Sockets {
	if n := os.Getenv("LISTEN_FDS"); len(n) > len("1024") { // more than a process has descriptors
		os.Unsetenv("LISTEN_FDS")
	}
	files := activation.Files(true)
	for _, f := range files[min(len(files), maxFiles):] {
		f.Close()
	}
	return &Sockets{files[:min(len(files), maxFiles)]}
}

// Match says what is wrong between the names that the configuration has and those that systemd gave: one that was not given, and
// one that nothing here would answer, so that whoever connects would wait for ever.
func (s *Sockets) Match(wanted []string) error {
	given := s.names()
	for _, name := range wanted {
		switch {
		case slices.Contains(given, name):
		case len(given) == 0:
			return fmt.Errorf("%s%s: systemd has passed no sockets: start this by its socket unit (systemctl start postern.socket), or write an address instead", Prefix, name)
		default:
			return fmt.Errorf("%s%s: systemd has passed no socket of that name, but %s: write FileDescriptorName=%[2]s in the socket unit, and Sockets= in the service unit", Prefix, name, list(given))
		}
	}
	for _, name := range given {
		if !slices.Contains(wanted, name) {
			return fmt.Errorf("systemd has passed the socket %q, which nothing in the configuration uses: clients there would wait for ever; write %s%[1]s where it belongs, or take it out of the socket unit", name, Prefix)
		}
	}
	return nil
}

func (s *Sockets) names() []string {
	var names []string
	for _, f := range s.files {
		names = append(names, f.Name())
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func list(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(quoted, ", ")
}

// Listeners are the sockets of one name, which are the caller's from now on. All must be listening stream sockets of one of the
// networks, "tcp" or "unix".
func (s *Sockets) Listeners(name string, networks ...string) ([]net.Listener, error) {
	var all []net.Listener
	for _, f := range s.files {
		if f.Name() != name {
			continue
		}
		l, err := listener(f, networks)
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			return nil, fmt.Errorf("%s%s: descriptor %d %w", Prefix, name, f.Fd(), err)
		}
		all = append(all, l)
	}
	if len(all) == 0 {
		return nil, s.Match([]string{name})
	}
	return all, nil
}

// listener is a socket as a net.Listener, if it can be one here.
func listener(f *os.File, networks []string) (net.Listener, error) {
	fd := int(f.Fd())
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, errors.New("is no socket: the unit must be a socket unit with ListenStream=")
	}
	if kind != unix.SOCK_STREAM {
		return nil, errors.New("is a datagram or packet socket: write ListenStream= in its unit, not ListenDatagram=")
	}
	if listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listening == 0 {
		return nil, errors.New("is one client's connection, not a socket that takes them: write Accept=no in its unit")
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("cannot be used: %w", err)
	}
	if network := l.Addr().Network(); !slices.Contains(networks, network) {
		l.Close()
		return nil, fmt.Errorf("is of network %s, and only %s will do here", network, strings.Join(networks, " or "))
	}
	return l, nil
}

// Close gives up what systemd has passed; listeners that were made of it live on.
func (s *Sockets) Close() {
	for _, f := range s.files {
		f.Close()
	}
	s.files = nil
}
