package store_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/store"
)

// The worker and the database count into the same buckets.
func TestHistogram(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	r := rand.New(rand.NewPCG(1, 1))
	var h store.Histogram
	var seconds []float64
	for _, d := range []time.Duration{-time.Second, 0, time.Millisecond - 1, time.Millisecond, 2*time.Millisecond - 1, 2 * time.Millisecond, 134217728 * time.Millisecond, 1 << 62} {
		h.Add(d)
		seconds = append(seconds, d.Seconds())
	}
	for range 1000 {
		d := time.Duration(r.Int64N(1 << r.IntN(58)))
		h.Add(d)
		seconds = append(seconds, d.Seconds())
	}
	if want := pgtest.One[[]int32](t, conn, "select offstage_private.histogram($1)", seconds); !slices.Equal(h[:], want) {
		t.Errorf("counted\n%v, the database has\n%v", h, want)
	}
}

// A worker's counts are of its tasks and queues: of the first 256 each, of the others together, as the database has them.
func TestCounts(t *testing.T) {
	t.Parallel()
	var c store.Counts
	for _, queue := range []int32{0, 7, 0, 256, 257, 1000} {
		of := &queue
		if queue == 0 {
			of = nil
		}
		c.Add(3, of, time.Millisecond, time.Hour)
	}
	c.Add(4, nil, 0, 0)
	var got [][3]int32
	for _, x := range c {
		got = append(got, [3]int32{x.Task, x.Queue, x.N})
	}
	if want := [][3]int32{{3, 0, 2}, {3, 7, 1}, {3, 256, 1}, {3, -1, 2}, {4, 0, 1}}; !slices.Equal(got, want) {
		t.Errorf("got %v, expected %v", got, want)
	}
	conn := pgtest.New(t).Conn(t)
	if apart := pgtest.One[[]int32](t, conn, "select array[offstage_private.statistic_queue(null), offstage_private.statistic_queue(256), offstage_private.statistic_queue(257)]"); !slices.Equal(apart, []int32{0, 256, -1}) {
		t.Errorf("the database has %v", apart)
	}
}
