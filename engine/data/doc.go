// Package data holds the data documents of a policy so that a decision reads single entries of large objects.
//
// OPA's evaluator asks a Store for one path at a time. Large objects, such as the senders of a million users, are packed
// (package internal/table) and read one entry at a time; everything else is converted into OPA values when the data is loaded.
// A packed object that a rule names without a key is a LazyObject, which gives single entries and refuses to be read whole.
//
// There are no goroutines here. A Store never changes and may be read by any number of goroutines.
package data
