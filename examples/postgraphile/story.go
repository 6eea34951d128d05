package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"
)

// The people of app.sql, by their keys.
const (
	ada int64 = 1
	bob int64 = 2
)

// adasTopic is what her page subscribes to; the channel is "postgraphile:person:1".
const adasTopic = "person:1"

// patience bounds each step of the story.
const patience = 30 * time.Second

// client is client.mjs at work: somebody's page.
type client struct {
	*child
	asked  chan report
	events chan event
	wrong  chan error
}

type report struct {
	NodeID string          `json:"nodeId"`
	ID     string          `json:"id"`
	City   string          `json:"city"`
	Status string          `json:"status"`
	Result json.RawMessage `json:"result"`
}

// event is what the client has after the subscription told it something.
type event struct {
	RelatedNodeID string   `json:"relatedNodeId"`
	RelatedNode   *report  `json:"relatedNode"` // the row that the notification names, if this person may see it
	Reports       []report `json:"reports"`     // all that this person may see
}

// join starts a client for a person, and waits until it is subscribed.
func (s *stage) join(ctx context.Context, person int64, topic string) (*client, error) {
	c := &client{asked: make(chan report, 100), events: make(chan event, 100), wrong: make(chan error, 1)}
	args := []string{"client.mjs"}
	if s.v4 {
		args = append(args, "--v4")
	}
	var err error
	c.child, err = start("client.mjs", s.dir, []string{"TOKEN=" + s.token(person)}, hearing{out: c.hear}, s.node, append(args, s.url, topic)...)
	if err != nil {
		return nil, err
	}
	s.later(c.stop)
	first, err := c.event(ctx)
	if err != nil {
		return nil, err
	}
	if first.RelatedNode != nil {
		return nil, fmt.Errorf("the initial event names row %s; it should name none", first.RelatedNode.ID)
	}
	if s.listening == topic {
		return c, nil // clients stay until the end
	}
	// PostGraphile sends the initial event without waiting for its LISTEN.
	s.listening = topic
	return c, s.until(ctx, s.server, `select exists (select from pg_catalog.pg_stat_activity
		where datname = current_database() and state = 'idle' and query = format('LISTEN "postgraphile:%s"', $1::text))`, topic)
}

func (c *client) hear(line string) {
	var said struct {
		Asked *report `json:"asked"`
		Event *event  `json:"event"`
	}
	if err := json.Unmarshal([]byte(line), &said); err != nil {
		select {
		case c.wrong <- fmt.Errorf("client.mjs printed %q: %w", line, err):
		default: // one is enough
		}
		return
	}
	if said.Asked != nil {
		c.asked <- *said.Asked
	}
	if said.Event != nil {
		c.events <- *said.Event
	}
}

// ask asks for a report, and answers its row as the mutation did.
func (c *client) ask(ctx context.Context, city string) (report, error) {
	if _, err := io.WriteString(c.in, city+"\n"); err != nil {
		return report{}, fmt.Errorf("ask for a report: %w", err)
	}
	return next(ctx, c, c.asked, "the answer of the mutation")
}

// event waits for the next event.
func (c *client) event(ctx context.Context) (event, error) {
	return next(ctx, c, c.events, "an event")
}

func next[T any](ctx context.Context, c *client, from <-chan T, what string) (v T, err error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v = <-from:
		return v, nil
	case err = <-c.wrong:
		return v, err
	case <-c.done:
		return v, c.ended()
	case <-timer.C:
		return v, fmt.Errorf("%s has not come to the client within %v", what, patience)
	case <-ctx.Done():
		return v, ctx.Err()
	}
}

