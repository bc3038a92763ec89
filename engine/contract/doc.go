// Package contract says what a policy may know and what it may answer.
//
//   - Facts declares the policy input. The JSON schema, the Go types that front ends fill, the code that builds the input, and
//     the table in the documentation are generated from it (go generate).
//   - SetNames, EditKeys and the Max constants say what the packages of a bundle may define and how large an answer may be.
//   - Denied and Capabilities say which builtins a policy may call.
//   - Rules lists the findings about a bundle; Finding and CompileError carry them.
//
// There are no goroutines here.
package contract
