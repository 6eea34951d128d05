//go:build !unix

package devpg

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// The private server needs process groups, file locks and signals. Elsewhere Start fails with the
// error below, and the rest of the program works with a server that DATABASE_URL names.
var errSystem = errors.New("this needs Linux, macOS or another Unix; set DATABASE_URL to a server of your own")

func childAttributes(account) *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

func tryLock(*os.File) (bool, error) { return false, errSystem }

func ownerOf(fs.FileInfo) (uid, gid int) { return os.Geteuid(), os.Getegid() }

func diesWithParent(*syscall.SysProcAttr, os.Signal) {}

func watchParent(int) (stop func(), err error) { return nil, errSystem }
