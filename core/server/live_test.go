package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/tasks"
)

// gate is an engine whose requests wait until they are let go.
type gate struct {
	fake
	entered chan struct{} // one for each request that came in
	open    chan struct{} // lets one go
	ended   chan error    // why each that was not let go ended
}

func newGate() *gate {
	g := &gate{entered: make(chan struct{}, 100), open: make(chan struct{}), ended: make(chan error, 100)}
	g.embed = func(ctx context.Context, model string, req tasks.EmbedRequest) (tasks.EmbedResult, error) {
		g.entered <- struct{}{}
		select {
		case <-g.open:
			return tasks.EmbedResult{Vectors: make([][]float32, len(req.Texts)), Tokens: 1, Decision: decision()}, nil
		case <-ctx.Done():
			g.ended <- context.Cause(ctx)
			return tasks.EmbedResult{}, ctx.Err()
		}
	}
	return g
}

// start serves on a free port until the test ends, or stop is called; stop waits
// for Serve and returns what it returned.
func (h *harness) start(t *testing.T) (url string, stop func() error) {
	t.Helper()
	l, err := h.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, l) }()
	var result error
	stopped := false
	stop = func() error {
		if !stopped {
			stopped = true
			cancel()
			result = <-done
		}
		return result
	}
	t.Cleanup(func() { stop() })
	return "http://" + l.Addr().String(), stop
}

type answer struct {
	status int
	header http.Header
	code   string
	err    error
}

// post sends an embedding request and returns its answer through a channel.
func post(ctx context.Context, url string) chan answer {
	ch := make(chan answer, 1)
	go func() {
		r, _ := http.NewRequestWithContext(ctx, "POST", url+"/v1/embeddings", strings.NewReader(`{"model":"mini","input":"a"}`))
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			ch <- answer{err: err}
			return
		}
		defer resp.Body.Close()
		var e apiError
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 && json.Unmarshal(body, &e) != nil {
			err = fmt.Errorf("no error of OpenAI's form: %s", body)
		}
		ch <- answer{resp.StatusCode, resp.Header, e.Error.Code, err}
	}()
	return ch
}

func (a answer) check(t *testing.T, what string, status int, code string) {
	t.Helper()
	if a.err != nil || a.status != status || a.code != code {
		t.Errorf("%s: got %d %q, %v, want %d %q", what, a.status, a.code, a.err, status, code)
	}
}

// eventually waits for a state that other goroutines bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 5000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%s did not come about", what)
}

func TestQueueIsBounded(t *testing.T) {
	g := newGate()
	h := newServer(t, g, func(c *config.Server) { c.Queue = config.Queue{MaxRunning: 1, MaxWaiting: 1, MaxWait: time.Minute} })
	url, _ := h.start(t)
	ctx := context.Background()
	first := post(ctx, url)
	<-g.entered
	second := post(ctx, url)
	eventually(t, "a waiting request", func() bool { return h.queue.waiting() == 1 })
	third := <-post(ctx, url)
	third.check(t, "third", 429, "rate_limit_exceeded")
	if s, err := strconv.Atoi(third.header.Get("Retry-After")); err != nil || s < 1 || s > 60 {
		t.Errorf("Retry-After: %q", third.header.Get("Retry-After"))
	}
	if len(g.entered) != 0 {
		t.Error("the second is at the engine beside the first")
	}
	g.open <- struct{}{}
	g.open <- struct{}{}
	(<-first).check(t, "first", 200, "")
	(<-second).check(t, "second", 200, "")
	eventually(t, "an empty queue", func() bool { return h.queue.inFlight() == 0 && h.queue.atEngine() == 0 })
}

func TestQueueWaitIsBounded(t *testing.T) {
	g := newGate()
	h := newServer(t, g, func(c *config.Server) {
		c.Queue = config.Queue{MaxRunning: 1, MaxWaiting: 5, MaxWait: 20 * time.Millisecond}
	})
	url, _ := h.start(t)
	first := post(context.Background(), url)
	<-g.entered
	late := <-post(context.Background(), url)
	late.check(t, "late", 429, "rate_limit_exceeded")
	g.open <- struct{}{}
	(<-first).check(t, "first", 200, "")
}

