package exec

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// startFailure says why the file could not be started, and what to do about it: the kernel's own word for a missing
// file and for a missing interpreter is the same.
func startFailure(path string, err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return fmt.Errorf("start %s: %w", path, err)
	}
	return fmt.Errorf("start %s: %s: %w", path, startReason(path, errno), errno)
}

func startReason(path string, errno syscall.Errno) string {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "the file is gone; a worker reads its task directory once, when it starts"
	}
	if err == nil && !info.Mode().IsRegular() {
		return "it is not a file any more"
	}
	head := firstLine(path)
	interpreter, script := strings.CutPrefix(head, "#!")
	interpreter, _, _ = strings.Cut(strings.TrimLeft(interpreter, " \t"), " ")
	switch errno {
	case syscall.ENOENT, syscall.ENOTDIR:
		if !script {
			return "its program loader is missing; it was built for another system"
		}
		if strings.HasSuffix(interpreter, "\r") {
			return fmt.Sprintf("its #! line names %q; save it with Unix line ends", interpreter)
		}
		return fmt.Sprintf("the interpreter of its #! line, %s, does not exist", interpreter)
	case syscall.EACCES:
		if err == nil && info.Mode()&0o111 == 0 {
			return "it is not executable; use chmod +x"
		}
		if script {
			return fmt.Sprintf("the worker may not execute it, or not its interpreter %s, or its file system is mounted noexec", interpreter)
		}
		return "the worker may not execute it, or its file system is mounted noexec"
	case syscall.ENOEXEC:
		switch {
		case script:
			return "its #! line names no program that can be executed"
		case err == nil && info.Size() == 0:
			return "the file is empty"
		case strings.ContainsRune(head, 0):
			return "it was built for another system"
		}
		return "it has no #! line; let it begin with one, such as #!/bin/sh"
	case syscall.ETXTBSY:
		return "somebody is writing the file"
	case syscall.E2BIG:
		return "its environment is too large"
	}
	return "the system refuses"
}

// firstLine is at most the first 256 bytes of the file, as much as kernels read of a #! line.
func firstLine(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	line, _ := bufio.NewReader(io.LimitReader(f, 256)).ReadBytes('\n') // an error leaves what there is
	return string(bytes.TrimSuffix(line, []byte("\n")))
}

// exitFailure is the error of an attempt whose process ended by itself; nil if it did so with exit status 0.
func exitFailure(state *os.ProcessState, stderr string) error {
	if state.Success() {
		return nil
	}
	return withTail(exitText(state), stderr)
}

func withTail(text, stderr string) error {
	if stderr != "" {
		text += ": " + stderr
	}
	return errors.New(text)
}

func exitText(state *os.ProcessState) string {
	status, ok := state.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return fmt.Sprintf("exit status %d", state.ExitCode())
	}
	text := "killed by " + signalName(status.Signal())
	switch {
	case status.Signal() == syscall.SIGKILL:
		text += " (not by its worker; the system may have been out of memory)"
	case status.CoreDump():
		text += " (core dumped)"
	}
	return text
}

// stopFailure is the error of an attempt that was stopped because its context ended. How the process took it is
// told, but decides nothing: the worker had given up the attempt already.
func stopFailure(ctx context.Context, how, stderr string) error {
	if stderr != "" {
		how += ": " + stderr
	}
	return fmt.Errorf("%w; %s", context.Cause(ctx), how)
}

func signalName(s syscall.Signal) string {
	names := map[syscall.Signal]string{
		syscall.SIGHUP: "SIGHUP", syscall.SIGINT: "SIGINT", syscall.SIGQUIT: "SIGQUIT", syscall.SIGILL: "SIGILL",
		syscall.SIGTRAP: "SIGTRAP", syscall.SIGABRT: "SIGABRT", syscall.SIGBUS: "SIGBUS", syscall.SIGFPE: "SIGFPE",
		syscall.SIGKILL: "SIGKILL", syscall.SIGUSR1: "SIGUSR1", syscall.SIGSEGV: "SIGSEGV", syscall.SIGUSR2: "SIGUSR2",
		syscall.SIGPIPE: "SIGPIPE", syscall.SIGALRM: "SIGALRM", syscall.SIGTERM: "SIGTERM", syscall.SIGXCPU: "SIGXCPU",
		syscall.SIGXFSZ: "SIGXFSZ", syscall.SIGSYS: "SIGSYS",
	}
	if name, ok := names[s]; ok {
		return name
	}
	return fmt.Sprintf("signal %d", int(s))
}
