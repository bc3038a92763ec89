// Package netaddr answers questions about network addresses that several rooms ask.
package netaddr

import "net/netip"

// IsLoopback reports whether a host of a URL or a configuration is this machine by its name alone: localhost, or a loopback
// address without brackets. It resolves nothing.
func IsLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// ClientNetwork returns the network that one client can be expected to hold, so that limits count the client and not its
// addresses: an IPv4 address, or the /64 of an IPv6 address. An IPv4 address mapped into IPv6 is an IPv4 address. The
// network of the zero Addr is the zero Prefix.
func ClientNetwork(ip netip.Addr) netip.Prefix {
	ip = ip.Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// ParseNetwork reads a network in CIDR notation, or an address, which is a network of its own. An address with a zone is an
// error. Bits beyond the mask are kept.
func ParseNetwork(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}
