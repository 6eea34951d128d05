package view

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/offstage-dev/offstage"
)

// Schedules answers all schedules, by name.
func (db *DB) Schedules(ctx context.Context) ([]offstage.ScheduleStatus, error) {
	var list []offstage.ScheduleStatus
	err := pgx.BeginTxFunc(ctx, db.reads, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		c, err := db.client(tx)
		if err == nil {
			list, err = c.Schedules(ctx)
		}
		return err
	})
	if list == nil {
		list = []offstage.ScheduleStatus{}
	}
	return list, err
}

// Schedule answers one of them. ErrUnknown: there is none of that name.
func (db *DB) Schedule(ctx context.Context, name string) (offstage.ScheduleStatus, error) {
	all, err := db.Schedules(ctx)
	if err != nil {
		return offstage.ScheduleStatus{}, err
	}
	i := slices.IndexFunc(all, func(s offstage.ScheduleStatus) bool { return s.Name == name })
	if i < 0 {
		return offstage.ScheduleStatus{}, fmt.Errorf("the schedule %q is %w", name, ErrUnknown)
	}
	return all[i], nil
}

func (db *DB) client(tx pgx.Tx) (*offstage.Client, error) {
	c, err := offstage.New(nil, offstage.Config{Schema: db.schema})
	if err != nil {
		return nil, err
	}
	return c.With(tx), nil
}

// change does something with the client in a transaction of the actor's.
func (db *DB) change(ctx context.Context, by Actor, do func(c *offstage.Client) error) error {
	return db.As(ctx, by, func(tx pgx.Tx) error {
		c, err := db.client(tx)
		if err == nil {
			err = do(c)
		}
		return err
	})
}

// AddSchedule adds a schedule to the database, or changes the one of that name.
func (db *DB) AddSchedule(ctx context.Context, by Actor, s offstage.Schedule) error {
	return db.change(ctx, by, func(c *offstage.Client) error { return c.AddSchedule(ctx, s) })
}

// NewSchedule adds a schedule to the database; under the same key once. ErrTaken: there is one of that name.
func (db *DB) NewSchedule(ctx context.Context, by Actor, s offstage.Schedule, key string) error {
	_, err := db.once(ctx, by, key, func(tx pgx.Tx) (ID, error) {
		c, err := db.client(tx)
		if err != nil {
			return 0, err
		}
		all, err := c.Schedules(ctx)
		if err != nil {
			return 0, err
		}
		if slices.ContainsFunc(all, func(old offstage.ScheduleStatus) bool { return old.Name == s.Name }) {
			return 0, fmt.Errorf("the schedule %q: %w", s.Name, ErrTaken)
		}
		return 0, c.AddSchedule(ctx, s)
	})
	return err
}

// RemoveSchedule removes a schedule. Jobs that it has added stay.
func (db *DB) RemoveSchedule(ctx context.Context, by Actor, name string) error {
	return db.change(ctx, by, func(c *offstage.Client) error { return c.RemoveSchedule(ctx, name) })
}

// PauseSchedule stops a schedule, wherever it comes from.
func (db *DB) PauseSchedule(ctx context.Context, by Actor, name string) error {
	return db.change(ctx, by, func(c *offstage.Client) error { return c.PauseSchedule(ctx, name) })
}

// ResumeSchedule lets a paused schedule go on from now.
func (db *DB) ResumeSchedule(ctx context.Context, by Actor, name string) error {
	return db.change(ctx, by, func(c *offstage.Client) error { return c.ResumeSchedule(ctx, name) })
}

// RunSchedule adds the job of a schedule now, beside its ticks; under the same key once.
func (db *DB) RunSchedule(ctx context.Context, by Actor, name, key string) (ID, error) {
	return db.once(ctx, by, key, func(tx pgx.Tx) (ID, error) {
		c, err := db.client(tx)
		if err != nil {
			return 0, err
		}
		n, err := c.RunSchedule(ctx, name)
		return ID(n), err
	})
}
