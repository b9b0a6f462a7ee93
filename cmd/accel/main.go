// Command accel runs models on whatever hardware is there. `accel help` lists its
// commands; docs/architecture.md says what stands behind them.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "unversioned"

func main() {
	// The first signal ends what runs in good order, the second at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(execute(ctx, &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, environ: os.Environ(), open: openEngine}, os.Args[1:]))
}

// execute runs one command line and returns the exit status.
func execute(ctx context.Context, a *app, args []string) int {
	a.screen = newScreen(a.err)
	root := newRoot(a)
	root.SetArgs(args)
	root.SetOut(a.out)
	root.SetErr(a.screen)
	err := root.ExecuteContext(ctx)
	if err != nil {
		a.report(ctx, err)
	}
	return exitStatus(ctx, err)
}

// app is what the commands share.
type app struct {
	in       io.Reader
	out, err io.Writer
	environ  []string
	open     opener
	screen   *screen // err, with a line for progress

	configFile string
	logLevel   string
	logFormat  string
	json       bool
	noProgress bool
}
