package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"
)

func (a *app) topCommand() *cobra.Command {
	every, once := time.Second, false
	c := &cobra.Command{
		Use:   "top",
		Short: "Watch jobs live: rates, how long they wait and run, what waits, who works",
		Long: `Shows, anew every second, how many jobs end, how long they waited and ran, what waits, and which workers there are.

done are jobs that succeeded, failed are attempts that failed (also those that are tried again, and rescues). Rates per
minute are of the last 60 seconds; waiting and running times (median and 95th percentile) of the last five minutes,
guessed from histograms, wrong by less than a factor of two. Counts stop at 10,000. It costs the database little: it reads
what workers have counted, over one connection, and never for more than two seconds.

Keys: q quits, p pauses, s sorts the tasks by another column.
Without a terminal, with --once and with --json it prints one snapshot.`,
		Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error { return a.top(ctx, every, once) }),
	}
	c.Flags().DurationVar(&every, "every", every, "how often it looks, 100 ms at least")
	c.Flags().BoolVar(&once, "once", false, "print one snapshot")
	c.PreRunE = func(*cobra.Command, []string) error {
		if every < 100*time.Millisecond || every > time.Hour {
			return fmt.Errorf("--every is %s: use 100ms to 1h", every)
		}
		return nil
	}
	return c
}

func (a *app) top(ctx context.Context, every time.Duration, once bool) error {
	cfg, err := a.config(true)
	if err != nil {
		return err
	}
	cfg.MaxConns = 1
	db, err := a.connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer db.close()
	if err := db.check(ctx); err != nil {
		return err
	}
	if once || a.json || !a.OutTerminal || !a.Keys || a.Getenv("TERM") == "dumb" {
		s, err := db.snapshot(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("look at the database: %w", err)
		case a.json:
			return a.printJSON(s)
		}
		f := frame{paint: a.outPaint(), width: a.width(100)}
		f.draw(s, a.place(), "")
		for _, line := range f.lines {
			fmt.Fprintln(a.Stdout, line)
		}
		return nil
	}
	return a.topLive(ctx, cfg, db, every)
}

// seen is what a look at the database came to.
type seen struct {
	snapshot *snapshot
	err      error
}

// topLive draws what looks bring until somebody quits. It looks in the background, so that keys work while the database does not.
func (a *app) topLive(ctx context.Context, cfg *pgxpool.Config, db *database, every time.Duration) error {
	screen, err := a.openScreen()
	if err != nil {
		return err
	}
	defer screen.close()
	ctx, cancel := context.WithCancel(ctx)
	looks, asked := make(chan seen, 1), make(chan struct{}, 1)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for range asked {
			s, err := db.snapshot(ctx)
			looks <- seen{s, err}
		}
	}()
	defer func() { cancel(); close(asked); <-stopped }()

	var last, before *snapshot
	var trouble error
	paused, sorting := false, 0
	draw := func() {
		width, height := screen.size()
		f := frame{paint: a.outPaint(), width: width, height: height, sorting: sorting, before: before, live: true}
		state := fmt.Sprintf("every %s", every)
		switch {
		case trouble != nil:
			state = "NO ANSWER: " + trouble.Error()
		case paused:
			state = "PAUSED"
		}
		f.draw(last, placeOf(cfg.ConnConfig), state)
		screen.show(f.lines)
	}
	asked <- struct{}{}
	looking := true
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	draw()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case key := <-screen.keys:
			switch key {
			case 'q', 'Q':
				return nil
			case 3: // Ctrl-C: the terminal makes no signal of it while it is ours
				return silent(Interrupted)
			case 'p', 'P', ' ':
				paused = !paused
			case 's', 'S':
				sorting = (sorting + 1) % len(sortings)
			}
			draw()
		case <-screen.resized:
			draw()
		case s := <-looks:
			looking = false
			trouble = s.err
			if s.err == nil {
				before, last = last, s.snapshot
			}
			draw()
		case <-ticker.C:
			if !paused && !looking {
				looking = true
				asked <- struct{}{}
			}
		}
	}
}
