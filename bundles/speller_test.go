package bundles

import (
	"encoding/json"
	"testing"
)

// TestSpelling: an operator's document has each address, domain and login in the spelling of facts, in JSON and in YAML.
func TestSpelling(t *testing.T) {
	const document = `{
		"senders": {"Alice": ["alice@exämple.com", "@exämple.com", "group:Vertrieb", {"address": "bu\u0308cher@xn--exmple-cua.com", "as": "on-behalf"}], "mu\u0308ller": [], "a b": []},
		"settings": {"domain": "exämple.com", "subaddress_separator": "ä"},
		"blocked_domains": ["exämple.com", "EXAMPLE.org", "no domain ä"],
		"by_domain": {"exämple.com": 1},
		"texts": ["Grüße.txt", "a@exämple.com", "x@ﬁrm.example"],
		"Alice": {"Bob": 1}
	}`
	const want = `{"Alice":{"Bob":1},"blocked_domains":["xn--exmple-cua.com","EXAMPLE.org","no domain ä"],"by_domain":{"xn--exmple-cua.com":1},` +
		`"senders":{"a b":[],"alice":["alice@xn--exmple-cua.com","@xn--exmple-cua.com","group:Vertrieb",{"address":"bücher@xn--exmple-cua.com","as":"on-behalf"}],"müller":[]},` +
		`"settings":{"domain":"xn--exmple-cua.com","subaddress_separator":"ä"},"texts":["Grüße.txt","a@xn--exmple-cua.com","x@ﬁrm.example"]}`
	for _, name := range []string{"x.json", "x.yaml"} {
		v, err := parseDocument(name, []byte(document), 32, true)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := json.Marshal(v); err != nil || string(got) != want {
			t.Errorf("%s: got\n%s, want\n%s (%v)", name, got, want, err)
		}
		v, err = parseDocument(name, []byte(document), 32, false)
		if err != nil {
			t.Fatal(err)
		}
		if object := v.(map[string]any)["senders"].(map[string]any); object["Alice"] == nil {
			t.Errorf("%s: a bundle's document was changed: %v", name, object)
		}
		if _, err := parseDocument(name, []byte(`{"senders": {"Alice": [], "alice": []}}`), 32, true); err == nil {
			t.Errorf("%s: a login that is there twice was taken", name)
		}
	}
}
