package cli

import (
	"context"
	"hash/maphash"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/offstage-dev/offstage/internal/runner/tasks"
)

const (
	watchEvery = 300 * time.Millisecond
	watchMost  = 20000 // files; a project has fewer of its own
)

// watcher notices changes of the task directory, whatever is in it, and of the project's own JavaScript, which the tasks
// may load. It looks now and then: every system can do that, and nothing has to be told which files a task loads.
type watcher struct {
	tasks, project string
	seed           maphash.Seed
	seen           uint64
}

func newWatcher(tasks, project string) *watcher {
	w := &watcher{tasks: tasks, project: project, seed: maphash.MakeSeed()}
	w.seen = w.sum()
	return w
}

// changed returns when something has changed and has been left alone since the look before, or when ctx ends (false).
func (w *watcher) changed(ctx context.Context) bool {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	last := w.seen
	for {
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
		now := w.sum()
		if now != w.seen && now == last {
			w.seen = now
			return true
		}
		last = now
	}
}

// sum changes when a file comes, goes, or is written.
func (w *watcher) sum() uint64 {
	var h maphash.Hash
	h.SetSeed(w.seed)
	files := 0
	walk := func(root string, takes func(path string) bool) {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return nil // it is gone, or secret
			case files > watchMost:
				return fs.SkipAll
			case d.IsDir():
				if name := d.Name(); path != root && (name == "node_modules" || strings.HasPrefix(name, ".")) {
					return fs.SkipDir
				}
				return nil
			case !takes(path):
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return nil
			}
			files++
			_, _ = h.WriteString(path)
			maphash.WriteComparable(&h, [3]int64{info.Size(), info.ModTime().UnixNano(), int64(info.Mode())})
			return nil
		})
	}
	walk(w.tasks, func(string) bool { return true })
	extensions := append(tasks.Extensions(), ".cts", ".json")
	walk(w.project, func(path string) bool { return slices.Contains(extensions, filepath.Ext(path)) })
	return h.Sum64()
}