func TestRequestTimeout(t *testing.T) {
	g := newGate()
	h := newServer(t, g, func(c *config.Server) {
		c.Timeouts.Request = 30 * time.Millisecond
		c.Queue.MaxRunning = 1
	})
	url, _ := h.start(t)
	a, b := post(context.Background(), url), post(context.Background(), url) // at the engine, and waiting
	(<-a).check(t, "one", 504, "timeout")
	(<-b).check(t, "other", 504, "timeout")
	if err := <-g.ended; !errors.Is(err, errTimeout) {
		t.Errorf("the engine saw %v", err)
	}
}

func TestClientGone(t *testing.T) {
	g := newGate()
	h := newServer(t, g, func(c *config.Server) { c.Queue.MaxRunning = 1 })
	url, _ := h.start(t)
	ctx, leave := context.WithCancel(context.Background())
	running := post(ctx, url)
	<-g.entered
	waiting := post(ctx, url)
	eventually(t, "a waiting request", func() bool { return h.queue.waiting() == 1 })
	leave()
	if a := <-running; a.err == nil {
		t.Errorf("the client got %d", a.status)
	}
	<-waiting
	if err := <-g.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the engine saw %v", err)
	}
	eventually(t, "499 in the metrics, twice", func() bool {
		return strings.Contains(h.do("GET", "/metrics", "").Body.String(),
			`accel_http_requests_total{code="499",kind="",method="POST",model="mini",platform="",route="/v1/embeddings"} 2`)
	})
	if h.queue.inFlight() != 0 {
		t.Error("places are still taken")
	}
	if !strings.Contains(h.log.String(), `"status":499`) {
		t.Error("the log does not say that the client left")
	}
}

func TestSlowClients(t *testing.T) {
	h := newServer(t, &fake{}, func(c *config.Server) {
		c.Timeouts.ReadHeader, c.Timeouts.ReadBody = 30*time.Millisecond, 30*time.Millisecond
	})
	url, _ := h.start(t)
	for _, x := range []struct{ name, send, want string }{
		{"header", "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", ""},
		{"body", "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", "408 Request Timeout"},
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, x.send); err != nil {
			t.Fatal(err)
		}
		// The connection must end by itself.
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		got, err := io.ReadAll(bufio.NewReader(conn))
		if err != nil || !strings.Contains(string(got), x.want) {
			t.Errorf("%s: got %q, %v", x.name, got, err)
		}
	}
	if n := h.queue.inFlight(); n != 0 {
		t.Errorf("%d places are still taken", n)
	}
	// A body that ends early is the client's fault, and said so.
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	conn.(*net.TCPConn).CloseWrite()
	got, _ := io.ReadAll(conn)
	if !bytes.Contains(got, []byte("400 Bad Request")) || !bytes.Contains(got, []byte("ended before its Content-Length")) {
		t.Errorf("a body cut short: %q", got)
	}
}

// A request may take longer than its body may take to arrive.
func TestSlowEngineOutlivesTheBodysDeadline(t *testing.T) {
	g := newGate()
	h := newServer(t, g, func(c *config.Server) { c.Timeouts.ReadBody = 20 * time.Millisecond })
	url, _ := h.start(t)
	a := post(context.Background(), url)
	<-g.entered
	time.Sleep(60 * time.Millisecond)
	g.open <- struct{}{}
	(<-a).check(t, "slow engine", 200, "")
}

