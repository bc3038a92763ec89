// Package policies holds the default bundle: Rego rules for a submission server by RFC 6409, with their tests, default data
// and JSON schemas. The files are embedded in the binary, and stock OPA can use them from disk. What they decide, and the
// data that an operator supplies, is described in docs/reference/default-policy.md. The package has no code and no goroutines.
package policies

import "embed"

// FS is the root of the bundle: .manifest, data.yaml, postern/ and schemas/.
//
//go:embed .manifest data.yaml postern schemas
var FS embed.FS
