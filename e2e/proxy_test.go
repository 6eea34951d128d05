//go:build unix

package e2e_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy stands between a worker and PostgreSQL. It can lose notifications, and freeze: connections stay open, and
// nothing goes through any more, in either direction.
type proxy struct {
	listener net.Listener
	target   string
	deaf     atomic.Bool  // lose notifications
	lost     atomic.Int64 // how many were
	closed   chan struct{}
	all      sync.WaitGroup

	mu    sync.Mutex
	open  chan struct{} // closed while messages go through
	conns map[net.Conn]bool
}

func newProxy(t *testing.T, database string) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: u.Host, closed: make(chan struct{}), open: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(p.open)
	p.all.Go(p.accept)
	t.Cleanup(func() {
		close(p.closed)
		listener.Close()
		p.cut()
		p.all.Wait()
	})
	u.Host = listener.Addr().String()
	return p, u.String()
}

// freeze stops all traffic until thaw.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = make(chan struct{})
}

func (p *proxy) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.open)
}

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		end := sync.OnceFunc(func() {
			client.Close()
			server.Close()
			p.mu.Lock()
			delete(p.conns, client)
			delete(p.conns, server)
			p.mu.Unlock()
		})
		p.all.Go(func() { defer end(); p.requests(client, server) })
		p.all.Go(func() { defer end(); p.answers(server, client) })
	}
}

// pass returns when messages go through; false: the proxy is closed.
func (p *proxy) pass() bool {
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
	select {
	case <-open:
		return true
	case <-p.closed:
		return false
	}
}

func (p *proxy) requests(client, server net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := client.Read(buf)
		if n > 0 && p.pass() {
			_, err = server.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// answers passes the server's messages on: a letter, the length of what follows with itself, and that.
func (p *proxy) answers(server, client net.Conn) {
	const notification = 'A'
	in := bufio.NewReader(server)
	for {
		head, err := in.Peek(5)
		if err != nil {
			return
		}
		message := make([]byte, 1+binary.BigEndian.Uint32(head[1:]))
		if _, err := io.ReadFull(in, message); err != nil {
			return
		}
		if message[0] == notification && p.deaf.Load() {
			p.lost.Add(1)
			continue
		}
		if !p.pass() {
			return
		}
		if _, err := client.Write(message); err != nil {
			return
		}
	}
}
