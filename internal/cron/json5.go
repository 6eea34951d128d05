package cron

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep objects and arrays of a payload nest.
const maxDepth = 100

// parseJSON5 turns one line of JSON5 into JSON. Numbers keep the digits they are written with, and of keys that come
// twice the last value counts. The errors are those of the npm package json5, which Graphile Worker uses, with the
// column at which reading stopped; but what JSON cannot hold (Infinity, NaN) is an error here, and not null.
func parseJSON5(text string) (json.RawMessage, error) {
	r := &json5{text: text}
	out, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if err := r.skip(); err != nil {
		return nil, err
	}
	if _, ok := r.peek(); ok {
		return nil, r.invalid()
	}
	return out, nil
}

// json5 reads characters of text from pos on. Columns count UTF-16, as JavaScript does.
type json5 struct {
	text        string
	pos, column int
}

// end is what peek returns at the end.
const end = -1

func (r *json5) peek() (rune, bool) {
	if r.pos == len(r.text) {
		return end, false
	}
	c, _ := utf8.DecodeRuneInString(r.text[r.pos:])
	return c, true
}

func (r *json5) read() rune {
	c, size := utf8.DecodeRuneInString(r.text[r.pos:])
	if size == 0 {
		r.column++
		return end
	}
	r.pos += size
	r.column += utf16.RuneLen(c)
	return c
}

// accept reads the next character if it is one of those.
func (r *json5) accept(chars string) (rune, bool) {
	if c, ok := r.peek(); ok && strings.ContainsRune(chars, c) {
		return r.read(), true
	}
	return 0, false
}

// invalid complains about the next character.
func (r *json5) invalid() error {
	c := r.read()
	if c == end {
		return failf("JSON5: invalid end of input at 1:%d", r.column)
	}
	shown := string(c)
	if named, ok := escaped[c]; ok {
		shown = named
	} else if c < ' ' {
		shown = fmt.Sprintf(`\x%02x`, c)
	}
	return failf("JSON5: invalid character '%s' at 1:%d", shown, r.column)
}

// refuse complains about what has just been read: JSON5, but nothing that we take.
func (r *json5) refuse(what string) error {
	return fmt.Errorf("%s, at 1:%d", what, r.column)
}

var escaped = map[rune]string{
	'\'': `\'`, '"': `\"`, '\\': `\\`, '\b': `\b`, '\f': `\f`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '\v': `\v`, 0: `\0`,
	0x2028: `\u2028`, 0x2029: `\u2029`,
}

// skip passes white space and comments.
func (r *json5) skip() error {
	for {
		c, _ := r.peek()
		switch {
		case c >= '\t' && c <= '\r', c == 0xfeff, c == 0x2028, c == 0x2029, unicode.Is(unicode.Zs, c):
			r.read()
		case c == '/':
			r.read()
			if err := r.comment(); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// comment reads one whose first slash has been read. What begins with // ends with the line, which is all there is.
func (r *json5) comment() error {
	kind, ok := r.accept("*/")
	if !ok {
		return r.invalid()
	}
	for kind == '/' || !strings.HasPrefix(r.text[r.pos:], "*/") {
		if _, more := r.peek(); !more {
			if kind == '/' {
				return nil
			}
			return r.invalid()
		}
		r.read()
	}
	r.read()
	r.read()
	return nil
}

func (r *json5) value(depth int) ([]byte, error) {
	if err := r.skip(); err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, r.refuse(fmt.Sprintf("more than %d levels", maxDepth))
	}
	c, _ := r.peek()
	switch {
	case c == '{':
		r.read()
		return r.object(depth)
	case c == '[':
		r.read()
		return r.array(depth)
	case c == 'n':
		return r.literal("null")
	case c == 't':
		return r.literal("true")
	case c == 'f':
		return r.literal("false")
	case c == '"' || c == '\'':
		units, err := r.quoted()
		return encode(units), err
	}
	return r.number()
}

func (r *json5) literal(word string) ([]byte, error) {
	for _, want := range word {
		if c, _ := r.peek(); c != want {
			return nil, r.invalid()
		}
		r.read()
	}
	return []byte(word), nil
}

func (r *json5) array(depth int) ([]byte, error) {
	out := []byte{'['}
	for {
		if err := r.skip(); err != nil {
			return nil, err
		}
		if _, ok := r.accept("]"); ok {
			return append(out, ']'), nil
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		value, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, value...)
		if err := r.separator("]"); err != nil {
			return nil, err
		}
	}
}

func (r *json5) object(depth int) ([]byte, error) {
	var members [][2][]byte
	at := map[string]int{}
	for {
		if err := r.skip(); err != nil {
			return nil, err
		}
		if _, ok := r.accept("}"); ok {
			return join(members), nil
		}
		name, value, err := r.member(depth)
		if err != nil {
			return nil, err
		}
		if i, twice := at[string(name)]; twice {
			members[i][1] = value
		} else {
			at[string(name)] = len(members)
			members = append(members, [2][]byte{name, value})
		}
		if err := r.separator("}"); err != nil {
			return nil, err
		}
	}
}

func join(members [][2][]byte) []byte {
	out := []byte{'{'}
	for i, m := range members {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, m[0]...), ':'), m[1]...)
	}
	return append(out, '}')
}

