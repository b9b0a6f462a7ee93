package backend

import (
	"context"
	"encoding/binary"
	"io"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
)

// frame puts messages one after another, each behind its length.
func frame(messages ...*execRequest) []byte {
	var out []byte
	for _, m := range messages {
		data, err := proto.Marshal(m)
		if err != nil {
			panic(err)
		}
		out = append(binary.LittleEndian.AppendUint16(out, uint16(len(data))), data...)
	}
	return out
}

// unframe reads what frame wrote, and of other bytes what can be read.
func unframe(data []byte) []*execRequest {
	var list []*execRequest
	for len(data) >= 2 && len(list) < 64 {
		n := min(int(binary.LittleEndian.Uint16(data)), len(data)-2)
		m := &execRequest{}
		if proto.Unmarshal(data[2:2+n], m) == nil {
			list = append(list, m)
		}
		data = data[2+n:]
	}
	return list
}

// currentEpoch gives ids of epoch 0 the device's, which no fuzzer would guess.
func currentEpoch(m protoreflect.Message, epoch uint64) {
	if id, ok := m.Interface().(*backendv1.Id); ok && id.Epoch == 0 {
		id.Epoch = epoch
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				currentEpoch(v.List().Get(i).Message(), epoch)
			}
		default:
			currentEpoch(v.Message(), epoch)
		}
		return true
	})
}

// FuzzExecuteMessages sends any messages on an Execute stream: nothing panics,
// every command is answered once, and the server serves the next stream.
func FuzzExecuteMessages(f *testing.F) {
	id := func(n uint64) *backendv1.Id { return &backendv1.Id{Device: "0", N: n} }
	const exe, reg, buf, exe2 = 1, 2, 3, 4 // in the order in which they are made below
	open := &execRequest{Seq: 1, Command: &backendv1.ExecuteRequest_Open{Open: &backendv1.Open{Device: "0"}}}
	run := func(seq uint64, in, out *backendv1.Binding) *execRequest {
		return &execRequest{Seq: seq, Command: &backendv1.ExecuteRequest_Run{Run: &backendv1.Run{
			Executable: id(exe), Inputs: []*backendv1.Binding{in}, Outputs: []*backendv1.Binding{out},
		}}}
	}
	chunk := func(seq uint64, data string) *execRequest {
		return &execRequest{Seq: seq, Command: &backendv1.ExecuteRequest_Chunk{Chunk: &backendv1.Chunk{Name: "x", Data: []byte(data)}}}
	}
	fence := func(seq uint64) *execRequest {
		return &execRequest{Seq: seq, Command: &backendv1.ExecuteRequest_Fence{Fence: &backendv1.Fence{}}}
	}
	cancel := func(seq, target uint64) *execRequest {
		return &execRequest{Seq: seq, Command: &backendv1.ExecuteRequest_Cancel{Cancel: &backendv1.Cancel{Target: target}}}
	}
	copyBytes := &execRequest{Seq: 9, Command: &backendv1.ExecuteRequest_Copy{Copy: &backendv1.Copy{Ranges: []*backendv1.CopyRange{
		{From: id(reg), To: id(buf), Length: 100}, {From: id(buf), To: id(reg), ToOffset: 1000, Length: 3},
	}}}}
	chunkedIn := typed(&backendv1.Binding{Name: "x", Place: &backendv1.Binding_Chunked{Chunked: &backendv1.ChunkedData{Length: 8}}}, 1, 2)
	f.Add(frame(open, run(2, inlineIn("x", 1, 2), inlineOut("y")), fence(3)))
	f.Add(frame(open, run(2, typed(regionAt("x", id(reg), 64, 16), 1, 4), regionAt("y", id(reg), 128, 32)), copyBytes, fence(3)))
	f.Add(frame(open, run(2, typed(bufferAt("x", id(buf), 0, 4), 1, 1), bufferAt("y", id(buf), 8, 4)), cancel(4, 2), fence(3)))
	f.Add(frame(open, chunk(2, "abcd"), chunk(2, "efgh"), run(2, chunkedIn, &backendv1.Binding{Name: "y", Place: &backendv1.Binding_Chunked{}})))
	f.Add(frame(run(2, inlineIn("x"), inlineOut("y")), open, open, run(2, inlineIn("x"), inlineOut("y")), run(2, inlineIn("y"), nil)))
	f.Add(frame(&execRequest{}, fence(0), fence(0), cancel(0, 0), chunk(0, ""), open, chunk(7, "x"), cancel(8, 7)))

	w, s, o := inlineValue(f, "w", words("a", "")), inlineValue(f, "s", sequence()), inlineValue(f, "o", optional(nil))
	values := run(2, inlineIn("x", 1, 2), inlineOut("w2"))
	values.GetRun().Executable, values.GetRun().Inputs = id(exe2), append(values.GetRun().Inputs, w, s, o)
	values.GetRun().Outputs = append(values.GetRun().Outputs, inlineOut("x2"), &backendv1.Binding{Name: "s2", Place: &backendv1.Binding_Chunked{}})
	f.Add(frame(open, values, fence(3)))
	f.Add(frame(open, chunk(2, "abcd"), values, run(4, w, s)))

	b := &fake{features: allFeatures}
	made := 0
	b.compile = func(context.Context, CompileSpec, func(string, float64)) (Executable, error) {
		if made++; made == 1 {
			return b.double(), nil
		}
		return b.echo(), nil
	}
	c := serve(f, b)
	compiled := compile(f, c)
	epoch := compiled.Executable.Epoch
	p := makePlaces(f, c, readWrite)
	second := compile(f, c)
	if compiled.Executable.N != exe || p.region.N != reg || p.buffer.N != buf || second.Executable.N != exe2 {
		f.Fatalf("the ids are %v, %v, %v, %v", compiled.Executable, p.region, p.buffer, second.Executable)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		messages := unframe(data)
		x, err := c.Execute(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wanted := map[uint64]int{}
		for _, m := range messages {
			if m.GetChunk() == nil {
				wanted[m.Seq]++
			}
			currentEpoch(m.ProtoReflect(), epoch)
		}
		go func() {
			for _, m := range messages {
				if x.Send(m) != nil {
					return // the error comes from Recv
				}
			}
			x.CloseSend()
		}()
		for {
			r, err := x.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.GetChunk() != nil {
				continue
			}
			wanted[r.Seq]--
			if r.GetError().GetCode() == backendv1.Code_CODE_INTERNAL {
				t.Errorf("the backend is blamed: %v", r)
			}
		}
		for seq, n := range wanted {
			if n != 0 {
				t.Errorf("%d answers are missing to commands of sequence number %d", n, seq)
			}
		}
	})
}
