package devpg

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// rootsPlace is where root keeps what the server's user must reach; its own home is closed.
const rootsPlace = "/var/tmp/offstage-root"

// reachable returns binaries that the server's user can run. Those of an npm package that is closed to
// it, in root's home for instance, are copied once to a place that is open.
func reachable(bin Binaries, who account) (Binaries, error) {
	if who.blockedAt(bin.Dir) == "" {
		return bin, nil
	}
	source := filepath.Dir(bin.Dir)
	if _, err := os.Stat(filepath.Join(source, "pg-symlinks.json")); err != nil {
		return Binaries{}, fmt.Errorf("the server runs as user %s, to whom %s is closed; install PostgreSQL where everybody can run it", who.name, bin.Dir)
	}
	info, err := os.Stat(bin.Path("postgres"))
	if err != nil {
		return Binaries{}, err
	}
	// Another release in the same place is another copy.
	key := shortHash(fmt.Sprint(bin.Dir, info.ModTime().UnixNano(), info.Size()))
	place := filepath.Join(rootsPlace, fmt.Sprintf("postgresql-%d-%s", bin.Major, key))
	copied := Binaries{Dir: filepath.Join(place, "bin"), Major: bin.Major}
	if err := os.MkdirAll(rootsPlace, who.homeMode()); err != nil {
		return Binaries{}, err
	}
	if err := checkOwner(rootsPlace); err != nil {
		return Binaries{}, err
	}
	if _, err := os.Stat(place); err == nil {
		return copied, nil
	}
	if err := copyTree(place, source); err != nil {
		return Binaries{}, fmt.Errorf("copy the PostgreSQL binaries to %s: %w", place, err)
	}
	return copied, nil
}

// copyTree copies, by hard links where both are on one file system: it is 60 MB. Two processes may do it
// at once; the first to finish gives the name.
func copyTree(to, from string) error {
	unfinished, err := os.MkdirTemp(filepath.Dir(to), "unfinished-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(unfinished)
	if err := os.Chmod(unfinished, 0o755); err != nil {
		return err
	}
	err = filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(unfinished, relative)
		switch {
		case path == from:
			return nil
		case entry.IsDir():
			return os.Mkdir(target, 0o755)
		case entry.Type()&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case os.Link(path, target) == nil:
			return nil
		}
		return copyFile(target, path)
	})
	if err != nil {
		return err
	}
	if err := os.Rename(unfinished, to); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
