// Package table holds a large object of a data document, such as the senders of a million users, in a fraction of the memory
// that maps take.
//
// The data of a policy is a tree of map[string]any, []any, string, json.Number, bool and nil. In it, an object of Large
// entries or more is a *Table: its members lie packed one after the other, and an index finds one by its key without looking
// at the others. Objects within lists stay maps, and so does an object that holds a Table, at whatever depth. Members makes
// the one or the other while a document is read; Pack and Unpack turn whole trees.
//
// A Table is immutable; what comes out of it is a copy and does not keep it alive.
//
// There are no goroutines here.
package table
