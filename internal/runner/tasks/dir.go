// Package tasks reads a task directory: which tasks its files define, and which kind of runner performs each. The
// rules are those of Graphile Worker, so that a directory means the same to both. It starts nothing and loads
// nothing; the runners share what it found.
package tasks

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Kind says which runner performs a task.
type Kind string

// The kinds.
const (
	Exec Kind = "exec" // an executable file
	Node Kind = "node" // JavaScript or TypeScript
)

// Extensions are the whole extensions of files that need Node, in order of precedence.
func Extensions() []string { return []string{".js", ".cjs", ".mjs", ".ts", ".mts"} }

// Dir is what was found in a task directory.
type Dir struct {
	// Path is the directory, absolute.
	Path string
	// Tasks are the tasks that a runner can perform, ordered by name.
	Tasks []Task
	// Warnings tell of everything that was passed over, ordered by path.
	Warnings []Warning
}

// Task is one task and the files that define it.
type Task struct {
	// Name is what jobs call it: the directories below the task directory and the file's name before its first
	// dot, joined by "/".
	Name string
	// Kind is the runner it needs.
	Kind Kind
	// File is the one of Files that is run: the first JavaScript file in the order of Extensions, and where there is
	// none, the first executable.
	File File
	// Files are all files of this name, ordered by extension.
	Files []File
}

// File is a file below the task directory.
type File struct {
	// Path is absolute. For a symbolic link it is the file linked to, so that a script finds what lies beside it.
	Path string
	// Ext is everything from the first dot of its name on, or "". For a symbolic link it is the link's.
	Ext string
	// Mode is the file's, not the link's.
	Mode fs.FileMode
}

// Executable says whether its owner may execute it.
func (f File) Executable() bool { return f.Mode&0o100 != 0 }

// Warning tells of a file or directory that was passed over.
type Warning struct {
	Path   string
	Reason string
}

func (w Warning) String() string { return w.Path + ": " + w.Reason }

// Of gives the tasks of one kind, ordered by name.
func (d *Dir) Of(kind Kind) []Task {
	var found []Task
	for _, t := range d.Tasks {
		if t.Kind == kind {
			found = append(found, t)
		}
	}
	return found
}

// LogWarnings writes one line for each warning.
func (d *Dir) LogWarnings(log *slog.Logger) {
	for _, w := range d.Warnings {
		log.Warn("ignored in the task directory", "path", w.Path, "reason", w.Reason)
	}
}

// Read reads the directory at path and those below it. Files that cannot be tasks become warnings; a directory that is
// missing or cannot be read is an error, because a worker that starts without half its tasks helps nobody.
func Read(path string) (*Dir, error) {
	if path == "" {
		return nil, errors.New("no task directory named: name one with --tasks")
	}
	root, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("task directory %s: %w", path, err)
	}
	info, err := os.Stat(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("task directory %s does not exist: create it, or name another with --tasks (%w)", root, fs.ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("task directory: %w", err)
	case !info.IsDir():
		return nil, fmt.Errorf("task directory %s is not a directory: name the directory that holds the tasks with --tasks", root)
	}

	r := reader{files: map[string][]File{}}
	if err := r.directory(root, ""); err != nil {
		return nil, fmt.Errorf("task directory: %w", err)
	}
	d := &Dir{Path: root}
	for name, files := range r.files {
		if task, ok := r.task(name, files); ok {
			d.Tasks = append(d.Tasks, task)
		}
	}
	slices.SortFunc(d.Tasks, func(a, b Task) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortStableFunc(r.warnings, func(a, b Warning) int { return cmp.Compare(a.Path, b.Path) })
	d.Warnings = r.warnings
	return d, nil
}

// reader collects while the directory is walked.
type reader struct {
	files    map[string][]File // by the task's name
	warnings []Warning
}

func (r *reader) ignore(path, reason string, args ...any) {
	r.warnings = append(r.warnings, Warning{Path: path, Reason: fmt.Sprintf(reason, args...)})
}

// directory reads one directory; prefix is what its files' names begin with, "" or ending in "/".
func (r *reader) directory(dir, prefix string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		switch mode := entry.Type(); {
		case mode.IsDir():
			if !isWord(entry.Name()) {
				r.ignore(path, "the directory's name may have letters, digits, _ and - only")
				continue
			}
			if err := r.directory(path, prefix+entry.Name()+"/"); err != nil {
				return err
			}
		case mode&fs.ModeSymlink != 0:
			target, err := filepath.EvalSymlinks(path)
			if err != nil {
				r.ignore(path, "the symbolic link leads nowhere: %v", err)
				continue
			}
			info, err := os.Stat(target)
			switch {
			case err != nil:
				r.ignore(path, "the symbolic link leads nowhere: %v", err)
			case info.IsDir():
				r.ignore(path, "symbolic links to directories are not followed")
			default:
				r.file(path, prefix, entry.Name(), target, info)
			}
		default:
			info, err := entry.Info()
			if err != nil {
				r.ignore(path, "%v", err) // it went away while we read
				continue
			}
			r.file(path, prefix, entry.Name(), path, info)
		}
	}
	return nil
}

// file takes in the file at target, which the directory knows as path.
func (r *reader) file(path, prefix, name, target string, info fs.FileInfo) {
	if !info.Mode().IsRegular() {
		r.ignore(path, "neither a file nor a directory")
		return
	}
	base, ext, ok := parseName(name)
	if !ok {
		r.ignore(path, "the file's name may have letters, digits, _ and - only, and single dots between them")
		return
	}
	if len(prefix)+len(base) > maxName {
		r.ignore(path, "a task's name has at most %d characters", maxName)
		return
	}
	task := prefix + base
	r.files[task] = append(r.files[task], File{Path: target, Ext: ext, Mode: info.Mode()})
}

// task decides which of the files of one name is run.
func (r *reader) task(name string, files []File) (Task, bool) {
	slices.SortStableFunc(files, func(a, b File) int { return cmp.Compare(a.Ext, b.Ext) })
	t := Task{Name: name, Files: files}
	for _, ext := range Extensions() {
		if i := slices.IndexFunc(files, func(f File) bool { return f.Ext == ext }); i >= 0 {
			t.Kind, t.File = Node, files[i]
			break
		}
	}
	for _, f := range files {
		switch {
		case !f.Executable() || slices.Contains(Extensions(), f.Ext):
		case t.Kind == "":
			t.Kind, t.File = Exec, f
		default:
			r.ignore(f.Path, "task %s is performed by %s", name, t.File.Path)
		}
	}
	if t.Kind != "" {
		return t, true
	}
	for _, f := range files {
		reason := "neither executable (chmod +x) nor JavaScript"
		if i := strings.LastIndexByte(f.Ext, '.'); i > 0 && slices.Contains(Extensions(), f.Ext[i:]) {
			reason = fmt.Sprintf("its extension is %s as a whole, and that is not loaded", f.Ext)
		}
		r.ignore(f.Path, "%s", reason)
	}
	return Task{}, false
}
