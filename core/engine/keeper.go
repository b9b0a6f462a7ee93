package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// keeper keeps what models hold on each device within a budget. Before more is brought, what was used longest
// ago is asked to go; what is in use goes when its users are through, and never before. Who waits for room
// holds none meanwhile and gets it in order of arrival, so that none waits for another in a circle.
type keeper struct {
	budget int64 // bytes a device; 0: none
	log    hclog.Logger

	mu       sync.Mutex
	tenants  map[*tenant]bool // that hold memory
	queue    []*claim         // in order of arrival
	offloads map[string]uint64
	closed   bool
	asked    sync.WaitGroup // calls of leave
}

// tenant is what holds memory of devices: a component where it is placed, or a decoder with its pools.
type tenant struct {
	model, component string
	used             func() time.Time // last; now where it is in use
	leave            func()           // asks it to call gone as soon as nobody uses it

	bytes   map[string]int64 // by device; the keeper's, as leaving is
	leaving bool
}

// claim is a tenant that waits for room.
type claim struct {
	*tenant
	need    map[string]int64
	granted chan struct{} // closed when the tenant has it
}

var errKeeperClosed = errors.New("the engine is being closed")

func newKeeper(budget int64, log hclog.Logger) *keeper {
	return &keeper{budget: budget, log: log, tenants: map[*tenant]bool{}, offloads: map[string]uint64{}}
}

// Held is what a component holds on a device.
type Held struct {
	Model, Component string
	Bytes            int64
}

// BudgetError says that a component has no room on a device.
type BudgetError struct {
	Model, Component string
	Device           string // platform[:id]
	Needed, Budget   int64  // bytes
	Holds            []Held // what has the room, the largest first
	Err              error  // why it was not waited for any longer; nil: the component alone is too large
}

func (e *BudgetError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "component %s of model %q needs %d bytes on %s, whose budget is %d", e.Component, e.Model, e.Needed, e.Device, e.Budget)
	if e.Err == nil {
		b.WriteString("; raise memory.budget")
		return b.String()
	}
	b.WriteString("; it waited for")
	for i, h := range e.Holds {
		if i > 0 {
			b.WriteString(" and")
		}
		fmt.Fprintf(&b, " component %s of model %q, which holds %d bytes", h.Component, h.Model, h.Bytes)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	return b.String()
}

func (e *BudgetError) Unwrap() error { return e.Err }

// enter gives a tenant so many bytes by device once there is room on all of them, and waits for that until ctx ends. The
// error is a *BudgetError.
func (k *keeper) enter(ctx context.Context, t *tenant, need map[string]int64) error {
	c := &claim{tenant: t, need: need, granted: make(chan struct{})}
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return errKeeperClosed
	}
	if err := k.tooLarge(t, need); err != nil {
		k.mu.Unlock()
		return err
	}
	k.queue = append(k.queue, c)
	k.settle()
	k.mu.Unlock()
	select {
	case <-c.granted:
	case <-ctx.Done():
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch i := slices.Index(k.queue, c); {
	case k.tenants[t]:
		return nil
	case k.closed:
		return errKeeperClosed
	default:
		err := k.short(c, ctx.Err())
		k.queue = slices.Delete(k.queue, i, i+1)
		k.settle() // others may fit
		return err
	}
}

// tooLarge refuses what would not fit even alone.
func (k *keeper) tooLarge(t *tenant, need map[string]int64) error {
	for dev, n := range need {
		if k.budget > 0 && n > k.budget {
			return &BudgetError{Model: t.model, Component: t.component, Device: dev, Needed: n, Budget: k.budget}
		}
	}
	return nil
}

// short says what a claim waited for.
func (k *keeper) short(c *claim, why error) error {
	e := &BudgetError{Model: c.model, Component: c.component, Budget: k.budget, Err: why}
	most := int64(-1)
	for dev, n := range c.need {
		if held := k.held(dev); held > most {
			most, e.Device, e.Needed = held, dev, n
		}
	}
	for t := range k.tenants {
		if n := t.bytes[e.Device]; n > 0 {
			e.Holds = append(e.Holds, Held{t.model, t.component, n})
		}
	}
	slices.SortFunc(e.Holds, func(a, b Held) int { return int(min(max(b.Bytes-a.Bytes, -1), 1)) })
	return e
}

// explain makes of the end of a wait what it was waited for, where that was room for a component.
func (k *keeper) explain(model, component string, why error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.queue {
		if c.model == model && c.component == component {
			return k.short(c, why)
		}
	}
	return why
}