// tell tells the story, and fails where it goes another way.
func (s *stage) tell(ctx context.Context, out io.Writer) error {
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	hers, err := s.join(ctx, ada, adasTopic)
	if err != nil {
		return err
	}
	his, err := s.join(ctx, bob, adasTopic)
	if err != nil {
		return err
	}
	say("Ada and Bob have subscribed to listen(topic: %q, initialEvent: true), hers.", adasTopic)
	var wrong []error
	for _, city := range []string{"Oslo", "Lima"} {
		begin := time.Now()
		asked, err := hers.ask(ctx, city)
		if err != nil {
			return err
		}
		say("\nAda   mutation createReport(city: %q)    report %s is there", city, asked.ID)
		e, err := hers.event(ctx)
		if err != nil {
			return err
		}
		got := "no row"
		if e.RelatedNode != nil {
			got = fmt.Sprintf("report %s has %s: %s", e.RelatedNode.ID, e.RelatedNode.Status, e.RelatedNode.Result)
		}
		say("Ada   event, %3d ms after her click    %s", time.Since(begin).Milliseconds(), got)
		wrong = append(wrong, e.fulfils(asked))
		if e, err = his.event(ctx); err != nil {
			return err
		}
		say("Bob   the same event                  he sees %d reports", len(e.Reports))
		if e.RelatedNode != nil || len(e.Reports) > 0 {
			wrong = append(wrong, fmt.Errorf("what Bob got shows him a report of Ada's: %+v", e))
		}
	}
	// The event of the second report came after all of the first: had there been two, they would be here.
	if n := len(hers.events) + len(his.events); n > 0 {
		wrong = append(wrong, fmt.Errorf("%d events came besides the two", n))
	}
	if err := errors.Join(wrong...); err != nil {
		return err
	}
	say("\nOne event for each report, and no polling. Everything came out as told.")
	return nil
}

// fulfils says whether this event is the one that brings the report that was asked for.
func (e event) fulfils(asked report) error {
	switch r := e.RelatedNode; {
	case r == nil:
		return fmt.Errorf("the event names no row that can be seen; it should name report %s", asked.ID)
	case r.ID != asked.ID || r.City != asked.City || r.Status != "succeeded":
		return fmt.Errorf("the event brings %+v; it should bring report %s of %s, succeeded", *r, asked.ID, asked.City)
	case r.NodeID != e.RelatedNodeID:
		return fmt.Errorf("the event names the node %s; the report's own id is %s", e.RelatedNodeID, r.NodeID)
	default:
		var sales struct {
			Count int
			Total float64
			Best  string
		}
		if err := json.Unmarshal(r.Result, &sales); err != nil || sales.Count != 4000 || sales.Total < 1000 || sales.Best != "tea" {
			return fmt.Errorf("the result is %s (%v); it should count 4000 sales, tea most", r.Result, err)
		}
	}
	if last := len(e.Reports) - 1; last < 0 || e.Reports[last].ID != asked.ID {
		return fmt.Errorf("the reports that were fetched again end with %+v; report %s should be the last", e.Reports, asked.ID)
	}
	return nil
}

// stay leaves everything up for those who want to try, until Ctrl-C.
func (s *stage) stay(ctx context.Context, out io.Writer) error {
	graphiql, flag, id := s.url[:len(s.url)-len("/graphql")]+"/", "", "rowId"
	if s.v4 {
		graphiql, flag, id = graphiql+"graphiql", "--v4 ", "id"
	}
	fmt.Fprintf(out, `
It stays up. GraphiQL is at %s

  headers   {"Authorization": "Bearer %s"}
            (Ada; for Bob {"Authorization": "Bearer %s"})

  subscribe subscription { listen(topic: %q, initialEvent: true) { relatedNode { ... on Report { %s city status result } } } }
  and in a second tab
            mutation { createReport(input: {report: {city: "Kyoto"}}) { report { %s status } } }

Or in a terminal, where each line you type is a city:

  cd %s && TOKEN=%s \
    %s client.mjs %s%s %s

  psql '%s'

Ctrl-C stops PostGraphile, the worker and PostgreSQL.
`, graphiql, s.token(ada), s.token(bob), adasTopic, id, id, filepath.Clean(s.dir), s.token(ada), s.node, flag, s.url, adasTopic, s.ownerURL)
	select {
	case <-s.server.done:
		return s.server.ended()
	case <-ctx.Done():
		fmt.Fprintln(out, "\nStopping.")
		return nil
	}
}
