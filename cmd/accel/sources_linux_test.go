package main_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"

	"github.com/accelhq/accel/sdk/testfiles"
)

// TestReadersAndSeersOutliveTheirBackend kills the backend under prompts that an encoder reads and
// conversations with pictures: every answer is the one that an undisturbed server gives, and no
// page is held afterwards, of tokens or of what was read.
func TestReadersAndSeersOutliveTheirBackend(t *testing.T) {
	t5, llava := testfiles.Shared(t, "tiny", "t5"), testfiles.Shared(t, "tiny", "llava_next")
	s := serve(t, map[string]any{
		"models":   map[string]any{"t5": map[string]any{"path": t5}, "llava": map[string]any{"path": llava}},
		"backends": map[string]any{"reference": map[string]any{"disabled": true}},
	})
	client := openai.NewClient(option.WithBaseURL(s.url+"/v1"), option.WithAPIKey("none"), option.WithMaxRetries(0))
	complete := func(prompt string) (string, error) {
		c, err := client.Completions.New(t.Context(), openai.CompletionNewParams{Model: "t5", Temperature: openai.Float(0), MaxTokens: openai.Int(48),
			Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String(prompt)}})
		if err != nil {
			return "", err
		}
		return fmt.Sprint(c.Choices[0].Text, c.Choices[0].FinishReason, c.Usage.PromptTokens, c.Usage.CompletionTokens), nil
	}
	chat := func(text string, pictures ...string) (string, error) {
		parts := []openai.ChatCompletionContentPartUnionParam{openai.TextContentPart(text)}
		for _, p := range pictures {
			data, err := os.ReadFile(filepath.Join(llava, p))
			if err != nil {
				return "", err
			}
			parts = append(parts, openai.ImageContentPart(openai.ChatCompletionContentPartImageImageURLParam{URL: "data:image/png;base64," + base64.StdEncoding.EncodeToString(data)}))
		}
		c, err := client.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{Model: "llava", Temperature: openai.Float(0), MaxTokens: openai.Int(32),
			Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(parts)}})
		if err != nil {
			return "", err
		}
		return fmt.Sprint(c.Choices[0].Message.Content, c.Choices[0].FinishReason, c.Usage.PromptTokens, c.Usage.CompletionTokens), nil
	}
	asks := []func() (string, error){
		func() (string, error) { return complete("translate English to German: The house is wonderful.") },
		func() (string, error) { return complete("summarize: " + strings.Repeat("a cat sat on a mat. ", 6)) },
		func() (string, error) { return complete("one") },
		func() (string, error) { return chat("What is this?", "a.png") },
		func() (string, error) { return chat("What is this?", "b.png") },
		func() (string, error) { return chat("Compare them.", "b.png", "a.png") },
	}
	want, told := make([]string, len(asks)), map[string]bool{}
	for i, ask := range asks {
		var err error
		if want[i], err = ask(); err != nil {
			t.Fatalf("ask %d: %v", i, err)
		}
		told[want[i]] = true
	}
	if len(told) != len(asks) {
		t.Fatalf("answers can't be told apart: %q", want)
	}
	var clients sync.WaitGroup
	stop := make(chan struct{})
	answered := make([]int, 2*len(asks))
	for i := range answered {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got, err := asks[i%len(asks)]()
				if err != nil || got != want[i%len(asks)] {
					t.Errorf("client %d: got %q, %v, want %q", i, got, err, want[i%len(asks)])
					return
				}
				answered[i]++
			}
		})
	}
	for range 3 {
		time.Sleep(700 * time.Millisecond)
		s.killBackend(t)
	}
	time.Sleep(time.Second)
	close(stop)
	clients.Wait()
	for i, n := range answered {
		if n == 0 {
			t.Errorf("client %d had no answer", i)
		}
	}
	m := s.metrics(t)
	if m["accel_replays_total"] == 0 || m["accel_backend_restarts"] != 3 {
		t.Errorf("%v replays of %v restarts are told", m["accel_replays_total"], m["accel_backend_restarts"])
	}
	if m["accel_encodings_total"] < 3 {
		t.Errorf("prompts were read %v times", m["accel_encodings_total"])
	}
	eventually(t, 5*time.Second, "all pages are given back", func() bool {
		m := s.metrics(t)
		return m["accel_kv_pages_used"] == 0 && m["accel_cross_kv_pages_used"] == 0 && m["accel_kv_pages"] > 0 && m["accel_cross_kv_pages"] > 0
	})
	t.Logf("%v answers, %v replays, prompts read %v times", answered, m["accel_replays_total"], m["accel_encodings_total"])
}

// TestPromptsAreReadByEncoders: tokens of a completion's prompt are those of what the encoder read,
// and one that is longer than what it reads is refused with the limit.
func TestPromptsAreReadByEncoders(t *testing.T) {
	s := serve(t, map[string]any{"models": map[string]any{"t5": map[string]any{"path": testfiles.Shared(t, "tiny", "t5"), "platform": "cpu"}}})
	ask := func(prompt []int) (*http.Response, error) {
		body, err := json.Marshal(map[string]any{"model": "t5", "prompt": prompt, "temperature": 0, "max_tokens": 3})
		if err != nil {
			return nil, err
		}
		return http.Post(s.url+"/v1/completions", "application/json", bytes.NewReader(body))
	}
	for _, n := range []int{1, 40, 41} {
		prompt := make([]int, n)
		for i := range prompt {
			prompt[i] = 100 + i
		}
		resp, err := ask(prompt)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var v struct {
			Usage struct {
				Prompt int `json:"prompt_tokens"`
				Drawn  int `json:"completion_tokens"`
			}
		}
		if err := json.NewDecoder(resp.Body).Decode(&v); err != nil || resp.StatusCode != http.StatusOK || v.Usage.Prompt != n || v.Usage.Drawn < 1 || v.Usage.Drawn > 3 {
			t.Errorf("a prompt of %d: %d, %+v, %v", n, resp.StatusCode, v, err)
		}
	}
	resp, err := ask(make([]int, 5000))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Fatalf("%d %s %v", resp.StatusCode, text, err)
	}
	contains(t, string(text), "5000 tokens", "reads 4096", "context_length_exceeded", `"prompt"`)
}
