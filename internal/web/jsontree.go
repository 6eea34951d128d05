package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// jsonNode is a JSON value in which every key, string and number stays as it is written, and keys keep their order, so that
// what people look at and edit is what is stored.
type jsonNode struct {
	kind   byte            // '{', '[' or 0
	scalar json.RawMessage // of kind 0
	keys   []string        // of '{', as they are written, with quotes
	kids   []*jsonNode
}

// maxTreeDepth of what is shown as a tree or edited here. PostgreSQL takes deeper values.
const maxTreeDepth = 200

var errTooDeep = fmt.Errorf("the JSON is nested more than %d levels deep", maxTreeDepth)

// parseJSON reads one value and refuses what is no JSON.
func parseJSON(raw []byte) (*jsonNode, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("the text is not UTF-8")
	}
	var whole json.RawMessage
	if err := json.Unmarshal(raw, &whole); err != nil {
		var syntax *json.SyntaxError
		if !errors.As(err, &syntax) {
			return nil, err
		}
		at := min(max(syntax.Offset, 0), int64(len(raw)))
		return nil, fmt.Errorf("line %d: %w", bytes.Count(raw[:at], []byte("\n"))+1, err)
	}
	r := &jsonReader{text: raw}
	n := r.value(0)
	if r.deep {
		return nil, errTooDeep
	}
	return n, nil
}

// jsonReader takes JSON apart that is known to be valid.
type jsonReader struct {
	text []byte
	deep bool
}

func (r *jsonReader) space() {
	r.text = bytes.TrimLeft(r.text, " \t\r\n")
}

func (r *jsonReader) value(depth int) *jsonNode {
	r.space()
	n := &jsonNode{}
	first := r.text[0]
	if first != '{' && first != '[' {
		n.scalar = r.scalar()
		return n
	}
	n.kind = first
	r.text = r.text[1:]
	if r.deep = r.deep || depth >= maxTreeDepth; r.deep {
		return n
	}
	for {
		r.space()
		switch r.text[0] {
		case ',':
			r.text = r.text[1:]
			continue
		case '}', ']':
			r.text = r.text[1:]
			return n
		}
		if n.kind == '{' {
			n.keys = append(n.keys, string(r.scalar()))
			r.space()
			r.text = r.text[1:] // the colon
		}
		n.kids = append(n.kids, r.value(depth+1))
		if r.deep {
			return n
		}
	}
}

// scalar takes a string, number, true, false or null as it is written.
func (r *jsonReader) scalar() json.RawMessage {
	end := 0
	if r.text[0] == '"' {
		for end = 1; r.text[end] != '"'; end++ {
			if r.text[end] == '\\' {
				end++
			}
		}
		end++
	} else if end = bytes.IndexAny(r.text, ",]} \t\r\n"); end < 0 {
		end = len(r.text)
	}
	s := r.text[:end]
	r.text = r.text[end:]
	return json.RawMessage(s)
}

// unquote is the text of a string as it is written in JSON.
func unquote(raw string) string {
	var s string
	if err := json.Unmarshal([]byte(raw), &s); err != nil {
		return raw
	}
	return s
}

// bytes writes the value without white space.
func (n *jsonNode) bytes() json.RawMessage { return n.append(nil, -1) }

// indented writes the value for people, keys in their own order.
func (n *jsonNode) indented() string { return string(n.append(nil, 0)) }

// append writes with an indent of two spaces a level; a negative level means none.
func (n *jsonNode) append(b []byte, level int) []byte {
	if n.kind == 0 {
		return append(b, n.scalar...)
	}
	b = append(b, n.kind)
	inner := level
	if level >= 0 {
		inner++
	}
	for i, kid := range n.kids {
		if i > 0 {
			b = append(b, ',')
		}
		if level >= 0 {
			b = append(append(b, '\n'), strings.Repeat("  ", inner)...)
		}
		if n.kind == '{' {
			b = append(append(b, n.keys[i]...), ':')
			if level >= 0 {
				b = append(b, ' ')
			}
		}
		b = kid.append(b, inner)
	}
	if level >= 0 && len(n.kids) > 0 {
		b = append(append(b, '\n'), strings.Repeat("  ", level)...)
	}
	return append(b, n.kind+2) // } follows { by two, and ] follows [
}

// canonical is the value with its keys sorted, one value a line: two that mean the same are the same.
func (n *jsonNode) canonical() []string {
	return strings.Split(n.sorted().indented(), "\n")
}

func (n *jsonNode) sorted() *jsonNode {
	out := &jsonNode{kind: n.kind, scalar: n.scalar}
	order := make([]int, len(n.kids))
	for i := range order {
		order[i] = i
	}
	if n.kind == '{' {
		slices.SortStableFunc(order, func(a, b int) int { return strings.Compare(n.keys[a], n.keys[b]) })
	}
	for _, i := range order {
		if n.kind == '{' {
			out.keys = append(out.keys, n.keys[i])
		}
		out.kids = append(out.kids, n.kids[i].sorted())
	}
	return out
}

func (n *jsonNode) equal(o *jsonNode) bool {
	return n.kind == o.kind && n.meaning() == o.meaning() && slices.EqualFunc(n.keys, o.keys, sameKey) &&
		slices.EqualFunc(n.kids, o.kids, (*jsonNode).equal)
}

// meaning is a scalar without the ways to write it: the characters of a string after its quote, the digits of a number.
func (n *jsonNode) meaning() string {
	if len(n.scalar) > 0 && n.scalar[0] == '"' {
		return `"` + unquote(string(n.scalar))
	}
	return string(n.scalar)
}

func sameKey(a, b string) bool { return a == b || unquote(a) == unquote(b) }
