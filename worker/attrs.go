package worker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
)

// encodeAttrs is a JSON object that PostgreSQL takes, as slog's own JSON handler would make it, but for durations, which
// are for people; nil for no attributes.
func encodeAttrs(attrs []slog.Attr) json.RawMessage {
	if len(attrs) == 0 {
		return nil
	}
	members := appendMembers(nil, attrs)
	switch {
	case len(members) == 0:
		return nil
	case len(members) > mostAttrs:
		return append(append([]byte(`{"cut":`), quote(storable(string(members), mostAttrs/4))...), '}')
	}
	return append(append([]byte{'{'}, members...), '}')
}

func appendMembers(b []byte, attrs []slog.Attr) []byte {
	for _, a := range attrs {
		v := a.Value.Resolve()
		if a.Key == "" && v.Equal(slog.Value{}) {
			continue
		}
		var text []byte
		if v.Kind() != slog.KindGroup {
			text = encode(v)
		} else if members := appendMembers(nil, v.Group()); len(members) == 0 {
			continue // as slog's handlers
		} else if a.Key == "" {
			text = members // stand among the others
		} else {
			text = append(append([]byte{'{'}, members...), '}')
		}
		if len(b) > 0 {
			b = append(b, ',')
		}
		if a.Key != "" || v.Kind() != slog.KindGroup {
			b = append(append(b, quote(a.Key)...), ':')
		}
		b = append(b, text...)
	}
	return b
}

func encode(v slog.Value) []byte {
	switch v.Kind() {
	case slog.KindInt64:
		return strconv.AppendInt(nil, v.Int64(), 10)
	case slog.KindUint64:
		return strconv.AppendUint(nil, v.Uint64(), 10)
	case slog.KindBool:
		return strconv.AppendBool(nil, v.Bool())
	case slog.KindFloat64:
		if f := v.Float64(); !math.IsNaN(f) && !math.IsInf(f, 0) {
			return encodeAny(f)
		}
	case slog.KindTime:
		return quote(v.Time().Format(time.RFC3339Nano))
	case slog.KindAny:
		return encodeAny(v.Any())
	}
	return quote(v.String())
}

// encodeAny never fails: what is not JSON becomes text.
func encodeAny(v any) (text []byte) {
	defer func() {
		if p := recover(); p != nil { // a method of the caller's
			text = quote(fmt.Sprintf("!PANIC: %v", p))
		}
	}()
	_, isJSON := v.(json.Marshaler)
	if err, ok := v.(error); ok && !isJSON {
		return quote(err.Error())
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return quote(fmt.Sprintf("%+v", v))
	}
	text = bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if !plain(text) {
		return quote(string(text))
	}
	return text
}

// plain says that PostgreSQL can take JSON apart: it knows no NUL and no halves of characters, and nests as deep as its
// stack allows.
func plain(text []byte) bool {
	if bytes.Contains(text, []byte(`\u0000`)) || bytes.Contains(bytes.ToLower(text), []byte(`\ud`)) {
		return false
	}
	depth := 0
	for _, c := range text { // brackets within strings count, too: it is about much more than anybody reads
		switch c {
		case '[', '{':
			if depth++; depth > 100 {
				return false
			}
		case ']', '}':
			depth--
		}
	}
	return true
}

// quote is text as a JSON string that PostgreSQL takes.
func quote(text string) []byte {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(text); err != nil {
		panic("worker: a string is always JSON: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
