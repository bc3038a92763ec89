// Package systemd talks to the service manager. It takes over sockets that systemd has opened (sd_listen_fds(3)), and reports when the program
// is ready, reloads, stops and is alive (sd_notify(3)).
//
// Without systemd it does nothing. It removes its variables from the environment, so that no child process can use them. It starts no
// goroutines.
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

// Prefix begins the address of a listener whose socket systemd opens, as in "systemd:submission". The rest is the FileDescriptorName= of its unit.
const Prefix = "systemd:"

// maxFiles bounds how many file descriptors are taken over.
const maxFiles = 1024

// Sockets are the sockets that systemd has opened for this process. The zero value has none.
type Sockets struct {
	files []*os.File // a file has the name of its socket
}

// Inherit takes over the sockets that systemd has passed. A second call returns none.
func Inherit() *Sockets {
	if n := os.Getenv("LISTEN_FDS"); len(n) > len("1024") { // more than there can be
		os.Unsetenv("LISTEN_FDS")
	}
	files := activation.Files(true)
	for _, f := range files[min(len(files), maxFiles):] {
		f.Close()
	}
	return &Sockets{files[:min(len(files), maxFiles)]}
}

// Match compares the names in the configuration with those that systemd has passed. It is an error if a name was not passed. It is also an
// error if nothing uses a socket, because its clients would wait for ever.
func (s *Sockets) Match(wanted []string) error {
	given := s.names()
	for _, name := range wanted {
		switch {
		case slices.Contains(given, name):
		case len(given) == 0:
			return fmt.Errorf("%s%s: systemd has passed no sockets; start the socket unit (systemctl start postern.socket), or write an address instead", Prefix, name)
		default:
			return fmt.Errorf("%s%s: systemd has passed no socket of that name, but %s; write FileDescriptorName=%[2]s in the socket unit, and Sockets= in the service unit", Prefix, name, list(given))
		}
	}
	for _, name := range given {
		if !slices.Contains(wanted, name) {
			return fmt.Errorf("systemd has passed the socket %q, which the configuration does not use, so its clients would wait for ever; write %s%[1]s where it belongs, or remove it from the socket unit", name, Prefix)
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

// Listeners returns the sockets of one name. The caller closes them. All must be listening stream sockets of one of the networks, "tcp" or
// "unix".
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

// listener returns a socket as a net.Listener. An error continues the sentence "descriptor N ...".
func listener(f *os.File, networks []string) (net.Listener, error) {
	fd := int(f.Fd())
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, errors.New("is not a socket; the unit must be a socket unit with ListenStream=")
	}
	if kind != unix.SOCK_STREAM {
		return nil, errors.New("is a datagram or packet socket; write ListenStream= in its unit, not ListenDatagram=")
	}
	if listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listening == 0 {
		return nil, errors.New("is the connection of one client, not a listening socket; write Accept=no in its unit")
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("cannot be used: %w", err)
	}
	if network := l.Addr().Network(); !slices.Contains(networks, network) {
		l.Close()
		return nil, fmt.Errorf("is of network %s, but must be of %s", network, strings.Join(networks, " or "))
	}
	return l, nil
}

// Close closes the sockets. Listeners that were made from them stay open.
func (s *Sockets) Close() {
	for _, f := range s.files {
		f.Close()
	}
	s.files = nil
}
