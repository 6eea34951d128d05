package guard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// redacting makes a guard with these rules alone, or with the defaults for none.
func redacting(t testing.TB, rules ...string) *Guard {
	t.Helper()
	g, err := New(Config{Redact: rules, ShowSecrets: len(rules) > 0}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestRedact(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		rules    string
		in, want string
	}{
		{"", `{"user": "ada", "password": "x", "n": 1}`, `{"user": "ada", "password": "•••", "n": 1}`},
		{"", `{"a":[{"PassWord":{"deep":[1,2]}},{"db_password_old":null}]}`, `{"a":[{"PassWord":"•••"},{"db_password_old":"•••"}]}`},
		{"", `{"apiKey":"1","api-key":"2","API_KEY":3,"x-api-key":4,"accessToken":5,"client_secret":6,"Authorization":7,"tokens":8,"pin":9}`,
			`{"apiKey":"•••","api-key":"•••","API_KEY":"•••","x-api-key":"•••","accessToken":"•••","client_secret":"•••","Authorization":"•••","tokens":8,"pin":"•••"}`},
		{"", `{"pass\u0077ord":"x","paſſword":"y","p\u0000":"z"}`, `{"pass\u0077ord":"•••","paſſword":"•••","p\u0000":"z"}`},
		{"", `{"password":"a","password":"b","password":{"password":"c"}}`, `{"password":"•••","password":"•••","password":"•••"}`},
		{"", ` {"password" : "a\"}" , "k" : "v\\" } `, ` {"password" : "•••" , "k" : "v\\" } `},
		{"", `"password"`, `"password"`},
		{"", `[]`, `[]`},
		{"", ``, ``},
		{"", `{"password":`, `"•••"`},
		{"", `nonsense`, `"•••"`},
		{"", "{\"password\":\"\xff\",\"k\":\"\xff\"}", `{"password":"•••","k":"` + "\ufffd" + `"}`},
		{"card.number", `{"card":{"number":1,"name":2},"number":3,"x":{"card":{"number":4}}}`, `{"card":{"number":"•••","name":2},"number":3,"x":{"card":{"number":4}}}`},
		{"card.number", `{"card":[{"number":1},[{"number":2}]]}`, `{"card":[{"number":"•••"},[{"number":"•••"}]]}`},
		{"card.number", `[{"card":{"number":1}}]`, `[{"card":{"number":"•••"}}]`},
		{"*.password", `{"password":1,"a":{"password":2,"b":{"password":3}},"c":[{"password":4}]}`, `{"password":1,"a":{"password":"•••","b":{"password":3}},"c":[{"password":"•••"}]}`},
		{"a.**.b", `{"a":{"b":1,"x":{"y":[{"b":2}]}},"b":3}`, `{"a":{"b":"•••","x":{"y":[{"b":"•••"}]}},"b":3}`},
		{"**.b", `{"a":{"b":1},"b":2}`, `{"a":{"b":"•••"},"b":"•••"}`},
		{"a.*", `{"a":{"x":1,"y":{"z":2}},"b":3}`, `{"a":{"x":"•••","y":"•••"},"b":3}`},
		{"a.*", `{"a":[1,{"x":2}]}`, `{"a":["•••","•••"]}`},
		{"a.*.c", `{"a":[{"c":1},{"b":{"c":2}}]}`, `{"a":[{"c":"•••"},{"b":{"c":"•••"}}]}`},
		{`a\.b`, `{"a.b":1,"a":{"b":2}}`, `{"a.b":"•••","a":{"b":2}}`},
		{"a*c d", `{"abc":1,"ac":2,"d":3,"A-C":4}`, `{"abc":"•••","ac":"•••","d":"•••","A-C":"•••"}`},
		{"k", `{"` + strings.Repeat("x", 1001) + `":1,"` + strings.Repeat("x", 999) + `":2}`, `{"` + strings.Repeat("x", 1001) + `":"•••","` + strings.Repeat("x", 999) + `":2}`},
	} {
		g := redacting(t, strings.Fields(x.rules)...)
		in := json.RawMessage(x.in)
		got := g.Redact(in)
		if string(got) != x.want {
			t.Errorf("%s of %s:\n%s instead of\n%s", x.rules, x.in, got, x.want)
		}
		if string(in) != x.in {
			t.Errorf("%s was changed to %s", x.in, in)
		}
		if again := g.Redact(got); !bytes.Equal(again, got) {
			t.Errorf("twice: %s", again)
		}
	}
}

func TestRedactRules(t *testing.T) {
	t.Parallel()
	for _, rule := range []string{"", ".", "a.", ".a", "a..b", "**", "a.**", "_", "a.-.b", strings.Repeat("a", 600), "\xff", strings.Repeat("a.", 30) + "a"} {
		if _, err := New(Config{Redact: []string{rule}}, nil); err == nil || !strings.Contains(err.Error(), "write password, *token") {
			t.Errorf("%q: %v", rule, err)
		}
	}
	if _, err := New(Config{Redact: make([]string, 201)}, nil); err == nil {
		t.Error("any number of rules")
	}
	g := redacting(t)
	if got := g.Redact(json.RawMessage(`{"password":1}`)); string(got) != `{"password":"•••"}` {
		t.Errorf("%s", got)
	}
	g, err := New(Config{ShowSecrets: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := g.Redact(json.RawMessage(`{"password":1}`)); string(got) != `{"password":1}` {
		t.Errorf("%s", got)
	}
}

// What is hostile costs time and memory in proportion to its size, and no more.
func TestRedactHostile(t *testing.T) {
	t.Parallel()
	g, err := New(Config{Redact: []string{"a.**.b.**.c.**.d", "**.x.*.**.y", "*.*.*.*.z", "*a*a*a*a*b"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wide := strings.Repeat(`{"a":{"b":[{"c":1,"password":2}]}},`, 2<<20/36)
	keys := &strings.Builder{}
	for i := range 80_000 {
		fmt.Fprintf(keys, `"passwor%d_aaaaaaaaaaaaaa":%d,`, i, i)
	}
	for name, doc := range map[string]string{
		"deep arrays":      strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000),
		"deep objects":     strings.Repeat(`{"a":`, 9_999) + `{"password":1}` + strings.Repeat("}", 9_999),
		"too deep":         strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001),
		"never closed":     strings.Repeat("[", 2<<20),
		"wide":             "[" + wide + "1]",
		"one text":         `{"k":"` + strings.Repeat("x", 2<<20) + `"}`,
		"one key":          `{"` + strings.Repeat("a", 2<<20) + `":1}`,
		"many keys":        "{" + keys.String() + `"k":1}`,
		"deep and wide":    strings.Repeat(`{"b":`, 9_000) + "[" + strings.Repeat(`{"password":"•••"},`, 60_000) + "1]" + strings.Repeat("}", 9_000),
		"escapes":          `{"` + strings.Repeat(`\u0061`, 300_000) + `":1}`,
		"larger than that": `"` + strings.Repeat("x", maxRedacted) + `"`,
	} {
		begin := time.Now()
		got := g.Redact(json.RawMessage(doc))
		if spent := time.Since(begin); spent > 20*time.Second { // a second, on a machine that does nothing else
			t.Errorf("%s took %v", name, spent)
		}
		if !json.Valid(got) {
			t.Errorf("%s gives no JSON", name)
		}
		if strings.HasPrefix(name, "too") || strings.HasPrefix(name, "never") || strings.HasPrefix(name, "larger") {
			if string(got) != `"•••"` {
				t.Errorf("%s gives %.100s", name, got)
			}
		} else if len(got) < 1000 {
			t.Errorf("%s gives %.100s", name, got)
		}
		if _, err := g.Restore(got, json.RawMessage(doc)); err != nil && string(got) != `"•••"` {
			t.Errorf("%s is not restored: %v", name, err)
		}
	}
}

func TestRedactWithin(t *testing.T) {
	t.Parallel()
	g := redacting(t, "card.number", "password", "a.**.b")
	in := `{"payload":{"card":{"number":1,"x":2},"number":3,"password":4,"a":{"c":{"b":5}}},"card":{"number":6}}`
	if got := g.RedactWithin(json.RawMessage(in)); string(got) != `{"payload":{"card":{"number":"•••","x":2},"number":3,"password":"•••","a":{"c":{"b":"•••"}}},"card":{"number":"•••"}}` {
		t.Errorf("%s", got)
	}
}

func TestHides(t *testing.T) {
	t.Parallel()
	g, err := New(Config{Redact: []string{"card.number", "list.*.pin2", "box.*"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		"password": true, "user.passWord": true, "password.x": true, "user.name": false, "card.number": true, "card.0.number": true, "card.name": false,
		"number": false, "list.0.pin2": true, "list.7.x.pin2": true, "list.a.pin2": true, "list.pin2": false, "box.0": true, "": false,
		"card.-1.number": true, "card. 0.number": true, "card.+0.number": true, "card.99999999999.number": true, "card.-.number": false, "box.-1": true, ".": false, "0.card.number": true,
	} {
		if got := g.Hides(path); got != want {
			t.Errorf("%s: %t", path, got)
		}
	}
}

func TestRestore(t *testing.T) {
	t.Parallel()
	g := redacting(t)
	original := json.RawMessage(`{"user": "ada", "password": "geheim", "list": [{"token": 1.50}, {"token": {"a": [1]}}], "k": 1}`)
	for edited, want := range map[string]string{
		string(g.Redact(original)):    string(original),
		`{"k": 2, "password": "•••"}`: `{"k": 2, "password": "geheim"}`,
		`{"password": "new"}`:         `{"password": "new"}`,
		`{"list": [{"token": "•••"}, {"token": "•••", "x": 1}]}`: `{"list": [{"token": 1.50}, {"token": {"a": [1]}, "x": 1}]}`,
		`{"password": "\u2022\u2022\u2022"}`:                     `{"password": "geheim"}`,
		`{"user": "•••"}`:                                        `{"user": "•••"}`, // that is what the payload says
	} {
		got, err := g.Restore(json.RawMessage(edited), original)
		if err != nil || string(got) != want {
			t.Errorf("%s gives %s, %v", edited, got, err)
		}
	}
	for edited, want := range map[string]string{
		`{"list": [{}, {}, {"token": "•••"}]}`: `at "token", where no hidden value was`,
		`{"a": {"password": "•••"}}`:           `at "password"`,
		`{"password": `:                        "is no JSON",
	} {
		if _, err := g.Restore(json.RawMessage(edited), original); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", edited, err)
		}
	}
}

// FuzzRedact compares with the same rules, written for values.
func FuzzRedact(f *testing.F) {
	for _, seed := range []string{
		`{"password":"x","a":[{"b":{"c":1}},2]}`, `{"a":{"b":{"x":{"c":"\u00e9"}}}}`, `[[[{"card":{"number":[1,2]}}]]]`, `{"":{"":1}}`, "\xff", `{"a.b":1,"a":{"*":{"z":{}}}}`,
		`{"pass\u0077ord":1e5, "k":-0.5}`, `"•••"`, `{"A-_":1}`, `{"list":[{"x":1},[{"y":2}]]}`, `{"a":`, `nul`,
	} {
		f.Add([]byte(seed))
	}
	rules := []string{"password", "*token", "card.number", "*.z", "a.**.c", "list.*", `a\.b`}
	g := redacting(f, rules...)
	f.Fuzz(func(t *testing.T, in []byte) {
		before := bytes.Clone(in)
		out := g.Redact(in)
		if !bytes.Equal(before, in) {
			t.Fatal("the document was changed")
		}
		if len(in) == 0 {
			return
		}
		if !json.Valid(out) {
			t.Fatalf("%q gives no JSON: %q", in, out)
		}
		if again := g.Redact(out); !bytes.Equal(again, out) {
			t.Fatalf("%q gives %q, and that %q", in, out, again)
		}
		if !json.Valid(in) {
			if len(in) > 0 && string(out) != `"•••"` && json.Valid(bytes.ToValidUTF8(in, []byte("\ufffd"))) == false {
				t.Fatalf("%q gives %q", in, out)
			}
			return
		}
		want := reference(g.rules, decodeValue(t, bytes.ToValidUTF8(in, []byte("\ufffd"))), nil)
		if got := decodeValue(t, out); !reflect.DeepEqual(got, want) {
			t.Fatalf("%q gives %q, expected %v", in, out, want)
		}
		if back, err := g.Restore(out, in); err != nil || !bytes.Equal(back, bytes.ToValidUTF8(in, []byte("\ufffd"))) && !twice(in) {
			t.Fatalf("%q is restored as %q, %v", in, back, err)
		}
	})
}

// members are those of an object, in order, with those that come twice.
type members []member
type member struct {
	key   string
	value any
}

func decodeValue(t *testing.T, doc []byte) any {
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	var value func() any
	value = func() any {
		token, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		switch token {
		case json.Delim('{'):
			m := members{}
			for dec.More() {
				key, err := dec.Token()
				if err != nil {
					t.Fatal(err)
				}
				m = append(m, member{key.(string), value()})
			}
			dec.Token()
			return m
		case json.Delim('['):
			list := []any{}
			for dec.More() {
				list = append(list, value())
			}
			dec.Token()
			return list
		}
		return token
	}
	return value()
}

func twice(doc []byte) bool {
	var find func(v any) bool
	find = func(v any) bool {
		switch v := v.(type) {
		case members:
			seen := map[string]bool{}
			for _, m := range v {
				if seen[m.key] || find(m.value) {
					return true
				}
				seen[m.key] = true
			}
		case []any:
			for _, x := range v {
				if find(x) {
					return true
				}
			}
		}
		return false
	}
	return find(decodeValue(&testing.T{}, doc))
}

// reference hides by looking at the whole path of each value.
func reference(rs *rules, v any, path []string) any {
	hides := func(path []string) bool {
		last := path[len(path)-1]
		for _, glob := range rs.anywhere {
			if last[0] == 'k' && like(glob, fold(last[1:])) {
				return true
			}
		}
		for _, parts := range rs.paths {
			if fits(parts, path) {
				return true
			}
		}
		return false
	}
	switch v := v.(type) {
	case members:
		out := members{}
		for _, m := range v {
			here := append(path[:len(path):len(path)], "k"+m.key)
			if len(fold(m.key)) > maxKey || hides(here) {
				out = append(out, member{m.key, Hidden})
			} else {
				out = append(out, member{m.key, reference(rs, m.value, here)})
			}
		}
		return out
	case []any:
		out := []any{}
		for _, x := range v {
			here := append(path[:len(path):len(path)], "i")
			if hides(here) {
				out = append(out, Hidden)
			} else {
				out = append(out, reference(rs, x, here))
			}
		}
		return out
	}
	return v
}

// fits says whether parts mean the path, to its end: elements may be passed over, unless the value itself is one.
func fits(parts []part, path []string) bool {
	switch {
	case len(parts) == 0:
		return len(path) == 0
	case len(path) == 0:
		return false
	case parts[0].any:
		return fits(parts[1:], path) || fits(parts, path[1:])
	case path[0] == "i":
		return len(path) > 1 && fits(parts, path[1:]) || parts[0].glob == "*" && fits(parts[1:], path[1:])
	}
	return like(parts[0].glob, fold(path[0][1:])) && fits(parts[1:], path[1:])
}