func TestDrain(t *testing.T) {
	g := newGate()
	h := newServer(t, g, func(c *config.Server) { c.Timeouts.DrainDelay = time.Second })
	url, stop := h.start(t)
	a := post(context.Background(), url)
	<-g.entered
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	eventually(t, "a failing /readyz", func() bool {
		resp, err := http.Get(url + "/readyz")
		if err != nil {
			t.Fatal("the listener closed before /readyz failed")
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode == 503 && strings.Contains(string(b), "shutting down")
	})
	eventually(t, "a closed listener", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	select {
	case err := <-stopped:
		t.Fatalf("it stopped with a request in flight: %v", err)
	default:
	}
	g.open <- struct{}{}
	(<-a).check(t, "in flight", 200, "")
	if err := <-stopped; err != nil {
		t.Errorf("got %v", err)
	}
}

func TestDrainIsBounded(t *testing.T) {
	g := newGate()
	h := newServer(t, g, func(c *config.Server) { c.Timeouts.Drain = 30 * time.Millisecond })
	url, stop := h.start(t)
	a := post(context.Background(), url)
	<-g.entered
	err := stop()
	if err == nil || !strings.Contains(err.Error(), "1 requests were still in flight") {
		t.Errorf("got %v", err)
	}
	(<-a).check(t, "in flight", 503, "DRAINING")
	if err := <-g.ended; !errors.Is(err, errDraining) {
		t.Errorf("the engine saw %v", err)
	}
}

func TestServeEndsWithItsListener(t *testing.T) {
	h := newServer(t, &fake{}, nil)
	l, err := h.Listen()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := h.Serve(context.Background(), l); err == nil {
		t.Error("a closed listener was served")
	}
}

// The official client must understand every answer.
func TestOpenAIClient(t *testing.T) {
	d := decision()
	h := newServer(t, &fake{embed: func(ctx context.Context, model string, req tasks.EmbedRequest) (tasks.EmbedResult, error) {
		if model != "mini" {
			return tasks.EmbedResult{}, &engine.ModelNotFoundError{Model: model, Known: []string{"mini"}}
		}
		return tasks.EmbedResult{Vectors: [][]float32{{0.1, -2.5e-9}, {1, math.MaxFloat32}}, Tokens: 9, Decision: d}, nil
	}}, func(c *config.Server) { c.APIKeys = []config.Secret{"k"} })
	url, _ := h.start(t)
	ctx := context.Background()
	client := openai.NewClient(option.WithBaseURL(url+"/v1/"), option.WithAPIKey("k"))
	params := openai.EmbeddingNewParams{Model: "mini", Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a", "b"}}}

	var resp *http.Response
	got, err := client.Embeddings.New(ctx, params, option.WithResponseInto(&resp))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Data) != 2 || float32(got.Data[0].Embedding[1]) != -2.5e-9 || float32(got.Data[1].Embedding[1]) != math.MaxFloat32 ||
		got.Data[1].Index != 1 || got.Model != "mini" || got.Usage.PromptTokens != 9 || string(got.Object) != "list" {
		t.Errorf("got %s", got.RawJSON())
	}
	if resp.Header.Get("X-Accel-Platform") != "cpu" {
		t.Errorf("headers: %v", resp.Header)
	}

	params.EncodingFormat = openai.EmbeddingNewParamsEncodingFormatBase64
	params.Input = openai.EmbeddingNewParamsInputUnion{OfArrayOfTokenArrays: [][]int64{{1}, {2, 3}}}
	// The client has no field for base64: it leaves the text in its raw JSON.
	var raw struct {
		Data []struct{ Embedding string }
	}
	if err := client.Post(ctx, "embeddings", params, &raw); err != nil {
		t.Fatal(err)
	}
	b, err := base64.StdEncoding.DecodeString(raw.Data[1].Embedding)
	if err != nil || !bytes.Equal(b, []byte{0, 0, 128, 63, 255, 255, 127, 127}) {
		t.Errorf("got % x, %v", b, err)
	}

	models, err := client.Models.List(ctx)
	if err != nil || len(models.Data) != 2 || models.Data[0].ID != "mini" {
		t.Errorf("models: %+v, %v", models, err)
	}
	if m, err := client.Models.Get(ctx, "org/other"); err != nil || m.ID != "org/other" {
		t.Errorf("model: %+v, %v", m, err)
	}

	params.Model = "none"
	_, err = client.Embeddings.New(ctx, params)
	var api *openai.Error
	if !errors.As(err, &api) || api.StatusCode != 404 || api.Code != "model_not_found" || api.Param != "model" || api.Type != "invalid_request_error" || !strings.Contains(api.Message, `"none"`) {
		t.Errorf("got %v", err)
	}
	stranger := openai.NewClient(option.WithBaseURL(url+"/v1/"), option.WithAPIKey("wrong"))
	if _, err = stranger.Models.List(ctx); !errors.As(err, &api) || api.StatusCode != 401 || api.Code != "invalid_api_key" {
		t.Errorf("got %v", err)
	}
}

func TestAppendedNumbersAreExact(t *testing.T) {
	v := []float32{0, float32(math.Copysign(0, -1)), 1, 0.1, 1.0 / 3, math.SmallestNonzeroFloat32, math.MaxFloat32, -1.17549435e-38, 16777217}
	res := tasks.EmbedResult{Vectors: [][]float32{v}}
	for _, asBase64 := range []bool{false, true} {
		b, err := appendEmbeddings(nil, "m\"\n", &res, asBase64)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Model string
			Data  []struct{ Embedding json.RawMessage }
		}
		if err := json.Unmarshal(b, &got); err != nil || got.Model != "m\"\n" {
			t.Fatalf("%v in %s", err, b)
		}
		var back []float32
		if asBase64 {
			var raw []byte
			if err := json.Unmarshal(got.Data[0].Embedding, &raw); err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(raw); i += 4 {
				back = append(back, math.Float32frombits(uint32(raw[i])|uint32(raw[i+1])<<8|uint32(raw[i+2])<<16|uint32(raw[i+3])<<24))
			}
		} else if err := json.Unmarshal(got.Data[0].Embedding, &back); err != nil {
			t.Fatal(err)
		}
		if len(back) != len(v) {
			t.Fatalf("%d of %d numbers", len(back), len(v))
		}
		for i := range v {
			if math.Float32bits(back[i]) != math.Float32bits(v[i]) {
				t.Errorf("base64 %v: %v became %v", asBase64, v[i], back[i])
			}
		}
	}
}

func FuzzEmbeddingsRequest(f *testing.F) {
	for _, s := range []string{
		`{"model":"m","input":"a"}`, `{"model":"m","input":["a","b"],"dimensions":3,"encoding_format":"base64","user":"u","truncate":true}`,
		`{"model":"m","input":[1,2]}`, `{"model":"m","input":[[1],[2]]}`, `{"model":"m","input":"\ud83d\ude00"}`, `{"model":"m","input":[ ]}`, `{"input":null}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := parseEmbeddings(body, 4)
		if err != nil {
			var p *problem
			if !errors.As(err, &p) || p.Status != 400 || p.Message == "" {
				t.Fatalf("not a problem of the client's: %v", err)
			}
			return
		}
		if !json.Valid(body) {
			t.Fatalf("taken, though it is not JSON: %q", body)
		}
		texts, tokens := len(req.embed.Texts), len(req.embed.Tokens)
		if req.model == "" || (texts == 0) == (tokens == 0) || texts+tokens > 4 || req.embed.Dimensions < 0 {
			t.Fatalf("%q became %+v", body, req)
		}
		for _, s := range req.embed.Texts {
			if s == "" || strings.ContainsRune(s, '\ufffd') && !bytes.Contains(body, []byte("\ufffd")) && !bytes.Contains(bytes.ToLower(body), []byte(`\ufffd`)) {
				t.Fatalf("%q became %q", body, s)
			}
		}
		for _, ids := range req.embed.Tokens {
			if len(ids) == 0 {
				t.Fatalf("%q became %v", body, req.embed.Tokens)
			}
			for _, id := range ids {
				if id < 0 {
					t.Fatalf("%q became %v", body, ids)
				}
			}
		}
	})
}

func BenchmarkAppendEmbeddings(b *testing.B) {
	res := tasks.EmbedResult{Vectors: make([][]float32, 64)}
	for i := range res.Vectors {
		v := make([]float32, 384)
		for j := range v {
			v[j] = float32(math.Sin(float64(i*384+j))) / 20
		}
		res.Vectors[i] = v
	}
	for _, asBase64 := range []bool{false, true} {
		b.Run(fmt.Sprintf("base64=%v", asBase64), func(b *testing.B) {
			b.ReportAllocs()
			var buf []byte
			for b.Loop() {
				var err error
				if buf, err = appendEmbeddings(buf[:0], "mini", &res, asBase64); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(buf)))
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*64*384), "ns/number")
		})
	}
	b.Run("encoding/json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := json.Marshal(res.Vectors); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*64*384), "ns/number")
	})
}

func BenchmarkHandler(b *testing.B) {
	h := newServer(b, &fake{}, nil)
	body := `{"model":"mini","input":["one text of usual length, as people send them"]}`
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest("POST", "http://localhost/v1/embeddings", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		h.Handler().ServeHTTP(httptest.NewRecorder(), r)
	}
}
