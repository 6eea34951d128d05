package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

const (
	connections = 10                    // to the database, of the package pg, for each process
	exitGrace   = 2 * time.Second       // for a process that is to end
	sluggish    = 5 * time.Millisecond  // an event loop that has not turned for so long gets work last
	hardly      = 10 * time.Microsecond // that an attempt keeps the event loop busy, about what sending it alone costs
	soon        = 2 * time.Millisecond  // within which an attempt is over of a task that does nearly nothing, the wait for its turn included
	blockedFor  = 10 * time.Second      // after which the log says that an event loop does not turn
	maxBuffer   = 1 << 20               // what is kept for the next frame
)

// process is one Node process. Its goroutines: one starts it and waits for it, one reads from the connection, one writes
// to it, one watches, and one for each call of a task.
type process struct {
	r      *Runner
	cmd    *exec.Cmd
	pid    int
	conn   *os.File
	stderr *logWriter

	ready   chan struct{}     // closed when the tasks have loaded
	retired chan struct{}     // closed when it gets no more attempts
	exited  chan struct{}     // closed when it has ended, and all its attempts have
	failed  map[string]string // tasks that did not load; set before ready is closed

	load  atomic.Int64 // attempts
	light atomic.Int64 // those of them that it got because all of its attempts are
	brief atomic.Bool  // they hardly keep the event loop busy
	since atomic.Int64 // when the oldest frame was sent that has not been read, in ns; 0: all were

	work     sync.WaitGroup // all goroutines but the one that waits
	calls    context.Context
	endCalls context.CancelFunc

	mu        sync.Mutex
	running   map[int64]*call // by number
	out       []byte          // items for the next frame
	writing   chan struct{}   // kicks the writer
	unread    int             // frames
	busy      time.Duration   // what the event loop was lately, for so many attempts
	finished  float64
	isRetired bool
	empty     chan struct{} // closed when it is retired and nothing runs
	condemned bool          // it will be killed, for an attempt that did not stop
	killed    bool          // by us
	blocked   time.Duration // its event loop did not turn when it was condemned
	culprit   int64         // whose fault that was; 0: nobody knows
	gone      bool
}

// call is an attempt in a process.
type call struct {
	seq     int64
	ctx     context.Context
	job     *offstage.Job
	done    chan outcome
	log     *slog.Logger // the reader makes it
	overdue bool         // it did not stop in time; guarded by process.mu
	light   bool         // counts in process.light
}

type outcome struct {
	result  json.RawMessage
	err     error
	aborted bool // err is what the task was told to stop for
}

// start starts a process. It becomes ready by itself.
func (r *Runner) start() (*process, error) {
	if err := r.scripts.write(); err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	p := &process{
		r: r, conn: ours, running: map[int64]*call{},
		ready: make(chan struct{}), retired: make(chan struct{}), exited: make(chan struct{}), empty: make(chan struct{}), writing: make(chan struct{}, 1),
	}
	p.calls, p.endCalls = context.WithCancel(context.Background())
	p.cmd = &exec.Cmd{
		Path: r.program.path, Args: append(append([]string{r.program.path}, r.program.arguments()...), filepath.Join(r.scripts.dir, "main.cjs")),
		Env: r.config.Env, Dir: r.config.Dir, ExtraFiles: []*os.File{theirs}, SysProcAttr: attributes(), WaitDelay: 200 * time.Millisecond,
	}
	log := r.config.Log
	p.stderr = newLogWriter(func(line string) { log.Error(line, "node", p.pid) })
	p.cmd.Stderr = p.stderr
	p.cmd.Stdout = newLogWriter(func(line string) { log.Info(line, "node", p.pid) })

	started := make(chan error)
	r.keepers.Go(func() {
		// Linux takes the end of the thread that forked for the end of the parent, and sends the death signal.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		if err == nil {
			p.pid = p.cmd.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		_ = p.cmd.Wait() // how is in cmd.ProcessState
		p.ended()
	})
	if err := <-started; err != nil {
		ours.Close()
		p.endCalls()
		return nil, fmt.Errorf("start %s: %w", r.program.path, err)
	}
	config := start{URL: r.config.URL, Directory: r.root, Connections: connections, Tasks: []startTask{}}
	for _, task := range r.files {
		config.Tasks = append(config.Tasks, startTask{task.Name, task.File.Path})
	}
	first, err := json.Marshal(config)
	if err != nil {
		panic("node: strings are always JSON: " + err.Error())
	}
	p.work.Go(func() { p.write(append(first, '\n')) })
	p.work.Go(p.read)
	p.work.Go(p.watch)
	return p, nil
}

