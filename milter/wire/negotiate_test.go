package wire

import (
	"testing"

	gomilter "github.com/emersion/go-milter"

	"github.com/postern-mail/postern/internal/testmilter"
)

func TestAgree(t *testing.T) {
	const every = gomilter.OptAction(testmilter.AllActions)
	all := Terms{version: 6, actions: every, protocol: testmilter.AllProtocol}
	edits := Needs{Message: true, Operations: []Op{AddHeader, ChangeHeader}}
	for _, c := range []struct {
		name    string
		offer   Terms
		needs   Needs
		actions gomilter.OptAction
		has     gomilter.OptProtocol
		lacks   gomilter.OptProtocol
	}{
		{"no edits", all, Needs{Message: true}, gomilter.OptSetSymList, gomilter.OptNoBody | gomilter.OptNoEOHReply | gomilter.OptNoMailReply | gomilter.OptNoRcptReply | gomilter.OptHeaderLeadingSpace, gomilter.OptSkip},
		{"edits", all, edits, gomilter.OptSetSymList | gomilter.OptAddHeader | gomilter.OptChangeHeader, gomilter.OptNoBody | gomilter.OptNoEOHReply, 0},
		{"edits, and the body comes", Terms{6, every, testmilter.AllProtocol &^ testmilter.NoBody}, edits, gomilter.OptSetSymList | gomilter.OptAddHeader | gomilter.OptChangeHeader, gomilter.OptNoBodyReply, gomilter.OptNoEOHReply},
		{"withheld", Terms{6, gomilter.OptAddHeader, 0}, edits, gomilter.OptAddHeader, 0, gomilter.OptNoBody},
		{"quarantine withheld", Terms{6, 0, 0}, Needs{Message: true, Operations: []Op{Quarantine}}, 0, 0, 0},
		{"body", all, Needs{Message: true, Body: true}, gomilter.OptSetSymList, gomilter.OptSkip | gomilter.OptNoEOHReply, gomilter.OptNoBody | gomilter.OptNoBodyReply},
		{"size", all, Needs{Message: true, Size: true, Body: true}, gomilter.OptSetSymList, gomilter.OptNoBodyReply | gomilter.OptNoEOHReply, gomilter.OptNoBody | gomilter.OptSkip},
		{"stages", all, Needs{Connect: true, Mail: true, Rcpt: true}, gomilter.OptSetSymList, gomilter.OptNoEOHReply, gomilter.OptNoConnReply | gomilter.OptNoMailReply | gomilter.OptNoRcptReply},
		{"version 2", Terms{2, 0x3f, 0x7f}, edits, gomilter.OptAddHeader | gomilter.OptChangeHeader, gomilter.OptNoBody, gomilter.OptNoHeaderReply},
		{"newer", Terms{99, every, testmilter.AllProtocol}, edits, gomilter.OptSetSymList | gomilter.OptAddHeader | gomilter.OptChangeHeader, 0, 0},
	} {
		got := agree(c.offer, c.needs)
		if got.version != min(c.offer.version, 6) || got.actions != c.actions || got.protocol&c.has != c.has || got.protocol&c.lacks != 0 || got.protocol&^c.offer.protocol != 0 {
			t.Errorf("%s: version %d, actions %#x, protocol %#x; want actions %#x, of protocol %#x and none of %#x", c.name, got.version, got.actions, got.protocol, c.actions, c.has, c.lacks)
		}
	}
}
