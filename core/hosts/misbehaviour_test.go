//go:build unix

package hosts

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/tensor"
)

// misbehaviour makes a server misbehave in one call: role is "WHAT CALL".
func misbehaviour(role string, stderr *os.File) []grpc.ServerOption {
	what, call, ok := strings.Cut(role, " ")
	if !ok {
		return nil
	}
	begin := func(method string) (here bool, err error) {
		if !strings.HasSuffix(method, "/"+call) || !strings.Contains(method, backendv1.Backend_ServiceDesc.ServiceName) {
			return false, nil
		}
		switch what {
		case "hang":
			hang()
		case "die":
			stderr.WriteString("vendor library: bad instruction\n")
			os.Exit(4)
		case "status":
			err = status.Error(codes.Unknown, "boom")
		}
		return true, err
	}
	spoil := func(m any) {
		p := m.(proto.Message)
		switch what {
		case "empty":
			proto.Reset(p)
		case "huge":
			p.ProtoReflect().SetUnknown(append([]byte{0xfa, 0x3f, 0x80, 0x80, 0x80, 0x0a}, make([]byte, 20<<20)...)) // field 1023, 20 MiB
		}
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, q any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			here, err := begin(info.FullMethod)
			if err != nil {
				return nil, err
			}
			r, err := next(ctx, q)
			if here && err == nil {
				spoil(r)
			}
			return r, err
		}),
		grpc.ChainStreamInterceptor(func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			here, err := begin(info.FullMethod)
			if err != nil {
				return err
			}
			if here {
				stream = spoiled{stream, spoil}
			}
			return next(server, stream)
		}),
	}
}

type spoiled struct {
	grpc.ServerStream
	spoil func(any)
}

func (s spoiled) SendMsg(m any) error {
	s.spoil(m)
	return s.ServerStream.SendMsg(m)
}

// outcome is what the host makes of a misbehaviour.
type outcome struct {
	well bool // nothing is lost by it
	is   func(*testing.T, error)
	says []string
}

func startFails(cause StartCause, says ...string) outcome {
	return outcome{says: says, is: func(t *testing.T, err error) {
		if e := as[*StartError](t, err); e.Cause != cause {
			t.Errorf("cause is %q, want %q", e.Cause, cause)
		}
	}}
}

