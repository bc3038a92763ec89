package config

import (
	"reflect"

	"github.com/postern-mail/postern/internal/yamldoc"
)

// Changed returns the keys whose values in next are others than in c, in the order of their names. It returns none if both mean the same, as
// when a key was added with its default. Both were read from files.
func (c *Config) Changed(next *Config) []string {
	if reflect.DeepEqual(c.values(), next.values()) {
		return nil
	}
	keys := yamldoc.Changed(c.doc, next.doc)
	if len(keys) == 0 {
		keys = []string{"hostname"} // the only value that depends on the system, where the file does not write it
	}
	return keys
}

// values returns a copy of c without the text that it was read from.
func (c *Config) values() Config {
	v := *c
	v.doc, v.at = nil, nil
	return v
}
