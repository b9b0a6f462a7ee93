"""Has a running server hear a sound, by OpenAI's own Python package.

Arguments: the API's URL, a model that hears, one that does not, a sound.
"""
import sys

import openai

url, hears, embeds, sound = sys.argv[1:]
client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)


def ask(**more):
    with open(sound, "rb") as file:
        return client.audio.transcriptions.create(**({"model": hears, "file": file} | more))


def refused(code, param, **more):
    try:
        ask(**more)
    except openai.BadRequestError as e:
        assert e.code == code and e.param == param and e.request_id, (e.code, e.param, str(e))
    else:
        raise AssertionError(f"{more} was not refused")


plain = ask()
verbose = ask(response_format="verbose_json", timestamp_granularities=["segment"], temperature=0)
assert verbose.duration > 1 and verbose.language and verbose.text == plain.text, verbose
assert "".join(s.text for s in verbose.segments).strip() == plain.text.strip(), verbose
assert all(0 <= s.start < s.end <= verbose.duration for s in verbose.segments), verbose
assert ask(response_format="text").strip() == plain.text.strip()
assert ask(response_format="vtt").startswith("WEBVTT\n")
assert ask(response_format="srt").count("-->") == len(verbose.segments)
*deltas, done = ask(stream=True)
assert done.type == "transcript.text.done" and done.text == plain.text, done
assert "".join(e.delta for e in deltas) == plain.text and all(e.type == "transcript.text.delta" for e in deltas), deltas
with open(sound, "rb") as file:
    assert isinstance(client.audio.translations.create(model=hears, file=file).text, str)
refused("invalid_value", "language", language="klingon")
refused("invalid_value", "response_format", response_format="doc")
refused("invalid_value", "file", file=("a.txt", b"no sound"))
refused("wrong_task", "model", model=embeds)
