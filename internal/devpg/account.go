package devpg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
)

// account is the user of the operating system that initdb and postgres run as. Both refuse root.
type account struct {
	name     string
	uid, gid int
	switched bool // another user than the one of this process
}

// serverAccount is this process's own user, or for root the one that PostgreSQL's packages make, or
// nobody.
func serverAccount() (account, error) {
	if os.Geteuid() != 0 {
		who := account{name: "of this process", uid: os.Geteuid(), gid: os.Getegid()}
		if u, err := user.Current(); err == nil {
			who.name = u.Username
		}
		return who, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2); err != nil {
			return account{}, fmt.Errorf("look up the user %s: %w", name, err)
		}
		return account{name: name, uid: uid, gid: gid, switched: true}, nil
	}
	return account{}, errors.New("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody; run this as an ordinary user")
}

// own gives a file to the account.
func (a account) own(path string) error {
	if !a.switched {
		return nil
	}
	return os.Lchown(path, a.uid, a.gid)
}

// homeMode lets the account pass through our directory to its data; it need not list it.
func (a account) homeMode() fs.FileMode {
	if a.switched {
		return 0o711
	}
	return 0o700
}

// blockedAt returns the first directory on the way to path, path included, that is closed to the
// account, or "".
func (a account) blockedAt(path string) string {
	if !a.switched {
		return ""
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return path
	}
	blocked := ""
	for dir := path; ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || !a.mayEnter(info) {
			blocked = dir
		}
		if dir == filepath.Dir(dir) {
			return blocked
		}
	}
}

func (a account) mayEnter(info fs.FileInfo) bool {
	uid, gid := ownerOf(info)
	enter := fs.FileMode(0o001)
	switch {
	case a.uid == uid:
		enter = 0o100
	case a.gid == gid:
		enter = 0o010
	}
	return info.Mode().Perm()&enter != 0
}

// checkOwner refuses a directory that somebody else has put into a shared place under a name of ours.
func checkOwner(dir string) error {
	for _, path := range []string{dir, filepath.Dir(dir)} {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("open the directory for PostgreSQL: %w", err)
		}
		uid, _ := ownerOf(info)
		if uid != os.Geteuid() && (path == dir || uid != 0) {
			return fmt.Errorf("%s cannot be the directory for PostgreSQL: %s belongs to another user (%d)", dir, path, uid)
		}
	}
	return nil
}
