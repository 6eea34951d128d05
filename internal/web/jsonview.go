package web

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// What is shown of a value at once; the rest is behind a link or a click.
const (
	shownBytes  = 64 << 10 // larger values are shown as the beginning of their text
	shownValues = 2000
	shownString = 300 // characters
)

// jsonBox is a value as a page shows it: a tree that opens and closes, or its text where it is no tree or too large.
type jsonBox struct {
	Tree     *jsonItem
	Text     string
	Note     string // why it is text, and what is left out
	Size     int    // bytes
	Download string // where the whole is, without the base path
}

// jsonItem is a value in the tree.
type jsonItem struct {
	Key   string
	Keyed bool
	Index int
	Kind  string // object, array, string, number, bool or null
	Text  string // of a scalar, or its beginning
	Rest  string // of a long string
	Kids  []*jsonItem
	Len   int // of an object or array
	More  int // kids left out
	Open  bool
}

// Bracket opens and closes an object or array in text.
func (i *jsonItem) Bracket() [2]string {
	if i.Kind == "array" {
		return [2]string{"[", "]"}
	}
	return [2]string{"{", "}"}
}

// boxJSON prepares a value that has been redacted. Nil: there is none.
func boxJSON(raw json.RawMessage, download string) *jsonBox {
	if raw == nil {
		return nil
	}
	box := &jsonBox{Size: len(raw), Download: download}
	if len(raw) > shownBytes {
		box.Text, box.Note = cutText(string(raw), shownBytes), "This is the beginning; the whole is "+bytesOf(len(raw))+"."
		return box
	}
	n, err := parseJSON(raw)
	if err != nil {
		box.Text, box.Note = cutText(string(raw), shownBytes), "Shown as text: "+err.Error()+"."
		return box
	}
	budget := shownValues
	box.Tree = item(n, 0, &budget)
	return box
}

func item(n *jsonNode, depth int, budget *int) *jsonItem {
	*budget--
	it := &jsonItem{Len: len(n.kids), Open: depth < 3 && len(n.kids) <= 50}
	switch n.kind {
	case '{':
		it.Kind = "object"
	case '[':
		it.Kind = "array"
	default:
		it.Kind, it.Text = scalarKind(n.scalar), string(n.scalar)
		if it.Kind == "string" {
			text := unquote(it.Text)
			it.Text = cutText(text, shownString)
			it.Rest = text[len(it.Text):]
		}
	}
	for i, kid := range n.kids {
		if *budget <= 0 {
			it.More = len(n.kids) - i
			break
		}
		k := item(kid, depth+1, budget)
		k.Index = i
		if n.kind == '{' {
			k.Key, k.Keyed = unquote(n.keys[i]), true
		}
		it.Kids = append(it.Kids, k)
	}
	return it
}

func scalarKind(raw json.RawMessage) string {
	switch raw[0] {
	case '"':
		return "string"
	case 't', 'f':
		return "bool"
	case 'n':
		return "null"
	}
	return "number"
}

// cutText is the beginning of a text, at most n bytes, ending between characters.
func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// firstLine is what stands in a list of a text of several lines.
func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(line)
}

// bytesOf is a size for people.
func bytesOf(n int) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d bytes", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MB", float64(n)/(1<<20))
}
