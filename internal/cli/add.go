package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/offstage-dev/offstage"
)

// maxPayload bounds what is read from stdin: PostgreSQL takes no value of a gigabyte.
const maxPayload = 512 << 20

func (a *app) addCommand() *cobra.Command {
	var o offstage.Options
	var runAt, mode string
	var in time.Duration
	var wait bool
	c := &cobra.Command{
		Use:   "add TASK [PAYLOAD|-]",
		Short: "Add a job",
		Long: `Adds a job and prints its id. PAYLOAD is JSON, {} if left out, - for stdin.

With --wait, waits until the job has ended, prints its result, and fails if the job did not succeed.`,
		Example: `  offstage add send_email '{"to": "ada@example.com"}'
  offstage add report --queue reports --in 5m --max-attempts 3
  curl -s https://example.com/order.json | offstage add import_order - --wait`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeFirst(liveTasks),
	}
	f := c.Flags()
	f.StringVar(&o.Queue, "queue", "", "the queue; it runs one job at a time unless configured otherwise")
	f.StringVar(&runAt, "run-at", "", "not before this time: 2026-01-31T09:00:00Z, or local time: 2026-01-31 09:00")
	f.Var((*durationFlag)(&in), "in", "not before so much time has passed: 5m, 36h, 2d")
	f.IntVar(&o.MaxAttempts, "max-attempts", 0, "how often it is tried (default: the task's, 25 unless configured)")
	f.StringVar(&o.Key, "key", "", "at most one waiting job has this key")
	f.StringVar(&mode, "key-mode", "", "when a job has the key: replace (default), preserve_run_at or unsafe_dedupe")
	f.IntVar(&o.Priority, "priority", 0, "lower is more urgent")
	f.StringArrayVar(&o.Flags, "flag", nil, "a flag, which workers may refuse; may be repeated")
	f.Var((*durationFlag)(&o.Timeout), "timeout", "how long an attempt may take (default: the task's)")
	f.BoolVar(&wait, "wait", false, "wait until it has ended, and print its result")
	c.MarkFlagsMutuallyExclusive("run-at", "in")
	complete(c, "queue", a.completer(liveQueues))
	complete(c, "key-mode", fixed(string(offstage.Replace), string(offstage.PreserveRunAt), string(offstage.UnsafeDedupe)))
	c.RunE = func(cmd *cobra.Command, args []string) error {
		now := time.Now()
		o.KeyMode = offstage.KeyMode(mode)
		if err := cmp.Or(filled(cmd, "queue", "run-at", "key", "key-mode"), between(cmd, "max-attempts", o.MaxAttempts, 1, 32767), between(cmd, "priority", o.Priority, -32768, 32767)); err != nil {
			return err
		}
		switch {
		case args[0] == "":
			return errors.New("the name of the task is empty")
		case mode != "" && !slices.Contains([]offstage.KeyMode{offstage.Replace, offstage.PreserveRunAt, offstage.UnsafeDedupe}, o.KeyMode):
			return fmt.Errorf("--key-mode is %q; use replace, preserve_run_at or unsafe_dedupe", mode)
		case mode != "" && o.Key == "":
			return errors.New("--key-mode goes with --key")
		case cmd.Flags().Changed("timeout") && o.Timeout < time.Microsecond:
			return errors.New("--timeout must be more than nothing")
		}
		if cmd.Flags().Changed("in") {
			o.RunAt = now.Add(in)
		}
		if runAt != "" {
			var err error
			if o.RunAt, err = parseTime(runAt, time.Local); err != nil {
				return fmt.Errorf("--run-at: %w", err)
			}
		}
		var payload json.RawMessage
		if len(args) == 2 {
			var err error
			if payload, err = a.readPayload(args[1]); err != nil {
				return err
			}
		}
		return a.run(func(ctx context.Context, args []string) error { return a.add(ctx, args[0], payload, o, wait) })(cmd, args)
	}
	return c
}

func (a *app) add(ctx context.Context, task string, payload json.RawMessage, o offstage.Options, wait bool) error {
	return a.with(ctx, func(db *database) error {
		var body any // nil leaves the payload to the database
		if payload != nil {
			body = payload
		}
		id, err := db.client.Add(ctx, task, body, o)
		if err != nil {
			return err
		}
		if wait {
			return a.await(ctx, db, id)
		}
		if a.json {
			return a.printJSON(map[string]string{"id": strconv.FormatInt(id, 10)})
		}
		_, err = fmt.Fprintln(a.Stdout, id)
		return err
	})
}

