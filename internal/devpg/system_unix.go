//go:build unix

package devpg

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// childAttributes puts a child into a process group of its own and, for root, under another user.
func childAttributes(who account) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if who.switched {
		attr.Credential = &syscall.Credential{Uid: uint32(who.uid), Gid: uint32(who.gid)}
	}
	return attr
}

// tryLock takes an advisory lock without waiting. It belongs to the open file, and ends with the last
// process that has it open.
func tryLock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

func ownerOf(info fs.FileInfo) (uid, gid int) {
	stat := info.Sys().(*syscall.Stat_t) // what os.Stat returns on every Unix
	return int(stat.Uid), int(stat.Gid)
}
