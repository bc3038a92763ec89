package contract

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Denied returns the builtins that a policy may not call, each with the reason for its author. A decision must end, and must depend on
// input and data alone, so that it can be replayed from the log.
func Denied() map[string]string {
	const (
		network    = "a decision must not wait for the network; bring the fact in as data"
		random     = "a decision must be the same when it is replayed; use input.id or input.message.generated"
		unbounded  = "it can take unbounded time or memory for a small argument"
		secrets    = "a policy does not need private keys"
		fetches    = "it can fetch schemas over the network and cannot be bounded"
		inspection = "its result is about the process, not about the transaction"
	)
	return map[string]string{
		"http.send":                                              network,
		"net.lookup_ip_addr":                                     network,
		"providers.aws.sign_req":                                 secrets,
		"io.jwt.encode_sign":                                     secrets,
		"io.jwt.encode_sign_raw":                                 secrets,
		"io.jwt.decode_verify":                                   `it reads the clock where its constraints name no "time"; verify with io.jwt.verify_* and compare exp with input.now`,
		"crypto.x509.parse_keypair":                              secrets,
		"crypto.x509.parse_rsa_private_key":                      secrets,
		"crypto.parse_private_keys":                              secrets,
		"crypto.x509.parse_and_verify_certificates":              "it reads the clock; input.tls.certificate is verified already",
		"crypto.x509.parse_and_verify_certificates_with_options": "it reads the clock and the system's roots; input.tls.certificate is verified already",
		"opa.runtime":                                            inspection,
		"rego.parse_module":                                      inspection,
		"rand.intn":                                              random,
		"uuid.rfc4122":                                           random,
		"time.now_ns":                                            "use input.now, so that a logged decision can be replayed",
		"net.cidr_expand":                                        unbounded + "; use net.cidr_contains",
		"bits.lsh":                                               unbounded + "; multiply",
		"strings.render_template":                                unbounded + "; use sprintf or concat",
		"graphql.parse":                                          fetches,
		"graphql.parse_and_verify":                               fetches,
		"graphql.parse_query":                                    fetches,
		"graphql.parse_schema":                                   fetches,
		"graphql.is_valid":                                       fetches,
		"graphql.schema_is_valid":                                fetches,
		"json.verify_schema":                                     fetches,
		"json.match_schema":                                      fetches,
		"trace":                                                  "ask `postern eval` for an explanation instead",
	}
}

// Capabilities returns those of this version of OPA without the builtins in Denied, and with no host that a policy may reach.
// allow names builtins in Denied that the operator permits.
func Capabilities(allow []string) *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	no := Denied()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		_, bad := no[b.Name]
		return bad && !slices.Contains(allow, b.Name)
	})
	c.AllowNet = []string{}
	return c
}

// Unsafe returns the builtins that reach the network or the environment of the process. Some of json's and graphql's are among
// them, because they fetch what a schema refers to.
func Unsafe() map[string]bool {
	out := map[string]bool{"http.send": true, "net.lookup_ip_addr": true, "opa.runtime": true}
	denied := Denied()
	for name, why := range denied {
		out[name] = out[name] || why == denied["json.match_schema"]
	}
	return out
}