func socketPair() (ours, theirs *os.File, err error) {
	syscall.ForkLock.RLock()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(pair[0])
		syscall.CloseOnExec(pair[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	if err := syscall.SetNonblock(pair[0], true); err != nil { // so that closing it ends reads and writes
		return nil, nil, errors.Join(os.NewSyscallError("fcntl", err), syscall.Close(pair[0]), syscall.Close(pair[1]))
	}
	return os.NewFile(uintptr(pair[0]), "node"), os.NewFile(uintptr(pair[1]), "worker"), nil
}

// shutdown lets the other side read the end, while we go on reading.
func shutdown(conn *os.File) {
	raw, err := conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_WR) })
	}
	if err != nil {
		_ = conn.Close()
	}
}

// measure notes how long the event loop was busy since the last frame: the average goes over some hundred frames. mu is held.
func (p *process) measure(busy time.Duration) {
	p.busy += busy
	each := hardly
	if p.brief.Load() {
		each += hardly / 2 // so that it does not go to and fro
	}
	p.brief.Store(p.finished > 0 && p.busy < time.Duration(p.finished*float64(each)))
	p.busy -= p.busy / 64
	p.finished -= p.finished / 64
}

// together says that an attempt of a task that takes so long is to come to this process, as others that are as brief: the more come in a
// frame, the less each costs, and the sooner it has its turn.
func (p *process) together(took time.Duration) bool { return took > 0 && took < soon && p.brief.Load() }

// weight orders processes by what they have to do, for an attempt of a task that takes so long.
func (p *process) weight(task string, took time.Duration) int64 {
	weight := p.load.Load() - p.light.Load()
	if p.together(took) {
		weight = -1
	}
	if since := p.since.Load(); since != 0 && time.Now().UnixNano()-since > int64(sluggish) {
		weight += 1 << 32
	}
	if len(p.failed) > 0 && p.failed[task] != "" {
		weight += 1 << 40
	}
	return weight
}

// begin sends an attempt; nil if the process takes none any more.
func (p *process) begin(ctx context.Context, seq int64, task int, took time.Duration, job *offstage.Job, claim worker.Claim) *call {
	if reason, bad := p.failed[job.Task]; bad {
		c := &call{done: make(chan outcome, 1)}
		c.done <- outcome{err: putOff(ctx, fmt.Errorf("the file of the task does not load any more: %s", reason))}
		return c
	}
	c := &call{seq: seq, ctx: ctx, job: job, done: make(chan outcome, 1), light: p.together(took)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isRetired || p.gone {
		return nil
	}
	p.running[seq] = c
	p.load.Add(1)
	if c.light {
		p.light.Add(1)
	}
	p.append(func(b []byte) []byte { return appendJob(b, seq, task, job, claim) })
	return c
}

// append adds an item to the next frame; without one, that may be empty. mu is held.
func (p *process) append(item func([]byte) []byte) {
	if len(p.out) == 0 {
		p.out = append(p.out, '[')
	} else if len(p.out) > 1 && item != nil { // not behind the bracket alone
		p.out = append(p.out, ',')
	}
	if item != nil {
		p.out = item(p.out)
	}
	select {
	case p.writing <- struct{}{}:
	default:
	}
}

func (p *process) send(item []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone {
		p.append(func(b []byte) []byte { return append(b, item...) })
	}
}

// write sends first, and then all that is appended, as much at a time as there is.
func (p *process) write(first []byte) {
	if _, err := p.conn.Write(first); err != nil {
		return
	}
	var spare []byte
	for {
		select {
		case <-p.writing:
		case <-p.calls.Done():
			return
		}
		runtime.Gosched() // slots that are about to start an attempt put it into the same frame
		p.mu.Lock()
		frame := p.out
		if len(frame) == 0 {
			p.mu.Unlock()
			continue
		}
		p.out = spare[:0]
		if p.unread++; p.unread == 1 {
			p.since.Store(time.Now().UnixNano())
		}
		p.mu.Unlock()
		frame = append(frame, ']', '\n')
		if _, err := p.conn.Write(frame); err != nil {
			return // it is ending, or has
		}
		if spare = frame; cap(spare) > maxBuffer {
			spare = nil
		}
	}
}

// read takes what the process says, until it ends.
func (p *process) read() {
	in := bufio.NewReaderSize(p.conn, 64<<10)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			head := bytes.Clone(line)
			line, err = in.ReadBytes('\n')
			line = append(head, line...)
		}
		if err != nil {
			return
		}
		m, ok := parseMessage(line)
		if !ok {
			p.r.config.Log.Error("a Node process sent what its worker does not understand, and is replaced", "node", p.pid, "line", fmt.Sprintf("%.100q", line))
			p.retire()
			continue
		}
		if err := p.hear(m); err != nil {
			p.r.config.Log.Error("a Node process sent what its worker does not understand", "node", p.pid, "error", err, "line", fmt.Sprintf("%.100q", line))
		}
	}
}

