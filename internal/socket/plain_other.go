//go:build !unix

package socket

import "net"

// Direct is c here.
func Direct(c net.Conn) net.Conn { return c }

// Readable cannot tell here.
func Readable(net.Conn) (yes, ok bool) { return false, false }

// QuickAck is nil here: there is nothing to do.
func QuickAck(net.Conn) func() { return nil }
