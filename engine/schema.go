package engine

import (
	"bytes"
	"encoding/json"
)

// InputSchema is the JSON schema of the policy input, made of the same table as the input itself. The default bundle
// carries a copy of it for stock tools (opa check --schema); a test holds the two together.
func InputSchema() []byte {
	doc := contract().schema()
	doc["$schema"] = "http://json-schema.org/draft-07/schema#"
	doc["title"] = "Postern policy input, version 3"
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(doc); err != nil {
		panic(err) // maps of strings always encode
	}
	return b.Bytes()
}

// schema of one fact. Objects that are open get no "properties": OPA's type checker then lets any key pass.
func (f *fact) schema() map[string]any {
	out := map[string]any{}
	if f.doc != "" {
		out["description"] = f.doc
	}
	switch f.kind {
	case text:
		out["type"] = "string"
	case integer:
		out["type"] = "integer"
	case boolean:
		out["type"] = "boolean"
	case list:
		out["type"], out["items"] = "array", f.item.schema()
	case open:
		out["type"], out["additionalProperties"] = "object", f.item.schema()
	case closed:
		properties := map[string]any{}
		for i := range f.fields {
			properties[f.fields[i].name] = f.fields[i].schema()
		}
		out["type"], out["properties"], out["additionalProperties"] = "object", properties, false
	}
	return out
}