func (r *json5) member(depth int) (name, value []byte, err error) {
	var units []uint16
	if c, _ := r.peek(); c == '"' || c == '\'' {
		units, err = r.quoted()
	} else {
		units, err = r.identifier()
	}
	if err != nil {
		return nil, nil, err
	}
	if err := r.skip(); err != nil {
		return nil, nil, err
	}
	if _, ok := r.accept(":"); !ok {
		return nil, nil, r.invalid()
	}
	value, err = r.value(depth + 1)
	return encode(units), value, err
}

// separator reads a comma, or leaves the closing bracket to the caller.
func (r *json5) separator(closing string) error {
	if err := r.skip(); err != nil {
		return err
	}
	if _, ok := r.accept(","); ok || strings.HasPrefix(r.text[r.pos:], closing) {
		return nil
	}
	return r.invalid()
}

func (r *json5) identifier() ([]uint16, error) {
	var units []uint16
	for {
		c, _ := r.peek()
		may := identifierStart
		if units != nil {
			may = identifierPart
		}
		switch {
		case c == '\\':
			r.read()
			if _, ok := r.accept("u"); !ok {
				return nil, r.invalid()
			}
			u, err := r.hex(4)
			if err != nil {
				return nil, err
			}
			if !may(rune(u)) {
				return nil, failf("JSON5: invalid identifier character at 1:%d", r.column-5)
			}
			units = append(units, u)
		case may(c):
			units = utf16.AppendRune(units, r.read())
		case units == nil:
			return nil, r.invalid()
		default:
			return units, nil
		}
	}
}

func identifierStart(c rune) bool {
	return c == '$' || c == '_' || unicode.In(c, unicode.L, unicode.Nl, unicode.Other_ID_Start)
}

func identifierPart(c rune) bool {
	return identifierStart(c) || c == 0x200c || c == 0x200d ||
		unicode.In(c, unicode.Mn, unicode.Mc, unicode.Nd, unicode.Pc, unicode.Other_ID_Continue)
}

func (r *json5) quoted() ([]uint16, error) {
	quote := r.read()
	units := []uint16{}
	for {
		c, _ := r.peek()
		switch c {
		case quote:
			r.read()
			return units, nil
		case '\\':
			r.read()
			u, err := r.escape()
			if err != nil {
				return nil, err
			}
			units = append(units, u...)
		case end, '\n', '\r':
			return nil, r.invalid()
		default:
			units = utf16.AppendRune(units, r.read())
		}
	}
}

// escape reads what follows a backslash.
func (r *json5) escape() ([]uint16, error) {
	const from, to = "bfnrtv", "\b\f\n\r\t\v"
	c, _ := r.peek()
	if c == end || c >= '1' && c <= '9' {
		return nil, r.invalid()
	}
	switch r.read(); c {
	case 'x', 'u':
		digits := 2
		if c == 'u' {
			digits = 4
		}
		u, err := r.hex(digits)
		return []uint16{u}, err
	case '0':
		if d, _ := r.peek(); digit(d) {
			return nil, r.invalid()
		}
		return []uint16{0}, nil
	case '\n', 0x2028, 0x2029: // a line that goes on
		return nil, nil
	case '\r':
		r.accept("\n")
		return nil, nil
	}
	if i := strings.IndexRune(from, c); i >= 0 {
		c = rune(to[i])
	}
	return utf16.AppendRune(nil, c), nil
}

