package main

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

func atLeastJobs(n int) func(int, int64) bool {
	return func(jobs int, _ int64) bool { return jobs >= n }
}

func TestExecutedAddsUpTheWorkers(t *testing.T) {
	a := &agent{name: "a", events: make(chan event, 10)}
	b := &agent{name: "b", events: make(chan event, 10)}
	a.events <- event{Event: "started", T: 101}
	a.events <- event{Event: "count", N: 3, First: 205, T: 300}
	a.events <- event{Event: "count", N: 6, First: 205, T: 400}
	b.events <- event{Event: "started", T: 100}
	b.events <- event{Event: "count", N: 4, First: 203, T: 390}
	begun, first, last, err := executed(t.Context(), []*agent{a, b}, atLeastJobs(10))
	if err != nil || begun != 100 || first != 203 || last != 400 {
		t.Errorf("executed = %d, %d, %d, %v", begun, first, last, err)
	}
}

// What the agents say after executed has returned is the caller's: none of its readers may take it.
func TestExecutedLeavesWhatComesLater(t *testing.T) {
	for range 200 {
		a := &agent{name: "a", events: make(chan event, 10)}
		a.events <- event{Event: "count", N: 1, T: 1}
		if _, _, _, err := executed(t.Context(), []*agent{a}, atLeastJobs(1)); err != nil {
			t.Fatal(err)
		}
		a.events <- event{Event: "last"}
		if e := <-a.events; e.Event != "last" {
			t.Fatal(e)
		}
	}
}

func TestExecutedEndsWithItsContext(t *testing.T) {
	for range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		a := &agent{name: "a", events: make(chan event)}
		time.AfterFunc(time.Millisecond, cancel)
		if _, _, _, err := executed(ctx, []*agent{a, a}, atLeastJobs(1)); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
}

func TestRedacted(t *testing.T) {
	got := redacted([]string{"--json", "--database-url", "postgres://u:p@h/d", "-database-url=postgres://u:p@h/d", "--only=work"})
	want := []string{"--json", "--database-url", "…", "-database-url=…", "--only=work"}
	if !slices.Equal(got, want) {
		t.Errorf("redacted = %q", got)
	}
}
