package node

import (
	"encoding/json"
	"testing"
)

// What is put into a frame stays a JSON array, also behind the empty one that asks a process whether it still turns.
func TestFrames(t *testing.T) {
	t.Parallel()
	item := func(b []byte) []byte { return append(b, `["a",1]`...) }
	for _, c := range []struct {
		what  string
		items []func([]byte) []byte
		want  int
	}{
		{"an attempt", []func([]byte) []byte{item}, 1},
		{"two", []func([]byte) []byte{item, item}, 2},
		{"nothing", []func([]byte) []byte{nil}, 0},
		{"nothing, then two", []func([]byte) []byte{nil, item, item}, 2},
		{"two, then nothing", []func([]byte) []byte{item, item, nil}, 2},
		{"nothing twice", []func([]byte) []byte{nil, nil}, 0},
	} {
		p := &process{writing: make(chan struct{}, 1)}
		for _, add := range c.items {
			p.append(add)
		}
		var got []json.RawMessage
		if err := json.Unmarshal(append(p.out, ']'), &got); err != nil || len(got) != c.want {
			t.Errorf("%s: the frame %s] has %d items, %v; expected %d", c.what, p.out, len(got), err, c.want)
		}
		if len(p.writing) != 1 {
			t.Errorf("%s: nobody is told to write", c.what)
		}
	}
}
