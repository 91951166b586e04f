// SPDX-License-Identifier: Apache-2.0

package conflist

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
)

// insert returns a conflist with our entry in it once: as the last of its plugins, or
// where it already is, unless that is before all others. One who has chained himself
// after us is left there; we do nothing to the result that he could miss. The very text
// is returned if all is as it should be, however it is laid out.
func insert(text []byte, entry Entry) ([]byte, error) {
	l, err := scan(text)
	if err == nil {
		err = checkHead(text)
	}
	if err != nil {
		return nil, err
	}
	if found := l.ours(); len(found) == 1 && found[0] > 0 {
		have := l.plugins[found[0]]
		if sameJSON(text[have.start:have.end], entry.text()) {
			return text, nil
		}
		return slices.Concat(text[:have.start], entry.text(), text[have.end:]), nil
	}
	if text, err = remove(text); err != nil {
		return nil, err
	}
	if l, err = scan(text); err != nil {
		return nil, err
	}
	last := l.plugins[len(l.plugins)-1]
	// As the last one is set off from what is before it, so is ours.
	return slices.Concat(text[:last.end], []byte(","), l.lead(last), entry.text(), text[last.end:]), nil
}

// lead is the white space before an element.
func (l *list) lead(e element) []byte {
	before := l.text[:e.start]
	return before[len(bytes.TrimRight(before, " \t\r\n")):]
}

// remove returns a conflist without entries of ours: what insert added goes, to the byte.
func remove(text []byte) ([]byte, error) {
	for {
		l, err := scan(text)
		if err != nil {
			return nil, err
		}
		found := l.ours()
		if len(found) == 0 {
			return text, nil
		}
		i := found[len(found)-1]
		from, to := l.plugins[i].start, 0
		if i > 0 {
			from, to = l.plugins[i-1].end, l.plugins[i].end
		} else {
			to = l.plugins[1].start // there is another, or scan had refused
		}
		text = slices.Concat(text[:from], text[to:])
	}
}

// convert makes a conflist of the configuration of a single plugin, as runtimes do
// that read one, with our entry.
func convert(text []byte, entry Entry) ([]byte, error) {
	var conf struct {
		Name       string `json:"name"`
		CNIVersion string `json:"cniVersion"`
		Type       string `json:"type"`
	}
	if err := json.Unmarshal(text, &conf); err != nil {
		return nil, fmt.Errorf("%w: it is not JSON, or half of it", ErrInvalid)
	}
	if conf.Type == "" || conf.Type == PluginName {
		return nil, fmt.Errorf("%w: it has no plugin to be chained after", ErrInvalid)
	}
	if err := checkHead(text); err != nil {
		return nil, err
	}
	version, _ := json.Marshal(conf.CNIVersion) // strings cannot fail
	name, _ := json.Marshal(conf.Name)
	out := fmt.Appendf(nil, "{\n  \"cniVersion\": %s,\n  \"name\": %s,\n  \"plugins\": [\n    %s,\n    %s\n  ]\n}\n",
		version, name, bytes.TrimSpace(text), entry.text())
	return out, nil
}

func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}
