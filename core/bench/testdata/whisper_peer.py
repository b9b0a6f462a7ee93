"""faster-whisper as a peer: the same folder of CTranslate2, greedy, on the same number of threads.

usage: whisper_peer.py MODEL_DIR COMPUTE_TYPE THREADS

Each line on standard input is answered by one line:
  hear WAV            seconds, tokens, and what is said
  hear_warm WAV       the same, with the library's own temperatures, as a long sound wants
  tokens WAV N        seconds until N tokens of the sound's first window are there, its features given, whatever they are
"""
import sys
import time

import numpy as np
from faster_whisper import WhisperModel, decode_audio
from faster_whisper import __version__ as version
from faster_whisper.tokenizer import Tokenizer

LANGUAGE = "en"


def hear(model, path, **options):
    begin = time.perf_counter()
    segments, _ = model.transcribe(decode_audio(path), language=LANGUAGE, beam_size=1, **options)
    segments = list(segments)
    seconds = time.perf_counter() - begin
    return seconds, sum(len(s.tokens) for s in segments), "".join(s.text for s in segments).replace("\n", " ")


def tokens(model, path, count):
    features = model.feature_extractor(decode_audio(path))[:, : model.feature_extractor.nb_max_frames]
    features = np.pad(features, ((0, 0), (0, model.feature_extractor.nb_max_frames - features.shape[1])))
    tokenizer = Tokenizer(model.hf_tokenizer, model.model.is_multilingual, task="transcribe", language=LANGUAGE)
    prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
    begin = time.perf_counter()
    encoded = model.encode(features)
    # At most half of max_length is generated, and no more than fits behind the prompt.
    got = model.model.generate(encoded, [prompt], beam_size=1, max_length=max(2 * count, len(prompt) - 1 + count), suppress_tokens=[-1, tokenizer.eot])
    seconds = time.perf_counter() - begin
    if len(got[0].sequences_ids[0]) != count:
        sys.exit(f"{len(got[0].sequences_ids[0])} tokens came, {count} were asked for")
    return seconds


def main():
    folder, compute, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    model = WhisperModel(folder, device="cpu", compute_type=compute, cpu_threads=threads)
    print(f"faster-whisper {version} {model.model.compute_type}", flush=True)
    for line in sys.stdin:
        what, path, *rest = line.split()
        if what == "hear":
            print(*hear(model, path, temperature=0), flush=True)
        elif what == "hear_warm":
            print(*hear(model, path), flush=True)
        else:
            print(tokens(model, path, int(rest[0])), flush=True)


main()
