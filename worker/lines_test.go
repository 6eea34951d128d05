package worker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/offstage-dev/offstage/internal/store"
)

// The beginning is stored as it comes, the end when it is over; what is missing between them is counted.
func TestLines(t *testing.T) {
	t.Parallel()
	short := strings.Repeat("a", 99)
	many := func(n int, line string) []string {
		list := make([]string, n)
		for i := range list {
			list[i] = line
		}
		return list
	}
	for name, all := range map[string][]string{
		"none":           nil,
		"an empty line":  {""},
		"some":           many(10, short),
		"many empty":     many(100_000, ""),
		"just full":      many(keepFirst/(99+lineCost), short),
		"a little more":  many(keepFirst/(99+lineCost)+2, short),
		"very many":      many(50_000, short),
		"the longest":    many(50, strings.Repeat("b", longestLine)),
		"short and long": append(many(1000, short), strings.Repeat("b", longestLine), short),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkLines(t, all)
		})
	}
}

func checkLines(t *testing.T, all []string) {
	t.Helper()
	var l lines
	var stored []store.Line
	held := 0
	for i, text := range all {
		if l.add(store.Line{Message: text, After: float64(i)}) && i%3 == 0 { // the reporter comes now and then
			stored = append(stored, l.first...)
			l.stored(len(l.first))
		}
		held = max(held, cap(l.first)+cap(l.last))
	}
	if held > 2*(keepFirst+keepLast)/lineCost {
		t.Errorf("room for %d lines was taken", held)
	}
	stored = append(stored, l.rest()...)
	kept, gaps, lost, bytes := 0, 0, 0, 0
	for i, line := range stored {
		if line.N != i+1 {
			t.Fatalf("line %d has the number %d", i+1, line.N)
		}
		if _, err := fmt.Sscanf(line.Message, "… %d lines (%d bytes) left out …", &lost, &bytes); err == nil {
			gaps++
			continue
		}
		at := i
		if gaps > 0 {
			at += lost - 1
		}
		if line.After != float64(at) || line.Message != all[at] {
			t.Fatalf("line %d is %.20q at %v, expected line %d of the log", i+1, line.Message, line.After, at+1)
		}
		kept += sizeOf(line)
	}
	whole := 0
	for _, text := range all {
		whole += len(text) + lineCost
	}
	if gaps > 1 || gaps == 0 && kept != whole || kept+bytes+lost*lineCost != whole || kept > keepFirst+keepLast+longestLine {
		t.Errorf("%d bytes stored, %d left out of %d, %d gaps", kept, bytes, whole, gaps)
	}
}