func (p *process) hear(m message) error {
	switch m.kind {
	case 'k':
		busy, err := strconv.ParseInt(string(m.rest), 10, 64)
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.measure(time.Duration(busy) * time.Microsecond)
		if p.unread--; p.unread > 0 {
			p.since.Store(time.Now().UnixNano())
		} else {
			p.since.Store(0)
		}
		p.mu.Unlock()
	case 'd':
		p.finish(m.seq, outcome{result: clone(m.rest)})
	case 'e':
		var e struct {
			Text    string `json:"text"`
			Aborted bool   `json:"aborted"`
			Final   bool   `json:"final"`
		}
		err := json.Unmarshal(m.rest, &e)
		o := outcome{err: errors.New(e.Text), aborted: e.Aborted}
		if e.Final {
			o.err = offstage.Fail(o.err)
		}
		p.finish(m.seq, o)
		return err
	case 'b':
		return p.finishBatch(m)
	case 'l':
		return p.logLine(m)
	case 'o':
		return p.logOther(m.rest)
	case 'q':
		ctx, text := p.calls, clone(m.rest)
		if c := p.find(m.seq); c != nil {
			// Its values, so that progress knows the attempt; but what it has asked for happens even if it ends meanwhile.
			ctx = callContext{p.calls, c.ctx}
		}
		p.work.Go(func() { p.perform(ctx, text) })
	case 'h':
		var h struct {
			Failed map[string]string `json:"failed"`
		}
		err := json.Unmarshal(m.rest, &h)
		p.failed = h.Failed
		close(p.ready)
		return err
	case 'x':
		if p.retire() {
			p.r.config.Log.Warn("a Node process is replaced", "node", p.pid, "reason", string(m.rest))
		}
	default:
		return errors.New("unknown kind of message")
	}
	return nil
}

// clone copies, and leaves nil nil.
func clone(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return bytes.Clone(b)
}

// callContext ends with its process and has the values of its attempt.
type callContext struct {
	context.Context
	values context.Context
}

func (c callContext) Value(key any) any { return c.values.Value(key) }

func (p *process) find(seq int64) *call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running[seq]
}

func (p *process) finish(seq int64, o outcome) {
	p.mu.Lock()
	c := p.running[seq]
	if c == nil {
		p.mu.Unlock()
		return
	}
	delete(p.running, seq)
	p.finished++
	p.load.Add(-1)
	if c.light {
		p.light.Add(-1)
	}
	p.closeEmpty()
	p.mu.Unlock()
	c.done <- o
}

// closeEmpty is called with mu held.
func (p *process) closeEmpty() {
	if !p.isRetired || len(p.running) > 0 {
		return
	}
	select {
	case <-p.empty:
	default:
		close(p.empty)
	}
}

func (p *process) finishBatch(m message) error {
	c := p.find(m.seq)
	if c == nil {
		return nil
	}
	var b struct {
		Failed []int    `json:"failed"`
		Errors []string `json:"errors"`
	}
	var elements []json.RawMessage
	if err := errors.Join(json.Unmarshal(m.rest, &b), json.Unmarshal(c.job.Payload, &elements)); err != nil {
		p.finish(m.seq, outcome{err: err})
		return err
	}
	errs := make([]error, len(elements))
	for i, which := range b.Failed {
		errs[which] = errors.New(b.Errors[i])
	}
	p.finish(m.seq, outcome{err: worker.Partial(elements, errs)})
	return nil
}

// retire makes sure that it gets no more attempts; false if that was so already.
func (p *process) retire() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isRetired {
		return false
	}
	p.isRetired = true
	close(p.retired)
	p.closeEmpty()
	return true
}

// idle is closed when it is retired and nothing runs in it.
func (p *process) idle() <-chan struct{} {
	p.retire()
	return p.empty
}

// end lets it end, and returns when it has.
func (p *process) end() {
	p.retire()
	p.mu.Lock()
	p.killed = true // whatever still runs is released
	p.mu.Unlock()
	shutdown(p.conn) // which tells it to
	timer := time.NewTimer(exitGrace)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
		p.kill()
	}
}

// kill ends it at once.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = true
	if !p.gone {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	}
}

// ended is called when it has been reaped: its attempts end with it.
func (p *process) ended() {
	p.retire()
	p.endCalls()
	// What it has said before is read to the end, but its children may hold the connection open.
	_ = p.conn.SetReadDeadline(time.Now().Add(exitGrace / 10))
	_ = p.conn.SetWriteDeadline(time.Now())
	p.work.Wait()
	_ = p.conn.Close()
	p.stderr.Flush()
	p.mu.Lock()
	p.gone = true
	left := p.running
	p.running = nil
	p.mu.Unlock()
	for _, c := range left {
		c.done <- outcome{err: p.verdict(c, len(left))}
	}
	close(p.exited)
}

// how says how it ended. It has.
func (p *process) how() string {
	how := p.cmd.ProcessState.String()
	if last := p.stderr.fatal(); last != "" {
		how += ": " + last
	}
	return how
}
