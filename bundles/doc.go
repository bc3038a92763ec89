// Package bundles is where policies come from: it reads a bundle from a directory, an fs.FS, a tarball as `opa build` writes
// it, a web server or a registry, verifies its signature, watches it, and hands every new candidate to a gate that may
// activate it.
//
// # Reading
//
// A [Source] yields a [Tree], the bytes of every file that counts, as they were at one moment. A [Loader] turns a tree
// and the operator's extra data documents into a [Candidate]: OPA's own *bundle.Bundle with its hashes. Everything is
// bounded by [Limits], and whatever is wrong is a *[LoadError] with file, line and column. What counts in a tree is what
// counts for OPA: *.rego anywhere, data.json, data.yaml and data.yml in any directory (the directory is the path of the
// data), and .manifest at the root. Entries whose name begins with a dot are passed over, and so are the data files
// of the directory schemas at the root.
//
// Parsed modules and data documents are cached by content and shared between candidates: read them, never change them.
// Neither OPA's compiler nor its tester does.
//
// What comes over the network is read with net/http and with ORAS, the library that OPA pulls with, and verified with OPA's own
// code. OPA's downloader is not used: it hands over a bundle that it has parsed itself, without file and line and without a bound
// on the whole, takes an entity tag for good before the bundle has been activated, and keeps every image it ever pulled on disk.
//
// # Watching
//
// A [Watcher] looks again when the file system reports a change, when [Watcher.Trigger] is called, and at intervals in
// case a report was lost. A candidate that cannot be read, or that the gate refuses, changes nothing: the last good one
// stays, the log names the place once, and the metric postern_policy_last_reload_successful turns 0. It is tried again after a
// while. What was active last is kept on disk, too, as it came, for a start with a source that is broken then.
//
// # Failing
//
// A source that is gone, half written or hostile yields an error and never an empty bundle: a bundle without a single
// module is an error too, because a policy that says nothing lets everything pass.
//
// # Goroutines
//
// [Watcher.Run] is the watcher's only goroutine; the caller owns it, and it ends with its context. Under it fsnotify
// runs one of its own, which ends before Run returns. [PathWatcher.Run] is the same. [Tests] run on goroutines of OPA's
// tester, which end before Run returns. Loading parses modules on as many goroutines as there are
// processors and waits for all of them.
// A download ends with its context or after [Remote.Timeout]; no connection outlives it.
package bundles
