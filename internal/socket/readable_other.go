//go:build !unix

package socket

import "net"

// Readable cannot find out on this system.
func Readable(net.Conn) (readable, ok bool) { return false, false }
