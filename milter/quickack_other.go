//go:build !linux

package milter

import "net"

// quickAck has nothing to do: TCP_QUICKACK is Linux's.
func quickAck(net.Conn) func() { return nil }
