package daemon

import (
	"fmt"
	"net"
	"strings"

	"github.com/postern-mail/postern/cmd/postern/systemd"
	"github.com/postern-mail/postern/engine"
)

// listen opens host:port. For an address of the form systemd:NAME it returns the listeners that systemd opened under that name, which must
// be of one of the networks.
func listen(inherited *systemd.Sockets, addr string, networks ...string) ([]net.Listener, error) {
	if name, is := strings.CutPrefix(addr, systemd.Prefix); is {
		return inherited.Listeners(name, networks...)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return []net.Listener{l}, nil
}

// listenError adds to an error which key and value of the configuration it is about.
func listenError(key, value string, err error) error { return fmt.Errorf("%s %s: %w", key, value, err) }

// failureVerdict returns the verdict of a value of on_error, which the configuration has checked.
func failureVerdict(word string) engine.Verdict {
	switch word {
	case "reject":
		return engine.Reject
	case "accept":
		return engine.Accept
	}
	return engine.Defer
}
