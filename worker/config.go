package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/offstage-dev/offstage"
)

// Config of a worker. The zero value works.
type Config struct {
	// Schema is where Offstage is installed. Default: "offstage".
	Schema string

	// Jobs is how many attempts run at a time: the worker's slots. Default: 10. More for tasks that mostly wait,
	// about the number of cores for tasks that compute.
	Jobs int

	// PollInterval is how often an idle worker looks for jobs when nothing wakes it. Default: 2 s. Wakes make it matter
	// only where LISTEN does not work (behind some poolers).
	PollInterval time.Duration

	// StopGrace is how long running attempts may go on after Run's context has ended; then their contexts are
	// cancelled and their jobs released. Default: 30 s.
	StopGrace time.Duration

	// ForbiddenFlags are flags of jobs that this worker leaves to others.
	ForbiddenFlags []string

	// Runners perform tasks that are not handlers of this program.
	Runners []Runner

	// Unable are tasks that this worker has but cannot perform, with the reason of each, for whoever asks why their jobs
	// wait (explain).
	Unable map[string]string

	// Schedules add jobs at the times that they name, for whatever task, as long as a worker with them runs. Workers tick
	// schedules of the database besides (offstage.Client.AddSchedule).
	Schedules []offstage.Schedule

	// Middleware wraps every attempt, the first one outermost.
	Middleware []func(Handler) Handler

	// Observer is told what the worker does, for metrics. Default: nobody.
	Observer Observer

	// Log gets what the worker does, not what each job does. Default: slog.Default().
	Log *slog.Logger

	// LogJobs also logs the start and end of every attempt, at info level. For development.
	LogJobs bool
}

// Handler performs an attempt: what middleware wraps.
type Handler func(ctx context.Context, job *offstage.Job) (result json.RawMessage, err error)

var validSchema = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,54}$`)

func (c Config) withDefaults() (Config, error) {
	if c.Schema == "" {
		c.Schema = "offstage"
	}
	if !validSchema.MatchString(c.Schema) {
		return c, fmt.Errorf("worker: schema name %q is not allowed: use 1 to 55 of a-z, 0-9 and _, not starting with a digit", c.Schema)
	}
	if c.Jobs < 0 || c.Jobs > 10000 {
		return c, fmt.Errorf("worker: Jobs is %d: use 1 to 10000, or 0 for the default", c.Jobs)
	}
	if c.PollInterval < 0 || c.StopGrace < 0 {
		return c, errors.New("worker: PollInterval and StopGrace must not be negative")
	}
	if c.Jobs == 0 {
		c.Jobs = 10
	}
	if c.PollInterval == 0 {
		c.PollInterval = 2 * time.Second
	}
	if c.StopGrace == 0 {
		c.StopGrace = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c, nil
}
