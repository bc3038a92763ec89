package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// InputSchema returns the JSON schema of the policy input. The default bundle
// carries a copy of it for stock tools (opa check --schema), which go generate writes.
func InputSchema() []byte {
	doc := Facts().Schema()
	doc["$schema"] = "http://json-schema.org/draft-07/schema#"
	doc["title"] = fmt.Sprintf("Postern policy input, version %d", Version)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(doc); err != nil {
		panic(err) // maps of strings always encode
	}
	return b.Bytes()
}

// Schema returns the JSON schema of the fact. An Open object gets no "properties", because the type checker of OPA then lets any
// key pass.
func (f *Fact) Schema() map[string]any {
	out := map[string]any{}
	if doc := f.Description(); doc != "" {
		out["description"] = doc
	}
	switch f.Kind {
	case Text:
		out["type"] = "string"
	case Integer:
		out["type"] = "integer"
	case Boolean:
		out["type"] = "boolean"
	case List:
		out["type"], out["items"] = "array", f.Item.Schema()
	case Open:
		out["type"], out["additionalProperties"] = "object", f.Item.Schema()
	case Closed:
		properties := map[string]any{}
		for i := range f.Fields {
			properties[f.Fields[i].Name] = f.Fields[i].Schema()
		}
		out["type"], out["properties"], out["additionalProperties"] = "object", properties, false
	}
	return out
}
