package worker

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage"
)

// keptBy is what a keeper in front of next keeps, as lines of text.
func keptBy(next slog.Handler, use func(*slog.Logger)) (kept []string) {
	use(slog.New(&keeper{next: next, scopes: make([]scope, 1), keep: func(level slog.Level, message string, attrs []slog.Attr) {
		kept = append(kept, strings.TrimSpace(fmt.Sprintf("%v %s %s", level, message, string(encodeAttrs(attrs)))))
	}}))
	return kept
}

func TestKeeper(t *testing.T) {
	t.Parallel()
	var passed bytes.Buffer
	// The log of the worker takes errors only; what is kept does not depend on that.
	kept := keptBy(slog.NewTextHandler(&passed, &slog.HandlerOptions{Level: slog.LevelError}), func(log *slog.Logger) {
		log.Debug("not kept")
		log.Info("plain")
		log.With("a", 1).With("b", "two <words>").Warn("careful", "c", time.Second)
		group := log.With("a", 1).WithGroup("g").With("b", true)
		group.WithGroup("h").Error("broken", "c", errors.New("no luck"), "d", map[string]int{"x": 1})
		group.Log(t.Context(), slog.LevelInfo+2, "between", slog.Group("", "c", nil), slog.Group("empty"), "t", time.Unix(0, 5).UTC())
		log.WithGroup("nothing").Info("in it")
	})
	want := []string{
		`INFO plain`, `WARN careful {"a":1,"b":"two <words>","c":"1s"}`,
		`ERROR broken {"a":1,"g":{"b":true,"h":{"c":"no luck","d":{"x":1}}}}`,
		`INFO+2 between {"a":1,"g":{"b":true,"c":null,"t":"1970-01-01T00:00:00.000000005Z"}}`, `INFO in it`,
	}
	if !slices.Equal(kept, want) {
		t.Errorf("kept\n%s\nwant\n%s", strings.Join(kept, "\n"), strings.Join(want, "\n"))
	}
	if text := passed.String(); strings.Contains(text, "careful") || !strings.Contains(text, "g.h.c=\"no luck\"") {
		t.Errorf("the worker's own log got %q", text)
	}
}

type panics struct{}

func (panics) MarshalJSON() ([]byte, error) { panic("on purpose") }

// Whatever the attributes are, they are JSON that PostgreSQL takes, and not too long.
func TestAttrs(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 500) + strings.Repeat("]", 500)
	for want, value := range map[string]any{
		`"NaN"`:                   math.NaN(),
		`0.5`:                     float32(0.5),
		`18446744073709551615`:    uint64(math.MaxUint64),
		`"1m0s"`:                  time.Minute,
		`"a\ufffdb\ufffd"`:        "a\x00b\xff",
		`"!PANIC: on purpose"`:    panics{},
		`["<a>",1]`:               []any{"<a>", 1},
		`"{\"a\":\"\\u0000\"}"`:   map[string]string{"a": "\x00"},
		`"[\"\\ud800\"]"`:         rawJSON(`["\ud800"]`),
		quoted(deep):              rawJSON(deep),
		`"&{Reader:<nil> n:<ni`:   nil,
		`"1970-01-01T00:00:01Z"`:  time.Unix(1, 0).UTC(),
		`{"a":{"b":[true,null]}}`: map[string]any{"a": map[string]any{"b": []any{true, nil}}},
	} {
		if value == nil {
			continue
		}
		got := string(encodeAttrs([]slog.Attr{slog.Any("x", value)}))
		if got != `{"x":`+strings.ReplaceAll(want, `\ufffd`, "\uFFFD")+`}` {
			t.Errorf("%#v became %s, want %s", value, got, want)
		}
	}
	long := encodeAttrs([]slog.Attr{slog.String("x", strings.Repeat("é", mostAttrs))})
	if len(long) > mostAttrs || !bytes.HasPrefix(long, []byte(`{"cut":"\"x\":\"éé`)) {
		t.Errorf("%d bytes: %.100s", len(long), long)
	}
}

type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

func quoted(text string) string { return string(quote(text)) }

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

// Handlers log from many goroutines, and some are still at it when the attempt is settled: what settle is told first
// stays so.
func TestLogConcurrently(t *testing.T) {
	t.Parallel()
	a := &attempt{
		s: &session{cfg: Config{Log: slog.New(slog.DiscardHandler)}, telling: make(chan struct{}, 1)}, job: &offstage.Job{},
		arrival: &arrival{at: time.Now()},
	}
	log := a.reports().log(a)
	done := make(chan struct{})
	for g := range 4 {
		go func() {
			for i := range 2000 {
				log.Info("a line", "goroutine", g, "line", i, "text", strings.Repeat("x", i%100))
			}
			done <- struct{}{}
		}()
	}
	<-done
	rest := a.report.Load().rest()
	for range 3 {
		<-done
	}
	again := a.report.Load().rest()
	if len(rest) == 0 || len(rest) != len(again) || rest[len(rest)-1].After != again[len(again)-1].After {
		t.Errorf("settle is told %d lines, and then %d", len(rest), len(again))
	}
	for i, line := range rest {
		if line.N != i+1 || i > 0 && line.After < rest[i-1].After {
			t.Fatalf("line %d is number %d, at %v", i+1, line.N, line.After)
		}
	}
}
