package devpg

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// home is the directory that belongs to one server:
//
//	data/          the data directory; it appears by a rename when it is complete
//	password       the superuser's password
//	postgres.log   what the server wrote since its last Start
//	lock           kept: held while starting; temporary: held as long as anybody needs the directory
type home struct {
	dir       string
	temporary bool
	lock      *os.File
}

const temporaryPrefix = "offstage-pg-"

func (h *home) data() string         { return filepath.Join(h.dir, "data") }
func (h *home) logFile() string      { return filepath.Join(h.dir, "postgres.log") }
func (h *home) passwordFile() string { return filepath.Join(h.dir, "password") }

// openHome makes the directory where needed and takes its lock. Another process that is starting on
// the same kept directory is waited for.
func openHome(ctx context.Context, cfg Config, who account) (*home, error) {
	if cfg.Dir == "" {
		return openTemporary(who, cfg.InMemory)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, who.homeMode()); err != nil {
		return nil, fmt.Errorf("make a directory for PostgreSQL: %w", err)
	}
	// The running server is recognised by the path of its data, so it must have one spelling.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("open the directory for PostgreSQL: %w", err)
	}
	if err := checkOwner(dir); err != nil {
		return nil, err
	}
	if blocked := who.blockedAt(dir); blocked != "" {
		return nil, fmt.Errorf("%s cannot be the directory for PostgreSQL: the server runs as user %s, to whom %s is closed; choose a directory under /var/tmp",
			dir, who.name, blocked)
	}
	h := &home{dir: dir}
	if h.lock, err = openLock(filepath.Join(dir, "lock")); err != nil {
		return nil, err
	}
	for told := false; ; {
		ok, err := tryLock(h.lock)
		if err != nil {
			h.lock.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		if ok {
			return h, nil
		}
		if !told {
			progress(cfg.Log, "waiting for another process that is starting PostgreSQL in %s", dir)
			told = true
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			h.lock.Close()
			return nil, fmt.Errorf("another process is starting PostgreSQL in %s and does not come to an end: %w", dir, err)
		}
	}
}

// openTemporary makes a directory that nobody else knows. Its lock is inherited by the server and so is
// held until both this process and the server are gone; that is how leftovers are told from the living.
func openTemporary(who account, inMemory bool) (*home, error) {
	root := os.TempDir()
	if who.blockedAt(root) != "" {
		root = "/tmp" // TMPDIR may lie in root's home
	}
	removeLeftovers(root)
	if memory := memoryRoot(); inMemory && memory != "" {
		removeLeftovers(memory)
		root = memory
	}
	dir, err := os.MkdirTemp(root, temporaryPrefix)
	if err != nil {
		return nil, fmt.Errorf("make a directory for PostgreSQL: %w", err)
	}
	h := &home{dir: dir, temporary: true}
	if h.dir, err = filepath.EvalSymlinks(dir); err == nil {
		err = os.Chmod(h.dir, who.homeMode())
	}
	if err == nil {
		h.lock, err = openLock(filepath.Join(h.dir, "lock"))
	}
	if err == nil {
		_, err = tryLock(h.lock)
	}
	if err != nil {
		h.discard()
		return nil, fmt.Errorf("make a directory for PostgreSQL: %w", err)
	}
	return h, nil
}

// removeLeftovers removes temporary directories of processes that were killed. A young one may be about
// to get its lock.
func removeLeftovers(root string) {
	dirs, _ := filepath.Glob(filepath.Join(root, temporaryPrefix+"*"))
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < time.Minute || checkOwner(dir) != nil {
			continue
		}
		lock, err := openLock(filepath.Join(dir, "lock"))
		if err != nil {
			continue
		}
		if free, err := tryLock(lock); err == nil && free {
			os.RemoveAll(dir) // what remains is tried again by the next
		}
		lock.Close()
	}
}

func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock file: %w", err)
	}
	return f, nil
}

