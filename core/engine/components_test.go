package engine

import (
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/lower"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/testfiles"
)

// A LLaVA whose eyes are not there yet answers texts, and says that it is ready to.
func TestTextsDoNotWaitForEyes(t *testing.T) {
	dir := testfiles.Shared(t, "tiny", "llava")
	dev := simDevice("sim")
	opened := make(chan struct{})
	dev.compile = func(spec backend.CompileSpec) error {
		g, err := graph.Load(spec.Dir)
		if err != nil {
			return err
		}
		if name := g.Graph.Name; name == models.See {
			<-opened
		}
		return g.Close()
	}
	store, err := lower.OpenStore(t.TempDir(), 0, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{config: config.Default(), log: hclog.NewNullLogger(), fleet: &pieceFleet{devices: []*pieceDevice{dev}}, store: store, keeper: newKeeper(0, hclog.NewNullLogger())}
	e.config.Route["llava"] = []string{"sim"}
	m := &model{name: "llava", config: config.Model{Path: dir}, opened: make(chan struct{})}
	if err := m.open(e); err != nil {
		t.Fatal(err)
	}
	close(m.opened)
	placed := make(chan error, 1)
	go func() { placed <- m.place(t.Context()) }()
	res, err := m.generate(t.Context(), tasks.GenerateRequest{Tokens: []int64{1, 5, 9}, MaxTokens: 3}, func(tasks.GenerateEvent) error { return nil })
	if err != nil || res.CompletionTokens == 0 {
		t.Errorf("%+v, %v", res, err)
	}
	if i := m.info(); i.State != ModelReady {
		t.Errorf("it is %s: %s", i.State, i.Reason)
	}
	select {
	case err := <-placed:
		t.Errorf("all is placed though See does not compile: %v", err)
	case <-time.After(10 * time.Millisecond):
	}
	close(opened)
	if err := <-placed; err != nil {
		t.Error(err)
	}
	var names []string
	for x := range e.keeper.tenants {
		names = append(names, x.component)
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{models.Decode, models.See}) {
		t.Errorf("%v are placed", names)
	}
	if err := m.scheduler.Close(); err != nil {
		t.Error(err)
	}
	if err := m.session.Close(); err != nil {
		t.Error(err)
	}
	if n, b := dev.open.Load(), dev.buffers.Load(); n+b != 0 || len(e.keeper.tenants) != 0 {
		t.Errorf("%d executables and %d buffers were never given back, %d tenants are left", n, b, len(e.keeper.tenants))
	}
}
