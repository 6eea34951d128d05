package devpg

import "syscall"

// memoryRoot is a directory in memory that every user may write to, or "". In containers it is often
// too small for a data directory.
func memoryRoot() string {
	const (
		dir    = "/dev/shm"
		tmpfs  = 0x01021994
		enough = 1 << 30
	)
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return ""
	}
	if int64(stat.Type) != tmpfs || stat.Bavail*uint64(stat.Bsize) < enough || syscall.Access(dir, 7) != nil {
		return ""
	}
	return dir
}
