package guard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Hidden stands where a value is not shown.
const Hidden = "•••"

var hidden = json.RawMessage(`"` + Hidden + `"`)

// Bounds of the work on one document: a larger one is not shown at all, nor what has a longer key.
const (
	maxRedacted = 32 << 20
	maxKey      = 1000
)

// defaultRules hold unless Config.ShowSecrets.
var defaultRules = []string{
	"*password*", "passwd", "pwd", "passphrase", "*secret*", "*token", "authorization", "proxy-authorization", "*api_key", "*apikey",
	"*access_key", "*private_key", "*credentials", "cookie", "set-cookie", "*card_number", "cvc", "cvv", "pin",
}

// Redact puts "•••" for the values that a rule hides, whoever looks: nobody sees them through the web. Rules are
//
//	password       the key, wherever it is
//	*token         a key that ends so; * stands for any characters
//	card.number    the key in the key of the document itself
//	*.password     the key in any key of the document; * alone is any key or element
//	a.**.b         the key anywhere below a
//	a\.b           a key with a dot in it
//
// Case, - and _ do not count in keys: api_key is also apiKey and API-Key. Elements of arrays need no part of a rule, so that
// card.number also hides it in each card of an array. What is no JSON, nested deeper than 10,000, or larger than 32 MB is
// hidden as a whole.
func (g *Guard) Redact(raw json.RawMessage) json.RawMessage {
	return g.rules.walk(raw, func(*walker, []byte) []byte { return hidden })
}

// RedactWithin is Redact for what has payloads somewhere inside, such as entries of the audit: there, rules begin at every key.
func (g *Guard) RedactWithin(raw json.RawMessage) json.RawMessage {
	return g.within.walk(raw, func(*walker, []byte) []byte { return hidden })
}

// Restore puts the values of the original where an edited document still has "•••", so that what somebody could not see
// survives their edit. An error says that there is nothing to restore.
func (g *Guard) Restore(edited, original json.RawMessage) (json.RawMessage, error) {
	values := map[string][]byte{}
	g.rules.walk(original, func(w *walker, value []byte) []byte {
		values[w.place()] = value
		return value
	})
	if !json.Valid(edited) {
		return nil, errors.New("what was edited is no JSON")
	}
	var missing error
	whole := g.rules.walk(edited, func(w *walker, value []byte) []byte {
		var text string
		if len(value) > 100 || json.Unmarshal(value, &text) != nil || text != Hidden {
			return value
		}
		before, there := values[w.place()]
		if !there {
			missing = fmt.Errorf("%s stands at %.100q, where no hidden value was: write the value itself", Hidden, w.key())
			return value
		}
		return before
	})
	return whole, missing
}

// Hides says whether values at a path of keys, such as card.number, are hidden: then they must not be searched for either, or
// could be guessed letter by letter.
func (g *Guard) Hides(path string) bool {
	set := g.rules.start()
	for key := range strings.SplitSeq(path, ".") {
		next, hit := g.rules.step(set, fold(key), nil)
		if !hit && index(key) { // or an element
			var elements positions
			elements, hit = g.rules.element(set)
			next = union(next, elements)
		}
		if hit {
			return true
		}
		set = next
	}
	return false
}

// index says whether PostgreSQL takes a part of a path for the place of an element, if it comes to an array: as strtol reads it, from
// the end where it is negative.
func index(part string) bool {
	part = strings.TrimLeft(part, " \t\n\v\f\r")
	if part != "" && (part[0] == '-' || part[0] == '+') {
		part = part[1:]
	}
	return part != "" && strings.Trim(part, "0123456789") == ""
}

// rules are compiled: a rule is a list of parts, and a document is walked with the set of all places in rules that its path has
// come to. Rules of one key are kept apart, because they are everywhere.
type rules struct {
	anywhere []string // folded patterns
	paths    [][]part
}

type part struct {
	any  bool   // **
	glob string // folded; * alone is everything
}

// positions are places in rules.paths.
type positions []position

type position struct{ rule, part int }

func newRules(more []string, defaults bool) (*rules, error) {
	rs := &rules{}
	if defaults {
		more = slices.Concat(defaultRules, more)
	}
	if len(more) > 200 {
		return nil, fmt.Errorf("there are %d rules of what to hide, at most 200 are allowed", len(more))
	}
	for _, rule := range more {
		parts, err := parseRule(rule)
		if err != nil {
			return nil, err
		}
		if len(parts) == 1 || len(parts) == 2 && parts[0].any {
			rs.anywhere = append(rs.anywhere, parts[len(parts)-1].glob)
		} else {
			rs.paths = append(rs.paths, parts)
		}
	}
	return rs, nil
}