// inherited is the file that the server keeps open for as long as it lives, or nil.
func (h *home) inherited() *os.File {
	if h.temporary {
		return h.lock
	}
	return nil
}

// unlockKept lets the next starter in; from here on postmaster.pid tells that the server runs.
func (h *home) unlockKept() {
	if !h.temporary {
		h.lock.Close()
	}
}

// discard removes a temporary directory; a kept one stays.
func (h *home) discard() error {
	if !h.temporary {
		return nil
	}
	err := os.RemoveAll(h.dir)
	if h.lock != nil {
		h.lock.Close()
	}
	return err
}

// madeBy is the major version that initialised the data, 0 where there is none yet.
func (h *home) madeBy() (int, error) {
	text, err := os.ReadFile(filepath.Join(h.data(), "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the version of the data: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read the version of the data in %s: %w; remove that directory to begin anew", h.dir, err)
	}
	return major, nil
}

func (h *home) password() (string, error) {
	text, err := os.ReadFile(h.passwordFile())
	if err != nil {
		return "", fmt.Errorf("read the server's password: %w; remove %s to begin anew", err, h.dir)
	}
	return strings.TrimSpace(string(text)), nil
}

// initialise runs initdb. The data gets its name by a rename at the end, after the password is on disk,
// so that a process killed in the middle leaves nothing that looks complete. The caller has the lock.
func (h *home) initialise(ctx context.Context, bin *Binaries, who account) error {
	unfinished, _ := filepath.Glob(filepath.Join(h.dir, "initdb-*"))
	for _, dir := range unfinished {
		os.RemoveAll(dir) // of a killed predecessor; initdb died with it
	}
	var err error
	if *bin, err = reachable(*bin, who); err != nil {
		return err
	}
	work, err := os.MkdirTemp(h.dir, "initdb-")
	if err != nil {
		return fmt.Errorf("initialise a data directory: %w", err)
	}
	defer os.RemoveAll(work)

	password := newPassword()
	verifier, err := PasswordVerifier(password)
	if err != nil {
		return fmt.Errorf("initialise a data directory: %w", err)
	}
	verifierFile := filepath.Join(work, "verifier")
	dataDir := filepath.Join(work, "data")
	if err := errors.Join(
		os.WriteFile(verifierFile, []byte(verifier+"\n"), 0o600),
		os.Mkdir(dataDir, 0o700),
		who.own(work), who.own(verifierFile), who.own(dataDir),
	); err != nil {
		return fmt.Errorf("initialise a data directory: %w", err)
	}
	args := []string{
		"-D", dataDir, "--username=" + superuser, "--pwfile=" + verifierFile, "--auth=scram-sha-256",
		"--encoding=UTF8", "--locale=C", "--no-instructions",
	}
	if h.temporary {
		args = append(args, "--no-sync")
	}
	if err := runInitdb(ctx, bin.Path("initdb"), args, who); err != nil {
		return err
	}
	if err := os.WriteFile(h.passwordFile(), []byte(password+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep the server's password: %w", err)
	}
	if err := os.Rename(dataDir, h.data()); err != nil {
		return fmt.Errorf("initialise a data directory: %w", err)
	}
	return nil
}

func runInitdb(ctx context.Context, program string, args []string, who account) error {
	// A parent's death is noticed by the thread that forked (see lifetime_linux.go).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = "/"
	cmd.Env = cleanEnv()
	cmd.SysProcAttr = childAttributes(who)
	diesWithParent(cmd.SysProcAttr, os.Kill)
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, fs.ErrPermission) && who.switched:
		return fmt.Errorf("run initdb as user %s: %w; run this as an ordinary user instead", who.name, err)
	case err != nil:
		return fmt.Errorf("run initdb: %w; it says:\n%s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

func newPassword() string {
	var secret [16]byte
	rand.Read(secret[:]) // never fails
	return hex.EncodeToString(secret[:])
}

func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:4])
}
