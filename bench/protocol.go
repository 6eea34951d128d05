package main

import "time"

// agentConfig is the first line an agent reads. An agent is a process of one of the two systems: peer.mjs, or
// this program started again (child.go). Both speak the same protocol, one JSON object a line:
//
//	in   agentConfig
//	out  ready                     modules loaded, connections open
//	in   ping, go, last, stop      as often as needed, stop once
//	out  pong, started, count, ran, added, last, stopped
//
// An agent whose standard input ends exits.
type agentConfig struct {
	System string `json:"system"` // "offstage" or "peer"
	Role   string `json:"role"`   // "worker", "single", "bulk" or "sqlbulk"; ours: "ugly", "beside" or "holder", too
	URL    string `json:"url"`
	Schema string `json:"schema"`
	Task   string `json:"task"`
	Pool   int    `json:"pool"`  // most connections; 0: the driver's default
	Each   bool   `json:"each"`  // worker: tell of every job when it starts
	Total  int    `json:"total"` // worker: tell at once when so many jobs have run; bulk: jobs to add

	Writers int `json:"writers"`        // single: calls in flight
	Millis  int `json:"millis"`         // single: how long to add
	Chunk   int `json:"chunk"`          // bulk: jobs a call
	Rate    int `json:"rate,omitempty"` // bulk: jobs a second at most; 0: no limit

	Fail int    `json:"fail,omitempty"` // ugly: every so manieth job fails at its first attempt
	Also string `json:"also,omitempty"` // ugly: another task; beside, holder: the only one

	JavaScript bool `json:"javascript,omitempty"` // worker, ours: the task is one in JavaScript
	Slots      int  `json:"slots,omitempty"`      // worker, ours: jobs at a time; 0: the default

	PeerModule string         `json:"peer_module,omitempty"`
	Settings   map[string]any `json:"settings,omitempty"` // of the peer's worker
}

type command struct {
	Do string `json:"do"`
}

// event is a line an agent writes. Times are wall clock, microseconds since 1970.
type event struct {
	Event string   `json:"event"`
	N     int      `json:"n,omitempty"`     // count, added, stopped: jobs so far
	T     int64    `json:"t,omitempty"`     // when; for ran: when the handler was entered
	First int64    `json:"first,omitempty"` // count: when the first job was entered
	ID    string   `json:"id,omitempty"`    // ran
	IDs   []string `json:"ids,omitempty"`   // last: the jobs that were run last
	CPU   int64    `json:"cpu,omitempty"`   // started, added, stopped: microseconds this process has used
	Waits []int64  `json:"waits,omitempty"` // stopped, ugly: microseconds from adding to starting, p50 and p99
}

// keptIDs is how many of the jobs it ran last an agent remembers: more than can be executed and not yet settled.
const keptIDs = 2048

func wall() int64 { return time.Now().UnixMicro() }
