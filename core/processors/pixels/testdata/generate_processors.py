"""Makes processors.json (settings by name) and processors.safetensors (what the image
processors of transformers make of three pictures by them) beside this file.

    pip install pillow==13.0.0 torch==2.15.0 torchvision==0.29.2 transformers==5.23.0
    python generate_processors.py
"""

import json
import os

import numpy as np
import transformers
from PIL import Image
from safetensors.numpy import save_file

from generate import HERE, scene

SETTINGS = {
    "clip_small": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 14}, "crop_size": {"height": 11, "width": 13}},
    "clip_padded": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 9}, "crop_size": 20},
    "clip_uncropped": {"image_processor_type": "CLIPImageProcessor", "do_center_crop": False, "size": {"height": 12, "width": 10}, "do_normalize": False},
    "clip_raw": {"image_processor_type": "CLIPImageProcessor", "do_resize": False, "do_rescale": False, "crop_size": {"height": 8, "width": 8}},
    "clip_old": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 15, "crop_size": 15, "resample": 3},
    "vit_nearest": {"image_processor_type": "ViTImageProcessor", "size": {"height": 13, "width": 17}, "resample": 0},
    "vit_old": {"feature_extractor_type": "ViTFeatureExtractor", "size": 16, "resample": 2},
    "vit_lanczos": {"image_processor_type": "ViTImageProcessor", "size": {"height": 9, "width": 30}, "resample": 1, "image_mean": 0.4, "image_std": 0.3},
    "deit": {"image_processor_type": "DeiTImageProcessor", "size": {"height": 20, "width": 20}, "crop_size": {"height": 16, "width": 16}},
    "beit": {"image_processor_type": "BeitImageProcessor", "size": {"height": 12, "width": 12}, "rescale_factor": 0.01},
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 16, "width": 16}},
    "bit": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 18}, "crop_size": {"height": 14, "width": 14}},
    "llava_square": {"image_processor_type": "LlavaImageProcessor", "do_pad": True, "size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}},
    "llava_next": {"image_processor_type": "LlavaNextImageProcessor", "size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8},
                   "image_grid_pinpoints": [[8, 16], [16, 8], [16, 16], [24, 8]]},
    "detr_old": {"feature_extractor_type": "DetrFeatureExtractor", "size": 20, "max_size": 33},
    "detr_padded": {"image_processor_type": "DetrImageProcessor", "size": {"shortest_edge": 10, "longest_edge": 31}, "pad_size": {"height": 40, "width": 36}},
    "detr_most": {"image_processor_type": "DetrImageProcessor", "size": {"max_height": 19, "max_width": 21}},
    "videomae": {"image_processor_type": "VideoMAEImageProcessor", "size": {"shortest_edge": 12}, "crop_size": {"height": 12, "width": 12}},
}
PICTURES = [(31, 22), (17, 40), (9, 9)]

if __name__ == "__main__":
    pictures = [scene(*size) for size in PICTURES]
    tensors = {f"in.{i}": p for i, p in enumerate(pictures)}
    for name, settings in SETTINGS.items():
        kind = settings.get("image_processor_type") or settings["feature_extractor_type"].replace("FeatureExtractor", "ImageProcessor")
        given = {k: v for k, v in settings.items() if not k.endswith("_type")}
        for variant, suffix in [("pil", "Pil"), ("torchvision", "")]:
            processor = getattr(transformers, kind + suffix)(**given)
            batches = {"all": pictures} if kind.startswith(("Detr", "LlavaNext")) else {}
            batches |= {str(i): [p] for i, p in enumerate(pictures)}
            for batch, list_ in batches.items():
                images = [Image.fromarray(p) for p in list_]
                out = processor([images] if kind.startswith("VideoMAE") else images, return_tensors="np")
                for output, value in out.items():
                    value = np.asarray(value)
                    if value.dtype not in (np.int64,):
                        value = value.astype(np.float32)
                    tensors[f"{name}.{variant}.{batch}.{output}"] = np.ascontiguousarray(value)
    save_file(tensors, os.path.join(HERE, "processors.safetensors"))
    with open(os.path.join(HERE, "processors.json"), "w") as f:
        json.dump(SETTINGS, f, indent=1)
        f.write("\n")
