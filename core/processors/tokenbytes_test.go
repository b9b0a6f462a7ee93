package processors

import (
	"strings"
	"testing"
)

func TestTokenBytes(t *testing.T) {
	const text = "Grüße an 東京, 3.14 times\n\tand 🙂 more"
	for _, family := range []string{"bpe_gpt2", "bpe_qwen", "bpe_llama3", "bpe_llama2_llava", "bpe_whisper"} {
		tok := openGolden(t, family)
		e, err := tok.Encode(text, EncodeOptions{NoSpecial: true})
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, id := range e.IDs {
			b.Write(tok.TokenBytes(id))
		}
		if got := strings.TrimPrefix(b.String(), " "); got != text {
			t.Errorf("%s: the tokens of %q together are %q", family, text, got)
		}
	}
	if b := openGolden(t, "bpe_qwen").TokenBytes(1 << 30); b != nil {
		t.Errorf("a token that isn't there is %q", b)
	}
}
