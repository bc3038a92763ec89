//go:build !linux

package socket

import "net"

// QuickAck returns nil: only Linux has the option.
func QuickAck(net.Conn) func() { return nil }
