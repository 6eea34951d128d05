package store

import (
	"math/bits"
	"strconv"
	"time"
)

// queuesApart is how many queues statistics tell apart: offstage_private.statistic_queue().
const queuesApart = 256

// Histogram counts durations: element 0 those below 1 ms, element n those below 2^n ms. See offstage.buckets().
type Histogram [29]int32

// Add counts a duration. What is negative (clocks) counts as nothing.
func (h *Histogram) Add(d time.Duration) {
	h[min(bits.Len64(uint64(max(d, 0)/time.Millisecond)), len(h)-1)]++
}

// Count is what a batch has of one task and queue: how many succeeded, how long they had waited and how long they ran.
type Count struct {
	Task, Queue int32 // queue 0 is none
	N           int32
	Waits, Runs Histogram
}

// Counts are those of a batch.
type Counts []Count

// Add counts one more.
func (c *Counts) Add(task int32, queue *int32, wait, run time.Duration) {
	of := int32(0)
	if queue != nil {
		if of = *queue; of > queuesApart {
			of = -1
		}
	}
	list := *c
	at := len(list) - 1 // neighbours are often alike
	for at >= 0 && (list[at].Task != task || list[at].Queue != of) {
		at--
	}
	if at < 0 {
		at, list = len(list), append(list, Count{Task: task, Queue: of})
		*c = list
	}
	list[at].N++
	list[at].Waits.Add(wait)
	list[at].Runs.Add(run)
}

// json is what settle() takes.
func (c Counts) json() any {
	if len(c) == 0 {
		return nil
	}
	b := make([]byte, 0, 160*len(c))
	for i := range c {
		b = append(b, ",{\"task_id\":"...)
		b = strconv.AppendInt(b, int64(c[i].Task), 10)
		b = append(b, ",\"queue_id\":"...)
		b = strconv.AppendInt(b, int64(c[i].Queue), 10)
		b = append(b, ",\"outcome\":\"succeeded\",\"n\":"...)
		b = strconv.AppendInt(b, int64(c[i].N), 10)
		b = append(b, ",\"waits\":"...)
		b = c[i].Waits.append(b)
		b = append(b, ",\"runs\":"...)
		b = c[i].Runs.append(b)
		b = append(b, '}')
	}
	b[0] = '['
	return string(append(b, ']'))
}

func (h *Histogram) append(b []byte) []byte {
	n := len(h)
	for n > 0 && h[n-1] == 0 {
		n--
	}
	b = append(b, '[')
	for i, v := range h[:n] {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(v), 10)
	}
	return append(b, ']')
}
