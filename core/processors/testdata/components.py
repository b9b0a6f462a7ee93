"""Writes components.json: what the tokenizers library (0.23.3) makes of texts with each component that this package has, one at a time.

Usage, in the folder above: python testdata/components.py [SEED [TEXTS]] >testdata/components.json
"""
import json
import random
import sys

from tokenizers import Tokenizer

seed = int(sys.argv[1]) if len(sys.argv) > 1 else 1
count = int(sys.argv[2]) if len(sys.argv) > 2 else 6
rng = random.Random(seed)

POOLS = [
    "abcdefghijklmnopqrstuvwxyz", "ABCDEXYZ", "0123456789", " ", " ", "  ", "\t\n\r\u00a0\u2003\u3000\u0085\u2028\x0b", ".,;:!?'\"()-_$+<>|`~^%#@",
    "éèüñçøåßÉÜÑİıſŉǅẞΣσςΩ", "\u0300\u0301\u0302\u0308\u0323\u0327\u0338\u0345\u093c\u05b0\u0e38\u0f71\u302e\u1b44\U0001d165\u1734\u08d4\u3099",
    "가각힣ᄀᄁ\u1161\u1175\u11a8\u11c2한국어", "日本語漢字中文豈更﨎𠀀", "かなカナｶﾞﾊﾟガパ", "Приветмира", "مرحبا", "नमस्ते", "ﬁﬂ½²³™①ⅣﷺΐᾳŁ…⁄㎏㋿Å\u212b\u1e9b",
    "👋🌍👩‍👧🏳️‍🌈🇩🇪", "\x00\x01\x1f\x7f\u200b\u200d\u200e\ufeff\ufffd\ue000\u00ad", "▁▁Ġ", "–—“”‘’«»。、！",
]
WORDS = ["[SPECIAL]", "<added>", "hello", "world", "I'm", "DON'T", "we'll", " they've", "snake_case", "x  ", "12345", "don't do not.", "<|x|>", "'s", "aaa"]


def text():
    out = []
    for _ in range(rng.choice([1, 3, 6, 12])):
        if rng.random() < 0.3:
            out.append(rng.choice(WORDS))
        else:
            pool = rng.choice(POOLS)
            out.append("".join(rng.choice(pool) for _ in range(rng.randint(1, 4))))
        if rng.random() < 0.3:
            out.append(" ")
    return "".join(out)


FIXED = ["", " ", "  ", "a", "Hello, World!", "  two  spaces  ", "e\u0301\u0323o\u0308", "\u0301x", "A\u030a\u0327\u0301", "ÅÅ Å", "한글 각", "I\u0307İ", "don't", "1234 567",
         "\u0301\u0301", "a\u0345\u0301\u0323b", "x\u302e\u1b44\u0323", "[SPECIAL] <added>", "a[SPECIAL]b", " [SPECIAL] ", "xaddedy added"]


def seq(kind, items):
    return {"type": "Sequence", kind: items}


