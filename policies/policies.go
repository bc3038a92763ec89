// Package policies holds the default bundle: the Rego rules of a submission server after RFC 6409, with their tests,
// default data and JSON schemas. The same files are embedded in the binary and usable from disk by stock OPA; what
// they decide and the data documents that an operator supplies are described in docs/reference/default-policy.md.
//
// There is no code here and there are no goroutines.
package policies

import "embed"

// FS is the bundle's root as it is on disk: .manifest, data.yaml, postern/ and schemas/.
//
//go:embed .manifest data.yaml postern schemas
var FS embed.FS
