"""Makes pictures/ and expected.safetensors beside this file: small files of every
format and kind, and the bytes that Pillow (torchvision where the name says so) makes of
them.

    pip install pillow==13.0.0 torch==2.15.0 torchvision==0.29.2 safetensors
    python generate.py
"""

import os

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence
from safetensors.numpy import save_file
from torchvision.transforms import InterpolationMode as Mode
from torchvision.transforms.v2 import functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
W, H = 23, 17
rng = np.random.default_rng(0)


def scene(width=W, height=H, channels=3):
    """Smooth, with an edge and some noise."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    planes = [128 + 100 * np.sin(x / (3 + c) + y / (5 - c)) for c in range(channels)]
    a = np.stack(planes, -1)
    a[:, width // 2 :] = 255 - a[:, width // 2 :]
    a += rng.normal(0, 8, a.shape)
    return a.clip(0, 255).astype(np.uint8)


expected = {}


def write(name, picture, **kw):
    path = os.path.join(HERE, "pictures", name)
    picture.save(path, **kw)
    read = Image.open(path)
    if "save_all" in kw:
        frames = [f.convert("RGB") for f in ImageSequence.Iterator(read)]
    else:
        frames = [ImageOps.exif_transpose(read).convert("RGB")]
    expected[name] = np.stack([np.array(f) for f in frames])


if __name__ == "__main__":
    rgb = Image.fromarray(scene())
    write("rgb.png", rgb)
    write("rgba.png", Image.fromarray(scene(channels=4)))
    write("grey.png", rgb.convert("L"))
    write("grey_alpha.png", Image.fromarray(scene(channels=4)).convert("LA"))
    write("palette.png", rgb.quantize(16))
    write("palette_transparent.png", rgb.quantize(16), transparency=3)
    write("bits.png", rgb.convert("1"))
    write("grey16.png", Image.fromarray((scene()[..., 0].astype(np.uint16) * 3)))
    write("rgb.bmp", rgb)
    write("palette.bmp", rgb.quantize(16))
    write("palette.gif", rgb.quantize(16))
    write("transparent.gif", rgb.quantize(16), transparency=2)
    for name, sub in [("444", 0), ("422", 1), ("420", 2)]:
        write(f"{name}.jpg", rgb, quality=90, subsampling=sub)
    write("even.jpg", Image.fromarray(scene(32, 24)), quality=80)
    write("progressive.jpg", rgb, quality=90, progressive=True)
    write("grey.jpg", rgb.convert("L"), quality=90)
    write("cmyk.jpg", rgb.convert("CMYK"), quality=95)
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        write(f"turned{turn}.jpg", Image.fromarray(scene(16, 8)), quality=95, exif=exif)
    exif = Image.Exif()
    exif[0x0112] = 6
    write("turned6.png", rgb, exif=exif)
    write("turned6.webp", rgb, lossless=True, exif=exif)
    write("lossy.webp", Image.fromarray(scene(37, 29)), quality=80)
    write("lossy_even.webp", Image.fromarray(scene(32, 24)), quality=80)
    write("lossy_alpha.webp", Image.fromarray(scene(37, 29, 4)), quality=80)
    write("lossless.webp", rgb, lossless=True)


    def moving(mode):
        frames = []
        for i in range(5):
            a = np.zeros((H, W, 4), np.uint8)
            a[..., :3] = 30 * i
            a[2 + i : 10 + i, 3 * i : 3 * i + 9, 0] = 250
            a[..., 3] = 255
            if i:
                a[: 4 * i, :, 3] = 0
            frames.append(Image.fromarray(a).convert(mode))
        return frames


    frames = moving("RGB")
    write("moving.gif", frames[0], save_all=True, append_images=frames[1:], duration=100, disposal=1)
    frames = moving("RGBA")
    for name, disposal, blend in [("over", 0, 1), ("source", 0, 0), ("background", 1, 1), ("previous", 2, 1)]:
        write(f"moving_{name}.png", frames[0], save_all=True, append_images=frames[1:], duration=100, disposal=disposal, blend=blend)

    # Pillow keeps frames that are to be taken away again. Taken away, they leave nothing,
    # as in "background".
    expected["moving_previous.png"] = expected["moving_background.png"]

    picture = scene(29, 40)
    expected["resize.in"] = picture
    sizes = [(12, 9), (29, 60), (50, 40), (41, 13), (7, 3), (28, 39)]
    for w, h in sizes:
        for number in range(6):
            expected[f"resize.pil.{number}.{w}x{h}"] = np.array(Image.fromarray(picture).resize((w, h), number))
        t = torch.from_numpy(picture).permute(2, 0, 1).contiguous()
        for number, mode in enumerate([Mode.NEAREST_EXACT, Mode.LANCZOS, Mode.BILINEAR, Mode.BICUBIC]):
            out = F.resize(t, [h, w], interpolation=mode, antialias=True)
            expected[f"resize.torchvision.{number}.{w}x{h}"] = out.permute(1, 2, 0).contiguous().numpy()

    save_file(expected, os.path.join(HERE, "expected.safetensors"))
