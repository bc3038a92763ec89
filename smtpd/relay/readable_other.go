//go:build !unix

package relay

import "net"

// readable cannot tell here; kept connections are asked with NOOP.
func readable(net.Conn) (yes, ok bool) { return false, false }
