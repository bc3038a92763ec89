// Package safefile is the one way in which Postern replaces, reads, locks and watches files.
//
// [Write], [WriteFile] and [Output] replace a file as a whole: a reader sees the old content or the new, also after the
// machine stops in the middle. [Create] makes a file unless it exists. [ReadSecret] reads a password, token or shared
// secret, and [ReadFile] any small file. [AcquireLock] keeps other processes away. [Watcher] reports changes of files and
// directories.
//
// When something fails, a file keeps its old content, and the error names the file.
//
// [Watcher.Run] runs on its caller's goroutine and ends with its context. fsnotify runs one goroutine of its own meanwhile,
// which ends before Run returns. The other functions start no goroutines.
package safefile
