package lines

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func split(limit int, chunks ...string) []string {
	var got []string
	l := &Writer{Limit: limit, Emit: func(line string) { got = append(got, line) }}
	for _, c := range chunks {
		_, _ = l.Write([]byte(c))
	}
	l.Flush()
	return got
}

func TestLines(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limit int
		in    []string
		want  []string
	}{
		"nothing":                {10, []string{""}, nil},
		"lines":                  {10, []string{"a\nb\n"}, []string{"a", "b"}},
		"unterminated":           {10, []string{"a\nb"}, []string{"a", "b"}},
		"empty lines":            {10, []string{"\n\n"}, []string{"", ""}},
		"crlf":                   {10, []string{"a\r\nb\rc\r\n\r\n"}, []string{"a", "b\rc", ""}},
		"crlf across chunks":     {10, []string{"a\r", "\nb"}, []string{"a", "b"}},
		"rune across chunks":     {10, []string{"gr\xc3", "\xbc\xc3\x9fe\n"}, []string{"grüße"}},
		"invalid":                {10, []string{"a\xff\xfeb\n\xc3\n"}, []string{"a\uFFFDb", "\uFFFD"}},
		"surrogate":              {10, []string{"\xed\xa0\x80\n"}, []string{"\uFFFD"}},
		"nul":                    {10, []string{"a\x00b\n\x00\n"}, []string{"ab", ""}},
		"exactly the limit":      {3, []string{"abc\n", "abc\r\n"}, []string{"abc", "abc"}},
		"longer":                 {3, []string{"abcd\nx\n"}, []string{"abc … [cut: 4 bytes in all]", "x"}},
		"longer in chunks":       {3, []string{"ab", "cd", "ef", "g\nx"}, []string{"abc … [cut: 7 bytes in all]", "x"}},
		"longer, unterminated":   {3, []string{"abcdef"}, []string{"abc … [cut: 6 bytes in all]"}},
		"cut inside a rune":      {4, []string{"abc€€\n"}, []string{"abc … [cut: 9 bytes in all]"}},
		"cut between runes":      {4, []string{"\xc3\xbc\xc3\xbcx\n"}, []string{"üü … [cut: 5 bytes in all]"}},
		"carriage return is cut": {2, []string{"abc\r\n"}, []string{"ab … [cut: 4 bytes in all]"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := split(c.limit, c.in...); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestLinesHoldNoMoreThanTheLimit(t *testing.T) {
	t.Parallel()
	l := &Writer{Limit: 1000, Emit: func(string) {}}
	chunk := bytes.Repeat([]byte("x"), 32<<10)
	for range 1000 {
		_, _ = l.Write(chunk)
	}
	if cap(l.held) > 4000 {
		t.Errorf("holds %d bytes", cap(l.held))
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nb\r\nc"), uint8(1), uint8(3))
	f.Add([]byte("gr\xc3\xbc\xc3\x9fe\x00\n\xff\xff"), uint8(2), uint8(1))
	f.Add([]byte("\r\r\n\n\r"), uint8(0), uint8(2))
	f.Add([]byte("€€€\r\n"), uint8(4), uint8(5))
	f.Fuzz(func(t *testing.T, in []byte, limit, size uint8) {
		whole := split(int(limit), string(in))
		var chunks []string
		for chunk := range slices.Chunk(in, int(size)+1) {
			chunks = append(chunks, string(chunk))
		}
		if got := split(int(limit), chunks...); !slices.Equal(got, whole) {
			t.Fatalf("in chunks %q, whole %q", got, whole)
		}
		count := bytes.Count(in, []byte("\n"))
		if len(in) > 0 && in[len(in)-1] != '\n' {
			count++
		}
		if len(whole) != count {
			t.Fatalf("%d lines, want %d: %q", len(whole), count, whole)
		}
		for _, line := range whole {
			if !utf8.ValidString(line) || strings.ContainsAny(line, "\x00\n") {
				t.Fatalf("line %q", line)
			}
			if text, _, cut := strings.Cut(line, " … [cut: "); cut && len(text) > 3*int(limit) {
				t.Fatalf("line of %d bytes with limit %d", len(text), limit)
			}
		}
	})
}
