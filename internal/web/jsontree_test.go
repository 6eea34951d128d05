package web

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestJSONTree(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, compact, indented string }{
		{`{"b":1,"a":[1.50,{}],"c":[]}`, `{"b":1,"a":[1.50,{}],"c":[]}`, "{\n  \"b\": 1,\n  \"a\": [\n    1.50,\n    {}\n  ],\n  \"c\": []\n}"},
		{` 12345678901234567890.10 `, `12345678901234567890.10`, `12345678901234567890.10`},
		{`"\ud800 \u0041 <b>"`, `"\ud800 \u0041 <b>"`, `"\ud800 \u0041 <b>"`},
		{`{"a":1,"a":2}`, `{"a":1,"a":2}`, "{\n  \"a\": 1,\n  \"a\": 2\n}"},
		{`null`, `null`, `null`},
		{`{"\"}\\":"]\"{"}`, `{"\"}\\":"]\"{"}`, "{\n  \"\\\"}\\\\\": \"]\\\"{\"\n}"},
	} {
		n, err := parseJSON([]byte(c.text))
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got := string(n.bytes()); got != c.compact {
			t.Errorf("%s: got %s", c.text, got)
		}
		if got := n.indented(); got != c.indented {
			t.Errorf("%s: got %s", c.text, got)
		}
	}
	for text, want := range map[string]string{
		"":                     "unexpected end",
		"{\n\"a\":\n}":         "line 3",
		`{"a":1} 2`:            "after top-level value",
		`{"a":01}`:             "line 1",
		"\"\xff\"":             "UTF-8",
		`{'a': 1}`:             "invalid character",
		deep(maxTreeDepth + 1): "200 levels",
	} {
		if _, err := parseJSON([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: got %v, want %q", text, err, want)
		}
	}
	if _, err := parseJSON([]byte(deep(maxTreeDepth))); err != nil {
		t.Error(err)
	}
	a, _ := parseJSON([]byte(`{"x": {"b": 1, "a": 2}, "\u0061": "\u0041"}`))
	b, _ := parseJSON([]byte(`{"\u0061":"\u0041","x":{"a":2,"b":1}}`))
	if !slices.Equal(a.canonical(), b.canonical()) {
		t.Errorf("the order of keys must not matter: %q and %q", a.canonical(), b.canonical())
	}
	c, _ := parseJSON([]byte(`{"x": {"b": 1, "a": 2}, "a": "A"}`))
	if !a.equal(c) {
		t.Error("escapes must not matter")
	}
}

func deep(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

// What is read must be written as it was, and be the same to the standard library.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{`{"a":[1,"\u0000",null,true,{"b":{}}]}`, ` [ ] `, `"\\\""`, `-1.5e+9`, `{"":{"":""}}`, deep(300), `{"a":1,"a":{}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := parseJSON(text)
		if err != nil {
			return
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, text); err != nil {
			t.Fatalf("%q: took what is no JSON: %v", text, err)
		}
		if got := n.bytes(); !bytes.Equal(got, compact.Bytes()) {
			t.Fatalf("%q: got %q, want %q", text, got, compact.Bytes())
		}
		again, err := parseJSON([]byte(n.indented()))
		if err != nil || !again.equal(n) {
			t.Fatalf("%q: indented it is another: %v", text, err)
		}
		sorted := n.canonical()
		if again, err = parseJSON([]byte(strings.Join(sorted, "\n"))); err != nil || !slices.Equal(again.canonical(), sorted) {
			t.Fatalf("%q: canonical is not: %v", text, err)
		}
		if changed(diffLines(sorted, sorted)) != 0 {
			t.Fatalf("%q: differs from itself", text)
		}
		budget := 100
		item(n, 0, &budget)
	})
}

