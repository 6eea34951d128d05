package node

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

// The connection carries lines in both directions, one socket a process.
//
// To the process: first its configuration, an object; then frames, arrays of items:
//
//	[number, task, payload, id, attempt, max_attempts, priority, run_at, added_at, locked_at, task_id, worker, more]
//	                      perform an attempt; task is an index, times are milliseconds, more is an object or 0
//	["a", number, why]    tell an attempt to stop
//	["r", call, error, value]   answers a call; error is an object or 0
//
// From the process: a letter, the attempt's number, and for most a space and JSON:
//
//	h  {failed}           ready; the tasks that did not load, with reasons
//	k  µs                 a frame was read; the event loop was busy for so long since the one before
//	d  [result]           an attempt succeeded
//	e  {text, aborted}    an attempt failed; aborted: with the reason it was told to stop for
//	e  {text, final}      an attempt failed, and its job for good
//	b  {failed, errors}   of a batch, these elements failed
//	l  [level, text, {…}] a line of an attempt's log
//	o  [level, text, task] a line of nobody's
//	q  [call, method, …]  a call, see calls.go
//	x  why                give the process no more work

// start is the configuration.
type start struct {
	Tasks       []startTask `json:"tasks"`
	URL         string      `json:"url"`
	Directory   string      `json:"directory"`
	Connections int         `json:"connections"`
}

type startTask struct {
	Name string `json:"name"`
	File string `json:"file"`
}

// more is what few jobs have.
type more struct {
	QueueID   *int32   `json:"queue_id,omitempty"`
	Queue     *string  `json:"queue,omitempty"`
	Key       string   `json:"key,omitempty"`
	Flags     []string `json:"flags,omitempty"`
	LastError string   `json:"last_error,omitempty"`
	Trace     string   `json:"trace,omitempty"`
}

// appendJob appends the item of an attempt. The payload goes along as it is, on one line.
func appendJob(b []byte, seq int64, task int, job *offstage.Job, claim worker.Claim) []byte {
	number := func(n int64) { b = append(strconv.AppendInt(b, n, 10), ',') }
	b = append(b, '[')
	number(seq)
	number(int64(task))
	switch {
	case len(job.Payload) == 0:
		b = append(b, "null"...)
	case bytes.IndexByte(job.Payload, '\n') < 0:
		b = append(b, job.Payload...)
	default:
		// Outside of strings it is white space; within them it cannot be.
		at := len(b)
		b = append(b, job.Payload...)
		for i := at; i < len(b); i++ {
			if b[i] == '\n' {
				b[i] = ' '
			}
		}
	}
	b = append(b, ',', '"')
	b = strconv.AppendInt(b, job.ID, 10)
	b = append(b, '"', ',')
	number(int64(job.Attempt))
	number(int64(job.MaxAttempts))
	number(int64(job.Priority))
	b = append(appendTime(b, job.RunAt), ',')
	b = append(appendTime(b, job.AddedAt), ',')
	number(time.Now().UnixMilli())
	number(int64(claim.TaskID))
	number(int64(claim.Worker))
	if !job.HasQueue && job.Key == "" && job.Flags == nil && job.LastError == "" && job.Traceparent == "" {
		return append(b, '0', ']')
	}
	m := more{QueueID: claim.QueueID, Key: job.Key, Flags: job.Flags, LastError: job.LastError, Trace: job.Traceparent}
	if job.HasQueue {
		m.Queue = &job.Queue
	}
	text, err := json.Marshal(m)
	if err != nil {
		panic("node: strings are always JSON: " + err.Error())
	}
	return append(append(b, text...), ']')
}

// appendTime: what is beyond JavaScript's dates is PostgreSQL's infinity.
func appendTime(b []byte, t time.Time) []byte {
	const limit = 8_640_000_000_000_000
	switch ms := t.UnixMilli(); {
	case ms >= limit || t.Year() > 200_000:
		return append(b, `"infinity"`...)
	case ms <= -limit || t.Year() < -4700:
		return append(b, `"-infinity"`...)
	default:
		return strconv.AppendInt(b, ms, 10)
	}
}

func appendAbort(b []byte, seq int64, why string) []byte {
	b = strconv.AppendInt(append(b, `["a",`...), seq, 10)
	return append(append(append(b, ','), quote(why)...), ']')
}

// appendAnswer appends the answer of a call; value is JSON.
func appendAnswer(b []byte, call int64, fault *fault, value []byte) []byte {
	b = append(strconv.AppendInt(append(b, `["r",`...), call, 10), ',')
	if fault != nil {
		text, err := json.Marshal(fault)
		if err != nil {
			panic("node: strings are always JSON: " + err.Error())
		}
		b = append(b, text...)
	} else {
		b = append(b, '0')
	}
	if value == nil {
		value = []byte("null")
	}
	b = append(b, ',')
	at := len(b)
	b = append(b, value...)
	for i := at; i < len(b); i++ {
		if b[i] == '\n' {
			b[i] = ' '
		}
	}
	return append(b, ']')
}

func quote(text string) []byte {
	b, err := json.Marshal(text)
	if err != nil {
		panic("node: a string is always JSON: " + err.Error())
	}
	return b
}

// message is a line from the process. rest is valid until the next one is read.
type message struct {
	kind byte
	seq  int64
	rest []byte
}

// parseMessage is not ok for a line that no process of ours writes.
func parseMessage(line []byte) (m message, ok bool) {
	line = bytes.TrimSuffix(line, []byte("\n"))
	if len(line) < 2 {
		return m, false
	}
	m.kind = line[0]
	i := 1
	for ; i < len(line) && line[i] >= '0' && line[i] <= '9'; i++ {
		if m.seq > math.MaxInt64/10-9 {
			return m, false
		}
		m.seq = m.seq*10 + int64(line[i]-'0')
	}
	switch {
	case i == 1, i < len(line) && line[i] != ' ':
		return m, false
	case i < len(line):
		m.rest = line[i+1:]
	}
	return m, true
}
