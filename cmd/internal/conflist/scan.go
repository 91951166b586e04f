// SPDX-License-Identifier: Apache-2.0

package conflist

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// list is a conflist, with the places of its plugins in the text.
type list struct {
	text    []byte
	plugins []element
}

// element is one of "plugins": text[start:end].
type element struct {
	start, end int
	ours       bool
}

// scan finds the plugins. It refuses what runtimes would, what two readers could read
// in two ways, and a list in which we would be alone.
func scan(text []byte) (*list, error) {
	l := &list{text: text}
	decoder := json.NewDecoder(bytes.NewReader(text))
	if !json.Valid(text) {
		return nil, fmt.Errorf("%w: it is not JSON, or half of it", ErrInvalid)
	}
	if first, err := decoder.Token(); err != nil || first != json.Delim('{') {
		return nil, fmt.Errorf("%w: it is not an object", ErrInvalid)
	}
	seen := make(map[string]bool)
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return nil, fmt.Errorf("%w: %v", ErrInvalid, err)
		}
		name := key.(string) // keys are, in valid JSON
		if seen[name] {
			return nil, fmt.Errorf("%w: it has the key %q twice", ErrInvalid, name)
		}
		seen[name] = true
		if name == "plugins" {
			err = l.scanPlugins(decoder)
		} else {
			err = decoder.Decode(new(json.RawMessage))
		}
		if err != nil {
			return nil, err
		}
	}
	if len(l.ours()) == len(l.plugins) {
		return nil, fmt.Errorf("%w: it lists no plugin to be chained after", ErrInvalid)
	}
	return l, nil
}

func (l *list) scanPlugins(decoder *json.Decoder) error {
	if first, err := decoder.Token(); err != nil || first != json.Delim('[') {
		return fmt.Errorf("%w: \"plugins\" is not a list", ErrInvalid)
	}
	for decoder.More() {
		var raw json.RawMessage
		if err := decoder.Decode(&raw); err != nil {
			return fmt.Errorf("%w: %v", ErrInvalid, err)
		}
		var plugin struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(raw, &plugin); err != nil || plugin.Type == "" {
			return fmt.Errorf("%w: plugin %d has no type", ErrInvalid, len(l.plugins)+1)
		}
		end := int(decoder.InputOffset())
		l.plugins = append(l.plugins, element{end - len(raw), end, plugin.Type == PluginName})
	}
	if _, err := decoder.Token(); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	return nil
}

// checkHead checks name and version, of a list or of a single plugin's configuration.
func checkHead(text []byte) error {
	var head struct {
		Name        string   `json:"name"`
		CNIVersion  string   `json:"cniVersion"`
		CNIVersions []string `json:"cniVersions"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	if head.Name == "" {
		return fmt.Errorf("%w: it has no name", ErrInvalid)
	}
	// Which of several the runtime takes depends on the runtime.
	versions := head.CNIVersions
	if head.CNIVersion != "" || len(versions) == 0 {
		versions = append(versions, head.CNIVersion)
	}
	for _, version := range versions {
		if !supports(version) {
			return fmt.Errorf("%w %q: dnsteer-cni speaks %v", ErrVersion, version, Versions())
		}
	}
	return nil
}

// ours are the indexes of our entries.
func (l *list) ours() []int {
	var found []int
	for i, p := range l.plugins {
		if p.ours {
			found = append(found, i)
		}
	}
	return found
}
