package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/offstage-dev/offstage/worker"
)

// defaultCrontab is read where it exists, as Graphile Worker does.
const defaultCrontab = "./crontab"

func (a *app) crontabPath(flags *workerFlags) string {
	if filepath.IsAbs(flags.crontab) {
		return flags.crontab
	}
	return filepath.Join(a.Project, flags.crontab)
}

// crontab is the file of schedules that a worker follows.
type crontab struct {
	path   string
	chosen bool // by name: then it must be there
	w      *worker.Worker
	log    *slog.Logger
	text   string
	there  bool
}

// read gives the worker what the file holds. After an error the schedules from before hold.
func (c *crontab) read() error {
	b, err := os.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) && !c.chosen {
		c.text, c.there = "", false
		return c.w.SetCrontab("")
	}
	if err != nil {
		return fmt.Errorf("read the crontab file: %w", err)
	}
	c.text, c.there = string(b), true
	if err := c.w.SetCrontab(c.text); err != nil {
		return fmt.Errorf("%s: %w", c.path, err)
	}
	return nil
}

// reread does it again, and says how it went.
func (c *crontab) reread() {
	if err := c.read(); err != nil {
		c.log.Error("the crontab file is not used; the schedules from before hold", "reason", err)
		return
	}
	c.log.Info("the crontab file was read", "file", c.path, "there", c.there)
}

// schedules reads the crontab file for a worker that is about to run. follow reads it again until ctx ends: on SIGHUP, or, where
// somebody develops, whenever it changes. It calls stop when the terminal is gone, which sends SIGHUP, too.
func (a *app) schedules(w *worker.Worker, flags *workerFlags, log *slog.Logger) (follow func(ctx context.Context, stop func()), err error) {
	c := &crontab{path: a.crontabPath(flags), chosen: flags.crontabChosen, w: w, log: log}
	err = c.read()
	switch {
	case err != nil && !flags.watch:
		return nil, failed(Usage, "", "%w", err)
	case err != nil:
		log.Error("the crontab file is not used", "reason", err)
	case c.there:
		log.Info("the crontab file was read", "file", c.path)
	case !flags.watch:
		log.Info("there is no crontab file; schedules are those of the database", "file", c.path)
	}
	switch {
	case flags.watch:
		return func(ctx context.Context, _ func()) { c.watch(ctx) }, nil
	case a.Hangups != nil:
		return func(ctx context.Context, stop func()) { a.obey(ctx, c, stop) }, nil
	}
	return func(context.Context, func()) {}, nil
}

func (a *app) obey(ctx context.Context, c *crontab, stop func()) {
	signals, ignore := a.Hangups()
	defer ignore()
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
		}
		if _, err := fmt.Fprintln(a.Stderr, "SIGHUP: reading the crontab file again"); err != nil {
			stop()
			return
		}
		c.reread()
	}
}

// watch reads the file anew when it has changed.
func (c *crontab) watch(ctx context.Context) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	tried := c.text
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		b, err := os.ReadFile(c.path)
		if (err != nil && !errors.Is(err, fs.ErrNotExist)) || string(b) == tried {
			continue
		}
		tried = string(b)
		c.reread()
	}
}
