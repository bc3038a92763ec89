// Package table holds a large object of a data document, such as the senders of a million users, in a fraction of the memory
// that maps take.
//
// The data of a policy is a tree of map[string]any, []any, string, json.Number, bool and nil. An object in it with Large entries or
// more is a *Table. Its members are packed one after the other, and an index finds one by its key without reading the others.
// Objects within lists stay maps, and so does an object that holds a Table at any depth. Members makes a map or a Table while a
// document is read; Pack and Unpack convert whole trees.
//
// A Table does not change. A value that is read from it is a copy and does not keep it in memory.
//
// There are no goroutines here.
package table