// everywhere are the rules with ** in front of each.
func (rs *rules) everywhere() *rules {
	all := &rules{anywhere: rs.anywhere}
	for _, parts := range rs.paths {
		if !parts[0].any {
			parts = append([]part{{any: true}}, parts...)
		}
		all.paths = append(all.paths, parts)
	}
	return all
}

func parseRule(rule string) (parts []part, err error) {
	bad := func(why string) ([]part, error) {
		return nil, fmt.Errorf("the rule %.100q of what to hide is not understood, %s: write password, *token, card.number, *.password or a.**.b", rule, why)
	}
	if len(rule) > 500 || !utf8.ValidString(rule) {
		return bad("it is too long or no UTF-8")
	}
	var key strings.Builder
	add := func() bool {
		text := key.String()
		key.Reset()
		if text == "**" {
			parts = append(parts, part{any: true})
			return true
		}
		parts = append(parts, part{glob: foldPattern(text)})
		return text != ""
	}
	for i := 0; i < len(rule); i++ {
		switch c := rule[i]; {
		case c == '\\' && i+1 < len(rule) && rule[i+1] == '.':
			i++
			key.WriteByte('.')
		case c == '.':
			if !add() {
				return bad("a part is empty")
			}
		default:
			key.WriteByte(c)
		}
	}
	if !add() {
		return bad("a part is empty")
	}
	if len(parts) > 20 {
		return bad("it has more than 20 parts")
	}
	if parts[len(parts)-1].any {
		return bad("it ends with **, which is no value")
	}
	for _, p := range parts {
		if !p.any && p.glob == "" {
			return bad("a part has nothing but - and _")
		}
	}
	return parts, nil
}

// fold is a key as rules see it.
func fold(key string) string {
	plain := true
	for i := 0; i < len(key); i++ {
		if c := key[i]; c >= utf8.RuneSelf || c == '_' || c == '-' || 'A' <= c && c <= 'Z' {
			plain = false
			break
		}
	}
	if plain {
		return key
	}
	return foldPattern(key)
}

func foldPattern(key string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '-' {
			return -1
		}
		return unicode.ToLower(unicode.ToUpper(r)) // also letters with two small forms
	}, key)
}