// resize corrects what a tenant holds, which is known once it is there. Others are asked to go if that is more than
// there was room for; a *BudgetError says that even that would not do.
func (k *keeper) resize(t *tenant, bytes map[string]int64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.tooLarge(t, bytes); err != nil {
		return err
	}
	t.bytes = bytes
	k.settle()
	return nil
}

// gone takes back what a tenant held.
func (k *keeper) gone(t *tenant) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.tenants[t] {
		return
	}
	delete(k.tenants, t)
	if t.leaving {
		for dev := range t.bytes {
			k.offloads[dev]++
		}
	}
	k.settle()
}

func (k *keeper) held(dev string) int64 {
	var n int64
	for t := range k.tenants {
		n += t.bytes[dev]
	}
	return n
}

// settle grants claims that there is room for, none at the cost of an earlier one, and asks others to go for
// those that there is not.
func (k *keeper) settle() {
	if k.closed {
		return
	}
	need, held, coming := map[string]int64{}, map[string]int64{}, map[string]int64{}
	for t := range k.tenants {
		for dev, n := range t.bytes {
			held[dev] += n
			if t.leaving {
				coming[dev] += n
			}
		}
	}
	var blocked *claim
	k.queue = slices.DeleteFunc(k.queue, func(c *claim) bool {
		fits := true
		for dev, n := range c.need {
			fits = fits && (k.budget == 0 || held[dev]+need[dev]+n <= k.budget)
		}
		if !fits {
			for dev, n := range c.need {
				need[dev] += n
			}
			if blocked == nil {
				blocked = c
			}
			return false
		}
		for dev, n := range c.need {
			held[dev] += n
		}
		c.bytes = c.need
		k.tenants[c.tenant] = true
		close(c.granted)
		return true
	})
	if k.budget == 0 {
		return
	}
	for _, dev := range slices.Sorted(maps.Keys(held)) {
		// Others than the first make room for themselves in their turn.
		over := held[dev] - coming[dev] - k.budget
		if blocked != nil {
			over += blocked.need[dev]
		}
		for over > 0 {
			t := k.oldest(dev)
			if t == nil {
				break
			}
			over -= t.bytes[dev]
			k.ask(t, dev, blocked)
		}
	}
}

// oldest is the tenant of a device that was used longest ago, of those that were not asked to go.
func (k *keeper) oldest(dev string) *tenant {
	var old *tenant
	var when time.Time
	for t := range k.tenants {
		if t.leaving || t.bytes[dev] == 0 {
			continue
		}
		if used := t.used(); old == nil || used.Before(when) {
			old, when = t, used
		}
	}
	return old
}

func (k *keeper) ask(t *tenant, dev string, by *claim) {
	t.leaving = true
	args := []any{"model", t.model, "component", t.component, "device", dev, "bytes", t.bytes[dev], "unused", time.Since(t.used()).Round(time.Millisecond).String(), "budget", k.budget}
	if by != nil {
		args = append(args, "for_model", by.model, "for_component", by.component, "needed", by.need[dev])
	}
	k.log.Info("off-loading a component", args...)
	k.asked.Go(t.leave)
}

// close ends all waits for room. What is held is given back by its holders.
func (k *keeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	for _, c := range k.queue {
		close(c.granted)
	}
	k.queue = nil
}

// DeviceMemory is what models hold on a device.
type DeviceMemory struct {
	Device   string // platform[:id]
	Bytes    int64  // of components and of pools
	Offloads uint64 // components that were let go to make room
}

// memory lists what is held by device.
func (k *keeper) memory() []DeviceMemory {
	k.mu.Lock()
	defer k.mu.Unlock()
	by := map[string]DeviceMemory{}
	for dev, n := range k.offloads {
		by[dev] = DeviceMemory{Device: dev, Offloads: n}
	}
	for t := range k.tenants {
		for dev, n := range t.bytes {
			m := by[dev]
			m.Device, m.Bytes = dev, m.Bytes+n
			by[dev] = m
		}
	}
	var out []DeviceMemory
	for _, dev := range slices.Sorted(maps.Keys(by)) {
		out = append(out, by[dev])
	}
	return out
}

// weightBytes is what a graph's weights take as they are stored.
func weightBytes(m *graph.Model) int64 {
	var total int64
	for g := range m.Graphs() {
		for _, in := range g.Initializers {
			if n, err := tensor.ByteSize(in.Tensor.DType, in.Tensor.Shape); err == nil { // strings take no memory there
				total += n
			}
		}
	}
	return total
}