def split(pattern, behavior, invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


NORMALIZERS = {
    "NFC": {"type": "NFC"}, "NFD": {"type": "NFD"}, "NFKC": {"type": "NFKC"}, "NFKD": {"type": "NFKD"},
    "Lowercase": {"type": "Lowercase"}, "StripAccents": {"type": "StripAccents"}, "Nmt": {"type": "Nmt"},
    "NFD+StripAccents+Lowercase": seq("normalizers", [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]),
    "Strip": {"type": "Strip", "strip_left": True, "strip_right": True},
    "StripLeft+NFKC": seq("normalizers", [{"type": "Strip", "strip_left": True, "strip_right": False}, {"type": "NFKC"}]),
    "Prepend": {"type": "Prepend", "prepend": "▁x"},
    "Replace string": {"type": "Replace", "pattern": {"String": "l"}, "content": "<LL>"},
    "Replace by nothing": {"type": "Replace", "pattern": {"String": "o"}, "content": ""},
    "Replace regex": {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
    "Replace unknown regex": {"type": "Replace", "pattern": {"Regex": "[a-c]+\\d?"}, "content": "#"},
    "Replace spaces": {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
}
for clean in True, False:
    for chinese in True, False:
        for strip in None, True, False:
            for lower in True, False:
                NORMALIZERS[f"Bert clean={clean} chinese={chinese} strip={strip} lower={lower}"] = {
                    "type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": chinese, "strip_accents": strip, "lowercase": lower}

GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
LLAMA3 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
QWEN = LLAMA3.replace("{1,3}", "")
CLIP = "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"
PRETOKENIZERS = {
    "Bert": {"type": "BertPreTokenizer"}, "Whitespace": {"type": "Whitespace"}, "WhitespaceSplit": {"type": "WhitespaceSplit"},
    "CharDelimiterSplit": {"type": "CharDelimiterSplit", "delimiter": "a"},
    "Digits": {"type": "Digits", "individual_digits": False}, "Digits individual": {"type": "Digits", "individual_digits": True},
    "Split GPT-2": split({"Regex": GPT2}, "Isolated"), "Split LLaMA 3": split({"Regex": LLAMA3}, "Isolated"),
    "Split Qwen": split({"Regex": QWEN}, "Isolated"), "Split CLIP": split({"Regex": CLIP}, "Removed", True),
    "Split unknown": split({"Regex": "(?=[A-Z])|\\d(?!\\d)"}, "Isolated"),
    "WhitespaceSplit+Metaspace first": seq("pretokenizers", [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}]),
    "Digits+Punctuation": seq("pretokenizers", [{"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "Contiguous"}]),
}
for behavior in "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous":
    PRETOKENIZERS[f"Punctuation {behavior}"] = {"type": "Punctuation", "behavior": behavior}
    PRETOKENIZERS[f"Split {behavior}"] = split({"String": " "}, behavior)
    PRETOKENIZERS[f"Split inverted {behavior}"] = split({"Regex": "\\s+"}, behavior, True)
for scheme in "always", "never", "first":
    for s in True, False:
        PRETOKENIZERS[f"Metaspace {scheme} split={s}"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": s}


def added(normalized=False, **flags):
    base = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": normalized}
    return [
        {"id": 0, "content": "[UNK]", "special": True, **base},
        {"content": "[SPECIAL]", "special": True, **base, **flags}, {"content": "<added>", "special": False, **base, **flags},
        {"content": "Added", "special": False, **base, **flags},
    ]


def chars(texts, suffix):
    """A model with a token for each character that is not too rare, another one for where it ends a word."""
    known = sorted({c for t in texts for c in t + "▁<LL>#x" if rng.random() < 0.98})
    vocab = {"[UNK]": 0}
    for c in known:
        vocab[c] = len(vocab)
        if suffix:
            vocab[c + suffix] = len(vocab)
    return {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": "[UNK]", "end_of_word_suffix": suffix, "fuse_unk": False}


BASE = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
        "post_processor": None, "decoder": None}
cases = []


def folder(name):
    return f"../../testdata/tiny/tokenizers/{name}/tokenizer.json"


def case(name, texts, decode=True, source=None, **parts):
    """Adds a case. With a source, the model is that of a folder of tokenizers, but for what parts["model"] says."""
    spec = {**BASE, **parts}
    written = spec
    if source:
        written = {**spec, "model": parts.get("model", {})}
        spec = {**spec, "model": {**json.load(open(folder(source)))["model"], **written["model"]}}
    for a in spec["added_tokens"]:
        if "id" not in a:
            a["id"] = len(spec["model"]["vocab"]) + sum("id" in b and b["id"] != 0 for b in spec["added_tokens"])
    tok = Tokenizer.from_str(json.dumps(spec))
    out = []
    for t in texts:
        e = tok.encode(t, add_special_tokens=False)
        out.append({"text": t, "ids": e.ids, "offsets": [x for o in e.offsets for x in o], "decoded": tok.decode(e.ids, skip_special_tokens=False) if decode else None})
    cases.append({"name": name, "source": source, "tokenizer": written, "texts": out})


def texts(n=count):
    return FIXED + [text() for _ in range(n)]


for name, n in NORMALIZERS.items():
    ts = texts()
    probe = Tokenizer.from_str(json.dumps({**BASE, "normalizer": n, "model": chars([], "")}))
    case("normalizer " + name, ts, normalizer=n, model=chars([probe.normalizer.normalize_str(t) for t in ts], ""))
for name, p in PRETOKENIZERS.items():
    ts = texts()
    case("pre-tokenizer " + name, ts, pre_tokenizer=p, model=chars(ts, "</w>"))
for flags in {}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}, {"single_word": True}:
    for normalized in False, True:
        ts = texts() + ["<added>[SPECIAL] [SPECIAL]  <added> x", "a <added>b", "  [SPECIAL]", "ADDED added Addedx", "x\u0301<added>"]
        # This version of the library decodes a normalized added token to what the normalizer makes of it, which others don't.
        case(f"added tokens normalized={normalized} {flags}", ts, decode=not normalized, added_tokens=added(normalized, **flags), normalizer={"type": "Lowercase"},
             pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}, model=chars(ts, "</w>"))

for prefix in True, False:
    for regex in True, False:
        for trim in True, False:
            for add in True, False:
                case(f"ByteLevel prefix={prefix} regex={regex} trim={trim} post={add}", texts(), source="bpe_gpt2",
                     pre_tokenizer={"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex},
                     post_processor={"type": "ByteLevel", "add_prefix_space": add, "trim_offsets": trim, "use_regex": True},
                     decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True})

for limit in 3, 100:
    case(f"WordPiece {limit}", texts(), source="wordpiece", model={"max_input_chars_per_word": limit}, pre_tokenizer={"type": "BertPreTokenizer"},
         decoder={"type": "WordPiece", "prefix": "##", "cleanup": limit == 3})
case("Unigram on whole texts", texts(), source="unigram_t5")
vocab = json.load(open(folder("unigram_t5")))["model"]["vocab"] + [[f"<0x{b:02X}>", -20.0] for b in range(256)]
case("Unigram with byte fallback", texts(), source="unigram_t5", model={"byte_fallback": True, "vocab": vocab}, decoder=seq("decoders", [{"type": "ByteFallback"}, {"type": "Fuse"}]))
case("BPE with byte fallback", texts(), source="bpe_llama2_llava",
     decoder=seq("decoders", [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                              {"type": "Strip", "content": " ", "start": 2, "stop": 0}]))
case("BPE fusing unknown", texts(), source="bpe_llama2_llava", model={"byte_fallback": False, "fuse_unk": True})
PIECES = [("t", "##h"), ("th", "##e"), ("l", "##l"), ("a", "##a"), ("a", "##aa"), ("##a", "##a")]
vocab = {"[UNK]": 0}
for piece in [p for c in "abcdefghijklmnopqrstuvwxyz" for p in (c, "##" + c)] + [a + b.removeprefix("##") for a, b in PIECES[:4]] + ["##aa", "aaa"]:
    vocab.setdefault(piece, len(vocab))
case("BPE with prefix", texts(), model={"type": "BPE", "vocab": vocab, "merges": PIECES, "unk_token": "[UNK]", "continuing_subword_prefix": "##"},
     pre_tokenizer={"type": "WhitespaceSplit"}, decoder={"type": "WordPiece", "prefix": "##", "cleanup": False})
for scheme in "always", "never", "first":
    ts = texts()
    case(f"decoder Metaspace {scheme}", ts, model=chars(ts, ""), pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True},
         decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True})
ts = texts()
case("decoder BPEDecoder", ts, model=chars(ts, "</w>"), pre_tokenizer={"type": "WhitespaceSplit"}, decoder={"type": "BPEDecoder", "suffix": "</w>"})

json.dump(cases, sys.stdout, ensure_ascii=True, separators=(",", ":"))