// like matches a pattern in which * is any characters.
func like(pattern, text string) bool {
	p, t, star, mark := 0, 0, -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && pattern[p] == text[t]:
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// start is the set before the first key.
func (rs *rules) start() (set positions) {
	for i := range rs.paths {
		set = rs.reach(set, position{i, 0})
	}
	return set
}

// reach adds a position; ** may be passed over.
func (rs *rules) reach(set positions, at position) positions {
	for !slices.Contains(set, at) {
		set = append(set, at)
		if !rs.paths[at.rule][at.part].any {
			break
		}
		at.part++ // a rule does not end with **
	}
	return set
}

// step goes into a key. hit says that its value is hidden. seen remembers which keys match the rules of one key.
func (rs *rules) step(set positions, key string, seen map[string]bool) (next positions, hit bool) {
	if len(key) > maxKey {
		return nil, true
	}
	hit, known := seen[key]
	if !known {
		hit = slices.ContainsFunc(rs.anywhere, func(glob string) bool { return like(glob, key) })
		if seen != nil && len(seen) < 1000 && len(key) < 100 {
			seen[key] = hit
		}
	}
	if hit {
		return nil, true
	}
	for _, at := range set {
		switch parts := rs.paths[at.rule]; {
		case parts[at.part].any:
			next = rs.reach(next, at)
		case like(parts[at.part].glob, key):
			if at.part == len(parts)-1 {
				return nil, true
			}
			next = rs.reach(next, position{at.rule, at.part + 1})
		}
	}
	return next, false
}

// element goes into the elements of an array: a part of a rule that is * may mean them, and needs not to.
func (rs *rules) element(set positions) (next positions, hit bool) {
	next = set
	for _, at := range set {
		parts := rs.paths[at.rule]
		if parts[at.part].glob != "*" {
			continue
		}
		if at.part == len(parts)-1 {
			return nil, true
		}
		next = rs.reach(slices.Clip(next), position{at.rule, at.part + 1})
	}
	return next, false
}

func union(a, b positions) positions {
	for _, at := range b {
		if !slices.Contains(a, at) {
			a = append(slices.Clip(a), at)
		}
	}
	return a
}

// walk calls replace for each value that a rule hides, and puts what it answers in its place. Nothing is copied unless something is replaced.
func (rs *rules) walk(raw json.RawMessage, replace func(w *walker, value []byte) []byte) json.RawMessage {
	if len(raw) == 0 {
		return raw
	}
	if len(raw) > maxRedacted {
		return hidden
	}
	if !utf8.Valid(raw) {
		raw = bytes.ToValidUTF8(raw, []byte("\ufffd"))
	}
	if !json.Valid(raw) { // or too deep
		return hidden
	}
	w := walker{rules: rs, raw: raw, replace: replace, seen: map[string]bool{}}
	w.run()
	if w.copied == 0 {
		return raw
	}
	return append(w.out, raw[w.copied:]...)
}

// walker goes through a valid document once, from value to value.
type walker struct {
	rules   *rules
	raw     []byte
	at      int
	replace func(w *walker, value []byte) []byte
	seen    map[string]bool
	stack   []level
	out     []byte
	copied  int // so much of raw is in out, or replaced
}

// level is an object or an array that has begun.
type level struct {
	set    positions // in an array: of its elements
	hidden bool      // an array whose elements are all hidden
	array  bool
	key    string // that was read last
	index  int
	place  string // of the object or array itself; "" not computed yet
}

func (w *walker) run() {
	set, hit := w.rules.start(), false
	for {
		w.space()
		start := w.at
		switch c := w.raw[w.at]; {
		case hit:
			w.skip()
			w.put(start)
		case c == '{' || c == '[':
			w.at++
			l := level{set: set, array: c == '[', index: -1}
			if l.array {
				l.set, l.hidden = w.rules.element(set)
			}
			w.stack = append(w.stack, l)
		default:
			w.skip()
		}
		var more bool
		if set, hit, more = w.next(); !more {
			return
		}
	}
}

// next goes to the next value, out of what has ended.
func (w *walker) next() (set positions, hit, more bool) {
	for len(w.stack) > 0 {
		top := &w.stack[len(w.stack)-1]
		w.space()
		switch w.raw[w.at] {
		case ',':
			w.at++
			w.space()
		case '}', ']':
			w.at++
			w.stack = w.stack[:len(w.stack)-1]
			continue
		}
		if top.array {
			top.index++
			return top.set, top.hidden, true
		}
		from := w.at
		w.skip()
		top.key = keyText(w.raw[from:w.at])
		w.space()
		w.at++ // the colon
		set, hit = w.rules.step(top.set, fold(top.key), w.seen)
		return set, hit, true
	}
	return nil, false, false
}

// keyText is a key without quotes and escapes.
func keyText(quoted []byte) string {
	if !bytes.ContainsRune(quoted, '\\') {
		return string(quoted[1 : len(quoted)-1])
	}
	var text string
	json.Unmarshal(quoted, &text) // it is valid
	return text
}

func (w *walker) space() {
	for w.at < len(w.raw) && (w.raw[w.at] == ' ' || w.raw[w.at] == '\t' || w.raw[w.at] == '\n' || w.raw[w.at] == '\r') {
		w.at++
	}
}

// skip passes over a value as a whole.
func (w *walker) skip() {
	depth := 0
	for w.at < len(w.raw) {
		switch w.raw[w.at] {
		case '"':
			for w.at++; w.raw[w.at] != '"'; w.at++ {
				if w.raw[w.at] == '\\' {
					w.at++
				}
			}
			w.at++
		case '{', '[':
			depth++
			w.at++
			continue
		case '}', ']':
			depth--
			w.at++
		case ',', ':', ' ', '\t', '\n', '\r':
			w.at++
			continue
		default: // a number, true, false, null
			for w.at < len(w.raw) && strings.IndexByte(",:]} \t\n\r", w.raw[w.at]) < 0 {
				w.at++
			}
		}
		if depth == 0 {
			return
		}
	}
}

// put asks for what stands instead of the value that has just been passed.
func (w *walker) put(start int) {
	value := w.raw[start:w.at]
	instead := w.replace(w, value)
	if bytes.Equal(instead, value) {
		return
	}
	w.out = append(append(w.out, w.raw[w.copied:start]...), instead...)
	w.copied = w.at
}

// place names where the value stands, by all keys and indices above it, in a text of fixed length. Each level's is computed
// once, and no more than asked for.
func (w *walker) place() string {
	i := len(w.stack) - 1
	for i > 0 && w.stack[i].place == "" {
		i--
	}
	if i == 0 {
		w.stack[0].place = "."
	}
	at := func(l *level) string { return string(hashOf(l.place + l.name())) }
	for i++; i < len(w.stack); i++ {
		w.stack[i].place = at(&w.stack[i-1])
	}
	return at(&w.stack[len(w.stack)-1])
}

func (l *level) name() string {
	if l.array {
		return "[" + strconv.Itoa(l.index)
	}
	return "." + l.key
}

// key is that of the value, or its index.
func (w *walker) key() string { return w.stack[len(w.stack)-1].name()[1:] }
