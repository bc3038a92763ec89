// Package bundles loads policies. It reads a bundle from a directory, an fs.FS, a tarball as `opa build` writes it, a web server
// or an OCI registry. It verifies the bundle's signature, watches it for changes, and hands every new candidate to a gate,
// which may activate it.
//
// # Reading
//
// A [Source] returns a [Tree]: the bytes of every file that counts, as they were at one moment. A [Loader] turns a tree and the
// operator's extra data documents into a [Candidate], which is OPA's own *bundle.Bundle with its hashes. [Limits] bound
// everything. Errors are *[LoadError] with file, line and column. The files that count are the same as for OPA: *.rego
// anywhere; data.json, data.yaml and data.yml in any directory, which is the path of the data; and .manifest at the root.
// Entries whose names begin with a dot are skipped, and so are the data files of the directory schemas at the root.
//
// Parsed modules and data documents are cached by content and shared between candidates, so nothing may change them. OPA's
// compiler and tester do not.
//
// Bundles come over the network by net/http and by ORAS, the library that OPA uses, and are verified with OPA's own code. OPA's
// downloader is not used. It returns a bundle that is parsed already, without file and line in errors and without a bound on
// its size; it remembers an entity tag before the bundle has been activated; and it keeps every image that it pulled on disk.
//
// # Watching
//
// A [Watcher] reads its source when files change, when [Watcher.Trigger] is called, and at intervals. A candidate that cannot be
// read, or that the gate refuses, changes nothing: the last good one stays active, the log names the place once, and the metric
// postern_policy_last_reload_successful turns 0. The candidate is tried again later. A copy of the active content is kept on
// disk (the last good copy), for a start at which the source is broken or takes too long. A file beside it says that the tests of that
// content passed, and in which program, so that a start with the same content does not run them again.
//
// # Failing
//
// A source that is missing, half written or hostile is an error, and never an empty bundle. A bundle without a module is an
// error, too, because a policy without rules lets everything pass.
//
// # Goroutines
//
// [Watcher.Run] runs on a goroutine that the caller owns, and ends with its context. fsnotify runs one of its own meanwhile,
// which ends before Run returns. [Tests] run on goroutines of OPA's tester, which end before Run returns. Loading parses
// modules on as many goroutines as there are processors, and waits for all of them. A download ends with its context or after
// [Remote.Timeout], and its connections with it.
package bundles
