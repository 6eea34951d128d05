package cli

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/schema"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program and of the schema it needs",
		Args:  cobra.NoArgs,
		RunE: a.run(func(context.Context, []string) error {
			v := struct {
				Version  string `json:"version"`
				Schema   int    `json:"schema"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
				Revision string `json:"revision"`
			}{offstage.Version, schema.Version(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH, revision()}
			if a.json {
				return a.printJSON(v)
			}
			_, err := fmt.Fprintf(a.Stdout, "offstage %s (schema %d, %s, %s)\n", v.Version, v.Schema, v.Go, v.Platform)
			return err
		}),
	}
}

func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
