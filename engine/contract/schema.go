package contract

import (
	"bytes"
	"encoding/json"
)

// InputSchema is the JSON schema of the policy input, made of the same table as the input itself. The default bundle
// carries a copy of it for stock tools (opa check --schema); a test holds the two together.
func InputSchema() []byte {
	doc := Facts().Schema()
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
func (f *Fact) Schema() map[string]any {
	out := map[string]any{}
	if doc := f.doc(); doc != "" {
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
