package netaddr

import (
	"net/netip"
	"testing"
)

func TestIsLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true, "::ffff:127.0.0.1": true,
		"": false, "localhost.example.com": false, "0.0.0.0": false, "::": false, "192.0.2.1": false, "::ffff:192.0.2.1": false, "[::1]": false,
		"127.0.0.1.example.com": false, "127.1": false,
	} {
		if got := IsLoopback(host); got != want {
			t.Errorf("IsLoopback(%q) = %v", host, got)
		}
	}
}

func TestClientNetwork(t *testing.T) {
	for ip, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
		"::1": "::/64",
	} {
		if got := ClientNetwork(netip.MustParseAddr(ip)).String(); got != want {
			t.Errorf("ClientNetwork(%s) = %s, want %s", ip, got, want)
		}
	}
	if got := ClientNetwork(netip.Addr{}); got != (netip.Prefix{}) {
		t.Errorf("of no address: %v", got)
	}
}

func TestParseNetwork(t *testing.T) {
	for s, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "192.0.2.7": "192.0.2.7/32", "2001:db8::/32": "2001:db8::/32", "::1": "::1/128", "10.1.2.3/8": "10.1.2.3/8",
		"": "", "fe80::1%eth0": "", "10.0.0.0/33": "", "example.com": "", "10.0.0.0/8 ": "", "fe80::%eth0/64": "",
	} {
		p, err := ParseNetwork(s)
		if (err == nil) != (want != "") || err == nil && p.String() != want {
			t.Errorf("ParseNetwork(%q) = %v, %v", s, p, err)
		}
	}
}
