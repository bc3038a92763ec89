package contract

import (
	"fmt"
	"strings"
)

// Kind is the JSON type of a fact.
type Kind uint8

// The kinds.
const (
	Text Kind = iota
	Integer
	Boolean
	Closed // an object with the fields listed and no others
	Open   // an object with any keys, such as header names
	List   // an array of Item
)

// String returns the kind with its article, for messages.
func (k Kind) String() string {
	return [...]string{Text: "a string", Integer: "a whole number", Boolean: "true or false", Closed: "an object",
		Open: "an object", List: "an array"}[k]
}

// Fact declares one fact of the policy input. Everything else that knows the fact is derived from its declaration in Facts:
// the JSON schema, the Go type that front ends fill, the code that builds the input, the parts that the read analysis tells
// apart, and the table in the documentation.
type Fact struct {
	Name   string
	Kind   Kind
	Doc    string // in the schema, the documentation and the Go type
	Since  int    // version of the contract that added it; 0: version 1
	From   Stage  // the first stage that has it; 0: all
	Only   Stage  // the only stage that has it; 0: see From
	Always bool   // present whenever its parent is, at the stages that have it
	Fields []Fact // of a Closed object
	Item   *Fact  // element of a List, or value of an Open object

	// NeverAt names the front ends that never know the fact, as in input.server.door. They put its path into input.unknown.
	NeverAt []string
	// See is what the documentation adds to Doc: Markdown, such as a link.
	See string
	// Part says that the fact is built or left out as a whole, by whether rules read it: see Parts.
	Part bool
	// Type names the Go type in package engine that is generated for a Closed object; "": the object is built by hand.
	Type string
	// Go is the name and type of the field in the Go type of the parent: "Port uint16". The zero value is an absent fact.
	Go string
	// Shape names the fields of an object that several facts share, for the documentation; "": the fields are listed one by one.
	Shape string
}

// At reports whether a transaction at stage s can carry the fact.
func (f *Fact) At(s Stage) bool {
	if f.Only != 0 {
		return f.Only == s
	}
	return s >= f.From
}

// Field returns the field of a Closed object with that name, or nil.
func (f *Fact) Field(name string) *Fact {
	for i := range f.Fields {
		if f.Fields[i].Name == name {
			return &f.Fields[i]
		}
	}
	return nil
}

// FieldNames returns the names of the fields of an object.
func (f *Fact) FieldNames() []string {
	names := make([]string, len(f.Fields))
	for i := range f.Fields {
		names[i] = f.Fields[i].Name
	}
	return names
}

// Follow returns the fact at a path of Closed objects, or nil if there is none.
func (f *Fact) Follow(path []string) *Fact {
	for _, key := range path {
		if f = f.Field(key); f == nil {
			return nil
		}
	}
	return f
}

// Certain reports whether every transaction has the fact and what lies at path below it: every transaction at stage if inStage
// is true, every transaction at any stage otherwise.
func (f *Fact) Certain(path []string, stage Stage, inStage bool) bool {
	if !f.Always {
		return false
	}
	if inStage && !f.At(stage) || !inStage && (f.From != 0 || f.Only != 0) {
		return false
	}
	return len(path) == 0 || f.CertainBelow(path, stage, inStage)
}

// CertainBelow reports whether the object, where it is present, always has the fact at path.
func (f *Fact) CertainBelow(path []string, stage Stage, inStage bool) bool {
	if f.Kind != Closed {
		return false
	}
	next := f.Field(path[0])
	return next != nil && next.Certain(path[1:], stage, inStage)
}

// Description returns Doc and the version that added the fact.
func (f *Fact) Description() string {
	if f.Since == 0 {
		return f.Doc
	}
	return strings.TrimSpace(fmt.Sprintf("%s Since version %d.", f.Doc, f.Since))
}
