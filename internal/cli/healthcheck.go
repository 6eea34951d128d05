package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) healthcheckCommand() *cobra.Command {
	var address, host string
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "healthcheck",
		Short: "Say by the exit code whether a worker or server is healthy",
		Long: `Asks a worker or server whether it is ready, and says so by its exit code alone: 0 is yes, 1 is no, with the reasons on
stderr. It is meant for Docker's HEALTHCHECK and the like, where there is no curl.

With --url it asks there. Without, it asks the worker at OFFSTAGE_LISTEN. Where that is not set either, it asks the database
(--database-url) whether the schema fits and a worker of this host lives: one whose last heartbeat is young. In a container that
is the container's own worker.`,
		Example: `  offstage healthcheck --url http://127.0.0.1:9464/readyz
  OFFSTAGE_LISTEN=:9464 offstage healthcheck
  offstage healthcheck --host any               any worker will do`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&address, "url", "", "what to ask, such as http://127.0.0.1:9464/readyz")
	c.Flags().StringVar(&host, "host", "", `without a URL: the host whose workers count, or "any" (default: this one)`)
	c.Flags().Var((*durationFlag)(&timeout), "timeout", "when to give up (default 5s)")
	c.MarkFlagsMutuallyExclusive("url", "host")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if address == "" && host == "" {
			address = readyURL(a.Getenv("OFFSTAGE_LISTEN"))
		}
		if u, err := url.Parse(address); address != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			return fmt.Errorf("--url is %q; write http://127.0.0.1:9464/readyz", address)
		}
		if timeout == 0 {
			timeout = 5 * time.Second
		}
		return a.run(func(ctx context.Context, _ []string) error {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			var err error
			if address != "" {
				err = askURL(ctx, address)
			} else {
				err = a.askDatabase(ctx, host)
			}
			if err != nil {
				return failed(Failed, "", "%w", err) // whatever it is: Docker knows 0 and 1
			}
			a.more("healthy")
			return nil
		})(cmd, args)
	}
	return c
}

// readyURL is where a worker that listens at an address of its own says whether it is ready; "" for none.
func readyURL(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port) + "/readyz"
}

func askURL(ctx context.Context, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	// Not through a proxy: what is asked is near.
	transport := &http.Transport{DisableKeepAlives: true}
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, strings.Join(strings.Fields(string(text)), " "))
	}
	return nil
}

func (a *app) askDatabase(ctx context.Context, host string) error {
	if host == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("the name of this host is not known; name one with --host: %w", err)
		}
		host = name
	}
	return a.with(ctx, func(db *database) error {
		var here, all int
		err := db.pool.QueryRow(ctx, db.sql(`
			select count(*) filter (where w.host = $1::text or $1::text = 'any'), count(*) from offstage_private.worker w
			where offstage_private.lives(w, offstage_private.clock())`), host).Scan(&here, &all)
		switch {
		case err != nil:
			return err
		case here == 0 && all > 0:
			return fmt.Errorf("no worker of host %s lives; of other hosts, %d", host, all)
		case here == 0:
			return errors.New("no worker lives")
		}
		a.more("%s", plural(here, "worker")+" of host "+host)
		return nil
	})
}
