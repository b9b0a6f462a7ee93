"""Makes the sounds of this folder: 440 Hz at 0.3 and 1000 Hz at 0.2 of full scale, 0.3
seconds; the right channel of two has half of that. Needs PyAV, soundfile and NumPy."""
import av
import numpy as np
import soundfile


def tones(rate, channels):
    t = np.arange(rate * 3 // 10) / rate
    x = 0.3 * np.sin(2 * np.pi * 440 * t) + 0.2 * np.sin(2 * np.pi * 1000 * t)
    return np.stack([x, x / 2][:channels]).astype(np.float32)


def encode(path, codec, rate, channels, bitrate, **options):
    layout = ["mono", "stereo"][channels - 1]
    with av.open(path, "w", format="ogg" if codec == "libopus" else "mp3") as out:
        stream = out.add_stream(codec, rate=rate, layout=layout, options=options)
        stream.bit_rate = bitrate
        frame = av.AudioFrame.from_ndarray(tones(rate, channels), format="fltp", layout=layout)
        frame.sample_rate = rate
        change = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate, frame_size=stream.codec_context.frame_size or None)
        for f in change.resample(frame) + change.resample(None):
            out.mux(stream.encode(f))
        out.mux(stream.encode(None))


soundfile.write("stereo16.flac", tones(44100, 2).T, 44100, subtype="PCM_16")
soundfile.write("mono24.flac", tones(16000, 1).T, 16000, subtype="PCM_24")
soundfile.write("stereo.ogg", tones(44100, 2).T, 44100, format="OGG", subtype="VORBIS")
soundfile.write("mono.ogg", tones(16000, 1).T, 16000, format="OGG", subtype="VORBIS")
encode("celt.opus", "libopus", 48000, 2, 96000, application="audio")
encode("silk.opus", "libopus", 16000, 1, 16000, application="voip")
encode("stereo.mp3", "libmp3lame", 44100, 2, 128000)
encode("mono16000.mp3", "libmp3lame", 16000, 1, 32000)
encode("mono22050.mp3", "libmp3lame", 22050, 1, 32000)
encode("stereo22050.mp3", "libmp3lame", 22050, 2, 160000)
encode("mono11025.mp3", "libmp3lame", 11025, 1, 24000)
encode("mono8000.mp3", "libmp3lame", 8000, 1, 16000)
