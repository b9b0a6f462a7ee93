"""Speech for benchmarks: espeak-ng, out of the package espeakng-loader, reads a file's lines aloud.

usage: speech.py LINES OUT_DIR

Each line becomes OUT_DIR/NN.wav: mono, 16 kHz, 16 bits. OUT_DIR/long.wav is ten minutes of them, over and over with
pauses, and OUT_DIR/long.txt what it says.
"""
import ctypes
import os
import sys
import wave

import espeakng_loader
import numpy as np

VOICE, WORDS_A_MINUTE = b"en-us", 150
RATE = 16000
PAUSE, LONG = 0.7, 600  # seconds
SYNCHRONOUS, UTF8, PARAMETER_RATE = 2, 1, 1  # of speak_lib.h


def resampled(x, rate):
    """x at RATE: each sample is a sum of its neighbours, weighted by a sinc in a Hann window."""
    cut = min(1.0, RATE / rate)
    reach = int(np.ceil(16 / cut))
    at = np.arange(int(len(x) * RATE / rate)) * (rate / RATE)
    first = np.floor(at).astype(np.int64)
    padded = np.concatenate([np.zeros(reach), x, np.zeros(reach + 1)])
    out = np.zeros(len(at))
    for tap in range(-reach + 1, reach + 1):
        distance = at - (first + tap)
        out += padded[first + tap + reach] * cut * np.sinc(cut * distance) * (0.5 + 0.5 * np.cos(np.pi * distance / reach))
    return out


def write(path, sound):
    with wave.open(path, "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(RATE)
        w.writeframes(sound.tobytes())


def main():
    lines, folder = sys.argv[1:]
    espeak = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = espeak.espeak_Initialize(SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate <= 0:
        sys.exit(f"espeak-ng did not start: {rate}")
    if espeak.espeak_SetVoiceByName(VOICE) != 0 or espeak.espeak_SetParameter(PARAMETER_RATE, WORDS_A_MINUTE, 0) != 0:
        sys.exit("espeak-ng has not this voice")
    pieces = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int16), ctypes.c_int, ctypes.c_void_p)
    def take(samples, count, _):
        if samples and count > 0:
            pieces.append(np.array(samples[:count], np.float64))
        return 0

    espeak.espeak_SetSynthCallback(take)
    os.makedirs(folder, exist_ok=True)
    with open(lines, encoding="utf-8") as f:
        texts = f.read().splitlines()
    sounds = []
    for i, text in enumerate(texts):
        pieces.clear()
        said = text.encode() + b"\0"
        if espeak.espeak_Synth(said, ctypes.c_size_t(len(said)), 0, 0, 0, UTF8, None, None) != 0 or not pieces:
            sys.exit(f"espeak-ng said nothing of line {i + 1}")
        sounds.append(np.clip(np.rint(resampled(np.concatenate(pieces), rate)), -32768, 32767).astype("<i2"))
        write(os.path.join(folder, f"{i + 1:02}.wav"), sounds[-1])
    long, said = np.zeros(LONG * RATE, "<i2"), []
    at = turn = 0
    while at + len(sounds[turn]) <= len(long):
        long[at : at + len(sounds[turn])] = sounds[turn]
        said.append(texts[turn])
        at += len(sounds[turn]) + int(PAUSE * RATE)
        turn = (turn + 1) % len(sounds)
    write(os.path.join(folder, "long.wav"), long)
    with open(os.path.join(folder, "long.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(said) + "\n")


main()
