"""Writes classes.json: the code points that the tokenizers library (0.23.3) takes to be of each class, as ranges in hexadecimal.

Usage, in the folder above: python testdata/classes.py >testdata/classes.json
"""
import json
import sys

from tokenizers import Regex, normalizers, pre_tokenizers

POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def ranges(test):
    out = []
    for c in POINTS:
        if not test(chr(c)):
            continue
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return " ".join(f"{a:x}" if a == b else f"{a:x}-{b:x}" for a, b in out)


def bert(**on):
    off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    return normalizers.BertNormalizer(**{**off, **on}).normalize_str


def matches(expr):
    split = pre_tokenizers.Split(Regex(expr), "isolated")
    return lambda c: len(split.pre_tokenize_str("\0" + c)) == 2


def stands_alone(splitter):
    return lambda c: len(splitter.pre_tokenize_str("a" + c + "b")) == 3


clean, strip, chinese = bert(clean_text=True), bert(strip_accents=True), bert(handle_chinese_chars=True)
strip_all = normalizers.StripAccents().normalize_str
json.dump({
    "letter": ranges(matches(r"\p{L}")),
    "number": ranges(matches(r"\p{N}")),
    "space": ranges(matches(r"\s")),
    "punct": ranges(stands_alone(pre_tokenizers.BertPreTokenizer())),
    "control": ranges(lambda c: c != "\ufffd" and clean("a" + c) == "a"),
    "accent": ranges(lambda c: strip("a" + c) == "a"),
    "combining": ranges(lambda c: strip_all("a" + c) == "a"),
    "ideograph": ranges(lambda c: chinese(c) == f" {c} "),
}, sys.stdout, indent=0)
