package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// serverSettings are those that decide what a commit, a claim or a wake costs.
var serverSettings = []string{
	"fsync", "synchronous_commit", "full_page_writes", "wal_level", "wal_sync_method", "data_checksums",
	"shared_buffers", "max_wal_size", "checkpoint_timeout", "autovacuum", "jit", "max_connections",
	"shared_preload_libraries",
}

// conditions says everything that a reader needs to judge the figures or to repeat them.
func conditions(ctx context.Context, s *server, o options, f field) ([]condition, error) {
	var all []condition
	add := func(name, value string) { all = append(all, condition{name, value}) }

	add("time", time.Now().UTC().Format(time.RFC3339))
	add("machine", fmt.Sprintf("%d cores, %s, %s/%s; server and clients share it (if the server is local)",
		runtime.NumCPU(), processor(), runtime.GOOS, runtime.GOARCH))
	if load, ok := loadAverage(); ok {
		text := fmt.Sprintf("%.2f in the minute before", load)
		if load > 0.5 {
			text += ": THE MACHINE WAS NOT IDLE"
		}
		add("load", text)
	}
	var version string
	if err := s.admin.QueryRow(ctx, "select version()").Scan(&version); err != nil {
		return nil, err
	}
	add("server", version)
	var settings []string
	for _, name := range serverSettings {
		var value *string
		if err := s.admin.QueryRow(ctx, "select current_setting($1, true)", name).Scan(&value); err != nil {
			return nil, err
		}
		if value != nil && *value != "" {
			settings = append(settings, name+"="+*value)
		}
	}
	add("settings", strings.Join(settings, " "))
	where := "private, on the loopback interface"
	if s.private == nil {
		where = "given by --database-url"
	}
	add("connection", where)
	commits, err := commitTimes(ctx, s)
	if err != nil {
		return nil, err
	}
	add("a commit takes", fmt.Sprintf("%.2f ms at p50, %.2f ms at p99 (round trip and flush, 10 ms apart; much below 0.1 ms means that nothing is flushed)",
		percentile(commits, 50), percentile(commits, 99)))
	for _, sys := range f.systems() {
		add(sys.title(), sys.about())
	}
	if o.peers {
		all = append(all, peerConditions(o)...)
	} else {
		add("… in work and as live worker", "concurrentJobs 24, localQueue.size 500, completeJobBatchDelay 0, failJobBatchDelay 0, maxPoolSize 26")
		if o.writers > 0 { // not in backlogs
			add("… in latency", "defaults (concurrentJobs 1); and with localQueue.size 10")
			add("… adding", fmt.Sprintf("makeWorkerUtils with a pool of %d (single) and %d (bulk)", o.writers, graphilePool))
		}
	}
	add("every block", "a database of its own copied from a template, VACUUM ANALYZE and CHECKPOINT before; processes started and connected before the clock")
	add("figures", fmt.Sprintf("medians of %d interleaved rounds (lowest–highest); ratios of medians, against the peer's settings whose median is best, and in brackets the ratios of the rounds", o.rounds))
	return all, nil
}

func loadAverage() (float64, bool) {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, false
	}
	first, _, _ := strings.Cut(string(data), " ")
	load, err := strconv.ParseFloat(first, 64)
	return load, err == nil
}

func processor() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "processor not known"
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "processor not known"
}

// revision is the commit of the working tree; go run does not stamp it.
func revision(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown revision"
	}
	return strings.TrimSpace(string(out))
}

// commitTimes are how long commits take that have to reach the disk, on a system that idles between them: milliseconds, ascending.
func commitTimes(ctx context.Context, s *server) ([]float64, error) {
	times := make([]float64, 200)
	for i := range times {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		begun := time.Now()
		if _, err := s.admin.Exec(ctx, "select pg_logical_emit_message(true, 'bench', 'x')"); err != nil {
			return nil, err
		}
		times[i] = float64(time.Since(begun).Microseconds()) / 1000
	}
	slices.Sort(times)
	return times, nil
}

func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return m.Version
		}
	}
	return "unknown"
}