func TestBoxJSON(t *testing.T) {
	t.Parallel()
	if boxJSON(nil, "/x") != nil {
		t.Error("nothing has a box")
	}
	long := strings.Repeat("é", 400)
	box := boxJSON(json.RawMessage(`{"long":"`+long+`","list":[1,true,null]}`), "/x")
	if box.Tree == nil || box.Text != "" || len(box.Tree.Kids) != 2 {
		t.Fatalf("got %+v", box)
	}
	if k := box.Tree.Kids[0]; k.Text+k.Rest != long || k.Rest == "" || k.Key != "long" {
		t.Errorf("the string is cut wrongly: %q and %q", k.Text, k.Rest)
	}
	if k := box.Tree.Kids[1]; k.Kind != "array" || k.Kids[1].Kind != "bool" || k.Kids[2].Kind != "null" || k.Kids[0].Kind != "number" {
		t.Errorf("got %+v", k)
	}
	huge := json.RawMessage(`"` + strings.Repeat("é", 3<<20) + `"`)
	if box := boxJSON(huge, "/x"); box.Tree != nil || len(box.Text) > shownBytes || !strings.Contains(box.Note, "6.0 MB") {
		t.Errorf("got %d bytes, %q", len(box.Text), box.Note)
	}
	if box := boxJSON(json.RawMessage(deep(5000)), "/x"); box.Tree != nil || box.Text != deep(5000) || !strings.Contains(box.Note, "nested") {
		t.Errorf("got %q", box.Note)
	}
	many := json.RawMessage("[" + strings.Repeat("1,", 5000) + "1]")
	box = boxJSON(many, "/x")
	if len(box.Tree.Kids) != shownValues-1 || box.Tree.More != 5001-(shownValues-1) || box.Tree.Open {
		t.Errorf("got %d values and %d more", len(box.Tree.Kids), box.Tree.More)
	}
}

func TestDiffLines(t *testing.T) {
	t.Parallel()
	show := func(lines []diffLine) string {
		var b strings.Builder
		for _, l := range lines {
			switch l.Op {
			case "skip":
				b.WriteString("…")
			default:
				b.WriteString(map[string]string{"same": " ", "gone": "-", "new": "+"}[l.Op] + l.Text)
			}
		}
		return b.String()
	}
	for _, c := range []struct{ from, to, want string }{
		{"abc", "abc", "…"},
		{"", "", ""},
		{"", "ab", "+a+b"},
		{"ab", "", "-a-b"},
		{"abc", "axc", " a-b+x c"},
		{"abcdef", "acdxef", " a-b c d+x e f"},
		{"123456789abcdefgh", "123456789Xbcdefgh", "… 7 8 9-a+X b c d…"},
	} {
		if got := show(diffLines(strings.Split(c.from, ""), strings.Split(c.to, ""))); got != c.want {
			t.Errorf("%q to %q: got %q, want %q", c.from, c.to, got, c.want)
		}
	}
	a, b := make([]string, 3000), make([]string, 3000)
	for i := range a {
		a[i], b[i] = "a", "b"
	}
	if got := changed(diffLines(a, b)); got != 6000 {
		t.Errorf("beyond the budget: got %d changed lines", got)
	}
}

// A difference leads from one text to the other.
func FuzzDiffLines(f *testing.F) {
	f.Add("a b c d", "a c d e")
	f.Add("", "x")
	f.Add("x x y x", "y x x x y")
	f.Fuzz(func(t *testing.T, one, other string) {
		from, to := strings.Fields(one), strings.Fields(other)
		if len(from) > 100 || len(to) > 100 {
			return
		}
		at, beyond := 0, 0
		for _, l := range diffLines(from, to) {
			switch l.Op {
			case "skip":
				if !slices.Equal(from[at:at+l.N], to[beyond:beyond+l.N]) {
					t.Fatal("lines are left out that differ")
				}
				at, beyond = at+l.N, beyond+l.N
			case "same":
				if from[at] != l.Text || to[beyond] != l.Text {
					t.Fatalf("%q is not the same", l.Text)
				}
				at, beyond = at+1, beyond+1
			case "gone":
				if from[at] != l.Text {
					t.Fatalf("%q is not there", l.Text)
				}
				at++
			case "new":
				if to[beyond] != l.Text {
					t.Fatalf("%q is not there", l.Text)
				}
				beyond++
			}
		}
		if at != len(from) || beyond != len(to) {
			t.Fatal("lines are missing")
		}
	})
}
