package main

import "time"

// agentConfig is the first line an agent reads. An agent is a process of one of the systems: graphile.mjs, pgboss.mjs, or
// this program started again (child.go). All speak the same protocol, one JSON object a line:
//
//	in   agentConfig
//	out  ready                     modules loaded, connections open
//	in   ping, go, add, last, stop as often as needed, stop once
//	out  pong, started, count, ran, added, one, last, stopped
//
// An agent whose standard input ends exits.
type agentConfig struct {
	System string `json:"system"` // system.name
	Role   string `json:"role"`   // "worker", "single", "bulk", "sqlbulk", "steady", "one" or "install"; ours: "ugly", "beside" or "holder", too
	URL    string `json:"url"`
	Schema string `json:"schema"`
	Task   string `json:"task"`
	Pool   int    `json:"pool"`  // most connections; 0: the driver's default
	Each   bool   `json:"each"`  // worker: tell of every job when it starts, but of those that wait
	Total  int    `json:"total"` // worker: tell at once when so many jobs have run; bulk: jobs to add

	Writers int  `json:"writers"`         // single: calls in flight
	Millis  int  `json:"millis"`          // single: how long to add
	Burst   int  `json:"burst,omitempty"` // single: jobs that each writer adds before all pause; 0: no pauses
	Pause   int  `json:"pause,omitempty"` // single: milliseconds of the pause
	Chunk   int  `json:"chunk"`           // bulk: jobs a call
	Rate    int  `json:"rate,omitempty"`  // steady: jobs a second; bulk in Go, sqlbulk: at most, 0: no limit
	Wait    int  `json:"wait,omitempty"`  // all that add: milliseconds for which the task waits
	Stamp   bool `json:"stamp,omitempty"` // all that add in Go: payloads say when the job was added

	Fail int    `json:"fail,omitempty"` // ugly: every so manieth job fails at its first attempt
	Raw  bool   `json:"raw,omitempty"`  // ugly: the handler does not decode payloads
	Also string `json:"also,omitempty"` // ugly: another task; beside, holder: the only one
	Many int    `json:"many,omitempty"` // ugly: so many tasks, in place of the one

	JavaScript bool `json:"javascript,omitempty"` // worker, ours: the task is one in JavaScript
	Slots      int  `json:"slots,omitempty"`      // worker, ours: jobs at a time; 0: the default

	Module   string         `json:"module,omitempty"`   // graphile-worker: in node_modules
	Settings map[string]any `json:"settings,omitempty"` // of a peer's worker
}

type command struct {
	Do string `json:"do"`
	N  int    `json:"n,omitempty"` // add: the id in the payload
}

// event is a line an agent writes. Times are wall clock, microseconds since 1970.
type event struct {
	Event string   `json:"event"`
	N     int      `json:"n,omitempty"`     // count, added, stopped: jobs so far
	T     int64    `json:"t,omitempty"`     // when; for ran: when the handler was entered; for one: when add was called
	First int64    `json:"first,omitempty"` // count: when the first job was entered
	Busy  int64    `json:"busy,omitempty"`  // added: microseconds without the pauses
	ID    string   `json:"id,omitempty"`    // ran, one
	IDs   []string `json:"ids,omitempty"`   // last: the jobs that were run last
	CPU   int64    `json:"cpu,omitempty"`   // started, added, stopped: microseconds this process has used
	Waits []int64  `json:"waits,omitempty"` // stopped: microseconds from adding to starting, p50 and p99
}

// keptIDs is how many of the jobs it ran last an agent remembers: more than can be executed and not yet settled.
const keptIDs = 2048

func wall() int64 { return time.Now().UnixMicro() }
