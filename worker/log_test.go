package worker

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

func TestKeeper(t *testing.T) {
	t.Parallel()
	var passed bytes.Buffer
	var kept lines
	// The log of the worker takes errors only; what is kept does not depend on that.
	log := slog.New(&keeper{next: slog.NewTextHandler(&passed, &slog.HandlerOptions{Level: slog.LevelError}), lines: &kept})
	log.Debug("not kept")
	log.Info("plain")
	log.With("a", 1).With("b", "two words").Warn("careful", "c", time.Second)
	log.WithGroup("group").Error("broken")
	want := []string{"plain", "WARN careful a=1 b=two words c=1s", "ERROR broken"}
	got := strings.Split(strings.TrimSuffix(kept.text(), "\n"), "\n")
	if len(got) != len(want) {
		t.Fatalf("kept %q, expected %d lines", got, len(want))
	}
	for i, line := range got {
		clock, rest, _ := strings.Cut(line, " ")
		if _, err := time.Parse("15:04:05.000", clock); err != nil || rest != want[i] {
			t.Errorf("line %d is %q, expected a time and %q", i, line, want[i])
		}
	}
	if text := passed.String(); strings.Contains(text, "careful") || !strings.Contains(text, "broken") {
		t.Errorf("the worker's own log got %q", text)
	}
}

func TestLogOutsideOfAttempts(t *testing.T) {
	t.Parallel()
	if Log(t.Context()) != slog.Default() {
		t.Error("outside of an attempt it is not the default logger")
	}
	mine := slog.New(slog.DiscardHandler)
	if Log(WithLog(t.Context(), mine)) != mine {
		t.Error("the logger of WithLog is not used")
	}
}

func TestLinesNone(t *testing.T) {
	t.Parallel()
	var l lines
	if text := l.text(); text != "" {
		t.Errorf("nothing was logged, and %q was kept", text)
	}
}

// Handlers log from many goroutines, and some are still at it when the attempt is settled.
func TestLinesConcurrently(t *testing.T) {
	t.Parallel()
	var l lines
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 2000 {
				l.add(fmt.Sprintf("goroutine %d, line %d: %s", g, i, strings.Repeat("x", i%100)))
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			if text := l.text(); !utf8.ValidString(text) || len(text) > 3*keepLog {
				t.Errorf("%d bytes were kept", len(text))
				return
			}
			if strings.Count(l.text(), "bytes left out") > 1 {
				t.Error("two gaps in the log")
				return
			}
			if l.full() {
				return
			}
		}
	})
	all.Wait()
	cancel()
	if !l.full() {
		t.Error("the test did not fill the buffer")
	}
}

func (l *lines) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped > 0
}

// checkLines compares what is kept of a log with the whole of it.
func checkLines(t *testing.T, all []string) {
	t.Helper()
	var l lines
	var whole strings.Builder
	for _, line := range all {
		l.add(line)
		whole.WriteString(line + "\n")
	}
	text := l.text()
	if len(text) > 2*keepLog+100 {
		t.Fatalf("%d bytes are kept", len(text))
	}
	before, after, gap := strings.Cut(text, "… ")
	if !gap {
		if text != whole.String() {
			t.Fatalf("nothing is said to be left out, and %d bytes became %d", whole.Len(), len(text))
		}
		return
	}
	var dropped int
	if _, err := fmt.Sscanf(after, "%d bytes left out …\n", &dropped); err != nil {
		t.Fatalf("the gap reads %.50q", after)
	}
	_, tail, _ := strings.Cut(after, "…\n")
	if !strings.HasPrefix(whole.String(), before) {
		t.Errorf("the %d bytes before the gap are not the beginning", len(before))
	}
	if !strings.HasSuffix(whole.String(), tail) {
		t.Errorf("the %d bytes after the gap are not the end", len(tail))
	}
	if len(before)+dropped+len(tail) != whole.Len() {
		t.Errorf("%d + %d left out + %d bytes, expected %d", len(before), dropped, len(tail), whole.Len())
	}
	if len(tail) < min(keepLog, whole.Len()-len(before)) {
		t.Errorf("%d bytes of the end are kept, and %d at the beginning, of %d", len(tail), len(before), whole.Len())
	}
}

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
		"an empty line":  {""},
		"some":           many(10, short),
		"just full":      many(2*keepLog/100, short),
		"a little more":  many(2*keepLog/100+1, short),
		"very many":      many(50_000, short),
		"one long":       {strings.Repeat("b", keepLog+1)},
		"one very long":  {strings.Repeat("b", 10*keepLog)},
		"short and long": append(many(3, short), strings.Repeat("b", 5*keepLog), short),
		"long and many":  append([]string{strings.Repeat("b", 5*keepLog)}, many(400, short)...),
		"exactly":        {strings.Repeat("b", keepLog-1), "c"},
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); checkLines(t, all) })
	}
}
