package server

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/accelhq/accel/core/config"
)

// queue bounds the requests that the server has taken on. A request enters before
// its body is read, so that bodies held in memory are bounded too, and then waits,
// first come first served, for one of the places at the engine.
type queue struct {
	entered chan struct{} // one for each request taken on
	running chan struct{} // one for each at the engine
	maxWait time.Duration
	mean    atomic.Int64 // of the time at the engine, in nanoseconds
	refused atomic.Int64
}

func newQueue(c config.Queue) *queue {
	return &queue{
		entered: make(chan struct{}, c.MaxRunning+c.MaxWaiting),
		running: make(chan struct{}, c.MaxRunning),
		maxWait: c.MaxWait,
	}
}

func (q *queue) inFlight() int { return len(q.entered) }
func (q *queue) atEngine() int { return len(q.running) }
func (q *queue) waiting() int  { return max(0, len(q.entered)-len(q.running)) }

// enter takes a request on. leave must be called once.
func (q *queue) enter() (leave func(), err error) {
	select {
	case q.entered <- struct{}{}:
		return func() { <-q.entered }, nil
	default:
		return nil, q.refuse(fmt.Sprintf("%d requests are running or waiting", cap(q.entered)))
	}
}

// acquire waits for a place at the engine. release must be called once.
func (q *queue) acquire(ctx context.Context) (release func(), err error) {
	select {
	case q.running <- struct{}{}:
	default:
		late := time.NewTimer(q.maxWait)
		defer late.Stop()
		select {
		case q.running <- struct{}{}:
		case <-late.C:
			return nil, q.refuse(fmt.Sprintf("no place became free within %v", q.maxWait))
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	begin := time.Now()
	return func() {
		<-q.running
		// A tenth of the newest keeps the estimate near what clients meet now.
		took, mean := int64(time.Since(begin)), q.mean.Load()
		q.mean.Store(mean + (took-mean)/10)
	}, nil
}

func (q *queue) refuse(why string) *problem {
	q.refused.Add(1)
	// The time in which those before it are through, if they take as long as others did.
	wait := time.Duration(q.mean.Load()) * time.Duration(q.waiting()+1) / time.Duration(cap(q.running))
	return &problem{Status: http.StatusTooManyRequests, Type: rateLimit, Code: "rate_limit_exceeded",
		Message: "the server is busy: " + why + "; ask again later, or raise server.queue", RetryAfter: min(max(wait, time.Second), time.Minute)}
}