// TestMisbehaviour: in each call of the protocol, a backend hangs, dies, fails without a
// word of the protocol, answers nothing and answers too much. None of it hangs the host, and
// each is an error of a type that says what to do.
func TestMisbehaviour(t *testing.T) {
	timeout := outcome{says: []string{"no answer after", "was ended"}, is: func(t *testing.T, err error) {
		if e := as[*TimeoutError](t, err); !e.Killed || Replayable(err) {
			t.Errorf("error is %+v", e)
		}
	}}
	crash := func(says ...string) outcome {
		return outcome{says: says, is: func(t *testing.T, err error) {
			if e := as[*CrashedError](t, err); !Replayable(err) {
				t.Errorf("error is %+v", e)
			}
		}}
	}
	died := crash("exit status 4", "vendor library: bad instruction")
	breach := func(says ...string) outcome {
		return outcome{says: append(says, "report it to the backend's author"), is: func(t *testing.T, err error) {
			as[*ProtocolError](t, err)
			if !isCode(err, backend.CodeInternal) {
				t.Error("it is not the backend's fault")
			}
		}}
	}
	well := outcome{well: true}
	calls := []string{"Describe", "Configure", "Watch", "Assess", "Compile", "Map", "Alloc", "Release", "Execute"}
	table := map[string][]outcome{ // by call, as in calls
		"hang":   {startFails(StartTimeout), startFails(StartTimeout), startFails(StartTimeout), timeout, timeout, crash("left Map on simulation:0 unanswered"), timeout, timeout, crash("did not open the Execute stream")},
		"die":    {startFails(StartExited, "exit status 4"), startFails(StartExited, "exit status 4"), startFails(StartExited, "exit status 4"), died, died, died, died, well, died},
		"status": {startFails(StartRefused, "boom"), startFails(StartRefused, "boom"), startFails(StartRefused, "boom"), breach("boom"), breach("boom"), well, breach("boom"), breach("boom"), crash("boom")},
		"empty":  {startFails(StartVersion, "0 to 0", "version 1"), well, well, well, breach("without an executable"), well, breach(`device ""`), well, crash("did not open the Execute stream")},
		"huge":   {startFails(StartRefused, "larger than max"), startFails(StartRefused, "larger than max"), startFails(StartRefused, "larger than max"), breach("larger than max"), breach("larger than max"), well, breach("larger than max"), breach("larger than max"), crash("larger than max")},
	}
	var all []string
	for _, m := range backendv1.Backend_ServiceDesc.Methods {
		all = append(all, m.MethodName)
	}
	for _, s := range backendv1.Backend_ServiceDesc.Streams {
		all = append(all, s.StreamName)
	}
	slices.Sort(all)
	if sorted := slices.Sorted(slices.Values(calls)); !slices.Equal(all, sorted) {
		t.Fatalf("the protocol has the calls %q, the table %q", all, sorted)
	}
	for what, outcomes := range table {
		for i, want := range outcomes {
			call := calls[i]
			t.Run(what+" "+call, func(t *testing.T) {
				begun := time.Now()
				o := role(t, what+" "+call)
				played := o.Backends["played"]
				played.Settings = json.RawMessage(`{}`)
				o.Backends["played"] = played
				o.Restart.Base = time.Hour
				patient := 20 * time.Second
				limit := patient
				if what == "hang" || what+" "+call == "empty Execute" { // whose Open is never answered
					limit = time.Second
				}
				o.Timeouts = Timeouts{Start: patient, Probe: patient, Assess: limit, Stall: limit, Call: limit, Cancel: limit, Shutdown: time.Second}
				if i < 3 {
					o.Timeouts.Probe = limit
				}
				m := manage(t, o)
				err := allCalls(t.Context(), m)
				switch {
				case want.well && err != nil:
					t.Errorf("error %v", err)
				case want.well:
				case err == nil:
					t.Error("nothing is wrong with it")
				default:
					want.is(t, err)
					says(t, err.Error(), want.says...)
				}
				if took := time.Since(begun); took > 18*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		}
	}
}

// allCalls makes every call once, and gives the first error.
func allCalls(ctx context.Context, m *Manager) error {
	if err := m.Start(ctx); err != nil {
		return err
	}
	if len(m.Devices()) == 0 {
		return nil
	}
	d := m.Devices()[0]
	if _, err := d.Assess(ctx, "/nowhere"); err != nil {
		return err
	}
	x, err := d.Compile(ctx, backend.CompileSpec{Dir: "/nowhere"}, nil)
	if err != nil {
		return err
	}
	b, err := d.Alloc(ctx, 64)
	if err != nil {
		return err
	}
	in := ramp(5000) // large enough for shared memory
	out, _, err := x.Run(ctx, map[string]graph.Datum{"x": graph.TensorDatum(in)}, nil, false)
	if err != nil {
		return err
	}
	if !bytes.Equal(out["y"].Tensor.Data, in.Data) {
		return backend.Internal("y is not x")
	}
	return b.Close()
}

// TestLiesOfMemory: numbers that cannot be are refused, and so are ids of others.
func TestLiesOfMemory(t *testing.T) {
	breach := func(t *testing.T, err error, word string) {
		says(t, as[*ProtocolError](t, err).Error(), word, "report it")
	}
	for lie, check := range map[string]func(*testing.T, *Device){
		"assess_absurd": func(t *testing.T, d *Device) {
			_, err := d.Assess(t.Context(), "/nowhere")
			breach(t, err, "memory estimate")
		},
		"assess_no_word": func(t *testing.T, d *Device) {
			if a, err := d.Assess(t.Context(), "/nowhere"); err == nil && a.Nodes[1].OK {
				t.Errorf("a refusal of tomorrow is taken for a yes: %+v", a)
			}
		},
		"compile_absurd": func(t *testing.T, d *Device) {
			_, err := d.Compile(t.Context(), backend.CompileSpec{Dir: "/nowhere"}, nil)
			breach(t, err, "memory of 18446744073709551615 bytes")
		},
		"alloc_other_device": func(t *testing.T, d *Device) {
			_, err := d.Alloc(t.Context(), 64)
			says(t, as[*ProtocolError](t, err).Error(), `device "1"`)
		},
		"alloc_no_memory": func(t *testing.T, d *Device) {
			_, err := d.Alloc(t.Context(), 64)
			if e := as[*backend.Error](t, err); e.Code != backend.CodeOutOfMemory || e.Needed != 1<<62 {
				t.Errorf("error %+v", e)
			}
		},
	} {
		t.Run(lie, func(t *testing.T) {
			_, d := started(t, role(t, lie))
			check(t, d)
		})
	}
}

// TestLyingDevices do not start.
func TestLyingDevices(t *testing.T) {
	for lie, word := range map[string]string{"watch_absurd": "18446744073709551615 bytes cannot be", "watch_free": "2097152 bytes of 1048576 are free"} {
		t.Run(lie, func(t *testing.T) {
			o := role(t, lie)
			o.Restart.Base = time.Hour
			e := as[*StartError](t, manage(t, o).Start(t.Context()))
			if e.Cause != StartRefused {
				t.Errorf("cause is %q", e.Cause)
			}
			says(t, e.Error(), word, "report it")
		})
	}
}

// TestTalks: stdout is read for as long as the process lives, however long its lines.
func TestTalks(t *testing.T) {
	_, d := started(t, role(t, "talks"))
	out, _, err := compile(t, d, "/nowhere").Run(t.Context(), one(3), nil, false)
	if err != nil || tensor.View[float32](out["y"].Tensor)[0] != 3 {
		t.Fatalf("%v, %v", out, err)
	}
}

// TestVersions: of the versions that both sides speak the latest is spoken, and what a
// backend understands beside it does not matter.
func TestVersions(t *testing.T) {
	_, d := started(t, role(t, "both_versions"))
	if _, err := d.Assess(t.Context(), "/nowhere"); err != nil {
		t.Error(err)
	}
}