// awaitJob waits for the end of a job; while that takes long, it says why, and how far the job is.
func (a *app) awaitJob(ctx context.Context, db *database, id int64) (json.RawMessage, error) {
	p := a.progress(fmt.Sprintf("job %d", id))
	explaining, enough := context.WithCancel(ctx)
	explained := make(chan struct{})
	go func() {
		defer close(explained)
		ticker := time.NewTicker(900 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-explaining.Done():
				return
			case <-ticker.C:
				why, err := db.client.Explain(explaining, id)
				if err != nil {
					continue
				}
				p.set("job %d: %s", id, why)
			}
		}
	}()
	result, err := offstage.Await[json.RawMessage](ctx, db.client, id)
	enough()
	<-explained
	p.stop()
	if ctx.Err() != nil {
		a.say("job %d goes on without us", id)
	}
	return result, err
}

// await prints the result.
func (a *app) await(ctx context.Context, db *database, id int64) error {
	a.more("added job %d", id)
	result, err := a.awaitJob(ctx, db, id)
	var ended *offstage.EndedError
	if err != nil && !errors.As(err, &ended) {
		return err
	}
	if result == nil {
		result = json.RawMessage("null")
	}
	if a.json {
		out := struct {
			ID      string          `json:"id"`
			Outcome string          `json:"outcome"`
			Result  json.RawMessage `json:"result"`
			Error   *string         `json:"error"`
		}{strconv.FormatInt(id, 10), string(offstage.OutcomeSucceeded), result, nil}
		if ended != nil {
			out.Outcome, out.Error = string(ended.Outcome), &ended.Reason
		}
		if err := a.printJSON(out); err != nil {
			return err
		}
	} else if ended == nil {
		fmt.Fprintln(a.Stdout, string(result))
	}
	if ended != nil {
		return failed(Failed, a.command("jobs get "+strconv.FormatInt(id, 10)), "%w", ended)
	}
	return nil
}

// checkJSON says where a text stops being JSON, and points there.
func checkJSON(text []byte) error {
	var any json.RawMessage
	err := json.Unmarshal(text, &any)
	if err == nil && !utf8.Valid(text) {
		return errors.New("it is not UTF-8")
	}
	if err == nil {
		return nil
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return errors.New("it is empty; leave it out for {}")
	}
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return err
	}
	at := int(syntax.Offset) // of the byte after the one that is wrong, or the length where the end is
	if at > 0 && !strings.Contains(err.Error(), "unexpected end") {
		at--
	}
	at = min(at, len(text))
	start := bytes.LastIndexByte(text[:at], '\n') + 1
	end := len(text)
	if i := bytes.IndexByte(text[at:], '\n'); i >= 0 {
		end = at + i
	}
	line := 1 + bytes.Count(text[:at], []byte("\n"))
	column := utf8.RuneCount(text[start:at])
	before, after := []rune(string(text[start:at])), []rune(string(text[at:end]))
	if len(before) > 50 {
		before = append([]rune("…"), before[len(before)-49:]...)
	}
	if len(after) > 30 {
		after = append(after[:29:29], '…')
	}
	shown := strings.ReplaceAll(string(before)+string(after), "\t", " ")
	text2 := fmt.Sprintf("%v, in line %d, column %d\n  %s\n  %s^", err, line, column+1, shown, strings.Repeat(" ", len(before)))
	if !bytes.ContainsAny(text, `"`) {
		text2 += "\n  (has the shell taken the quotes away? put the payload in single quotes: '{\"a\": 1}')"
	}
	return errors.New(text2)
}

// readPayload is the payload of an argument, or of stdin.
func (a *app) readPayload(arg string) (json.RawMessage, error) {
	text, where := []byte(arg), "the payload"
	if arg == "-" {
		where = "the payload on stdin"
		var err error
		if text, err = io.ReadAll(io.LimitReader(a.Stdin, maxPayload)); err != nil {
			return nil, fmt.Errorf("read %s: %w", where, err)
		}
	}
	if err := checkJSON(text); err != nil {
		return nil, fmt.Errorf("%s is not JSON: %w", where, err)
	}
	return text, nil
}

// parseTime reads a moment; one without an offset is one of the zone's clocks.
func parseTime(text string, zone *time.Location) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02 15:04", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time; write 2026-01-31T09:00:00Z, or in local time 2026-01-31 09:00", text)
}