func (r *json5) hex(digits int) (uint16, error) {
	at := r.pos
	for range digits {
		if c, _ := r.peek(); !hexDigit(c) {
			return 0, r.invalid()
		}
		r.read()
	}
	u, err := strconv.ParseUint(r.text[at:r.pos], 16, 16)
	return uint16(u), err
}

// encode writes a string as JSON. Halves of characters stay escapes.
func encode(units []uint16) []byte {
	out := []byte{'"'}
	for i := 0; i < len(units); i++ {
		c := rune(units[i])
		if utf16.IsSurrogate(c) && i+1 < len(units) {
			if both := utf16.DecodeRune(c, rune(units[i+1])); both != unicode.ReplacementChar {
				out = utf8.AppendRune(out, both)
				i++
				continue
			}
		}
		switch {
		case c == '"' || c == '\\':
			out = append(out, '\\', byte(c))
		case c < ' ' || utf16.IsSurrogate(c):
			out = fmt.Appendf(out, `\u%04x`, c)
		default:
			out = utf8.AppendRune(out, c)
		}
	}
	return append(out, '"')
}

func digit(c rune) bool    { return c >= '0' && c <= '9' }
func hexDigit(c rune) bool { return digit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }

func (r *json5) number() ([]byte, error) {
	var out []byte
	if sign, ok := r.accept("+-"); ok && sign == '-' {
		out = append(out, '-')
	}
	switch c, _ := r.peek(); c {
	case 'I', 'N':
		word := map[rune]string{'I': "Infinity", 'N': "NaN"}[c]
		if _, err := r.literal(word); err != nil {
			return nil, err
		}
		return nil, r.refuse("JSON has no " + word)
	case '0':
		r.read()
		if _, ok := r.accept("xX"); ok {
			return r.hexadecimal(out)
		}
		out = append(out, '0')
	default:
		if c != '.' && !digit(c) {
			return nil, r.invalid()
		}
		whole := r.digits()
		if whole == "" {
			whole = "0"
			if next := r.text[r.pos+1:]; next == "" || !digit(rune(next[0])) {
				r.read()
				return nil, r.invalid()
			}
		}
		out = append(out, whole...)
	}
	return r.fraction(out)
}

// fraction reads the rest of a decimal number: .5e-3.
func (r *json5) fraction(out []byte) ([]byte, error) {
	if _, ok := r.accept("."); ok {
		if digits := r.digits(); digits != "" {
			out = append(append(out, '.'), digits...)
		}
	}
	if _, ok := r.accept("eE"); ok {
		out = append(out, 'e')
		if sign, ok := r.accept("+-"); ok {
			out = append(out, byte(sign))
		}
		digits := r.digits()
		if digits == "" {
			return nil, r.invalid()
		}
		out = append(out, digits...)
	}
	if n, _ := strconv.ParseFloat(string(out), 64); math.IsInf(n, 0) {
		return nil, r.refuse("a number is too large")
	}
	return out, nil
}

func (r *json5) digits() string {
	at := r.pos
	for c, _ := r.peek(); digit(c); c, _ = r.peek() {
		r.read()
	}
	return r.text[at:r.pos]
}

func (r *json5) hexadecimal(out []byte) ([]byte, error) {
	at := r.pos
	for c, _ := r.peek(); hexDigit(c); c, _ = r.peek() {
		r.read()
	}
	if r.pos == at {
		return nil, r.invalid()
	}
	n, err := strconv.ParseUint(r.text[at:r.pos], 16, 64)
	if err != nil {
		return nil, r.refuse("a hexadecimal number has more than 64 bits")
	}
	return strconv.AppendUint(out, n, 10), nil
}
