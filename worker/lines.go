package worker

import (
	"fmt"

	"github.com/offstage-dev/offstage/internal/store"
)

// What is stored of an attempt's log: its beginning, as it comes, and its end, when the attempt is over. A line counts as
// the bytes of its message and attributes and lineCost more, so that a flood of empty lines ends, too.
const (
	keepFirst   = 64 << 10
	keepLast    = 16 << 10
	lineCost    = 64
	longestLine = 8 << 10 // of a message; it is cut there
	mostAttrs   = 4 << 10 // of attributes; they become a text that is cut
)

// lines are the log of an attempt, as far as it is not stored. The caller keeps two from using it at a time.
type lines struct {
	n     int          // of the last line of the beginning
	used  int          // by the beginning
	full  bool         // the beginning is
	first []store.Line // of the beginning
	last  []store.Line // the last ones of what came then, not numbered
	room  int          // that last takes
	lost  int          // lines between first and last,
	bytes int          // and what was in them
}

// add says whether the line is one of the beginning, to be stored at once.
func (l *lines) add(line store.Line) bool {
	size := sizeOf(line)
	if !l.full && l.used+size <= keepFirst {
		l.used += size
		l.n++
		line.N = l.n
		l.first = append(l.first, line)
		return true
	}
	l.full = true
	l.last = append(l.last, line)
	l.room += size
	for l.room > keepLast && len(l.last) > 1 {
		size := sizeOf(l.last[0])
		l.room -= size
		l.lost++
		l.bytes += size - lineCost
		l.last[0] = store.Line{} // the array outlives it
		l.last = l.last[1:]
	}
	return false
}

func sizeOf(line store.Line) int { return len(line.Message) + len(line.Attrs) + lineCost }

// stored forgets the first n.
func (l *lines) stored(n int) {
	if l.first = l.first[n:]; len(l.first) == 0 {
		l.first = nil
	}
}

// rest is what is to be stored when nothing more comes.
func (l *lines) rest() []store.Line {
	if len(l.last) == 0 {
		return l.first
	}
	all, n := append([]store.Line(nil), l.first...), l.n
	if l.lost > 0 {
		n++
		all = append(all, store.Line{N: n, After: l.last[0].After, Level: "info", Message: fmt.Sprintf("… %d lines (%d bytes) left out …", l.lost, l.bytes)})
	}
	for _, line := range l.last {
		n++
		line.N = n
		all = append(all, line)
	}
	return all
}
