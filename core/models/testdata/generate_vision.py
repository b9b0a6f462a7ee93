"""Makes the folders in vision: tiny random models that see, each with
golden.safetensors (in.NAME, out.NAME or in.CASE.NAME, out.CASE.NAME: what transformers
computes in float32).

    pip install torch==2.15.0 transformers==5.23.0
    python generate_vision.py
"""

import os
import shutil

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig

from generate import HERE, randomise

WIDTH, LAYERS, HEADS, INNER = 12, 2, 3, 20


def save(name, model, cases, folder=None):
    folder = os.path.join(folder or os.path.join(HERE, "vision"), name)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    tensors = {}
    for case, (given, outputs) in cases.items():
        stem = case + "." if case else ""
        tensors |= {"in." + stem + k: v.contiguous() for k, v in given.items()}
        tensors |= {"out." + stem + k: v.float().contiguous() for k, v in outputs.items()}
    save_file(tensors, os.path.join(folder, "golden.safetensors"))


def pictures(*shape):
    return torch.randn(*shape)


def vit_like(name, cls, model_type, sizes, whole, **kw):
    """whole: the names of what the head's class gives besides its encoder's outputs."""
    cfg = AutoConfig.for_model(model_type, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, **kw)
    model = getattr(transformers, cls)(cfg).eval()
    randomise(model)
    cases = {}
    for case, (height, width) in sizes.items():
        given = {"pixel_values": pictures(2, 3, height, width)}
        more = {"interpolate_pos_encoding": True} if case and not model_type.startswith("dino") else {}
        with torch.no_grad():
            out = model(**given, **more)
            base = getattr(model, model.base_model_prefix, model)(**given, **more)
        outputs = {k: out[k] for k in whole if k in out}
        outputs["last_hidden_state"] = base.last_hidden_state
        if "pooler_output" in base and base.pooler_output is not None:
            outputs["pooler_output"] = base.pooler_output
        cases[case] = (given, outputs)
    save(name, model, cases)


def paired(name, cls, cfg, length):
    model = getattr(transformers, cls)(cfg).eval()
    randomise(model)
    vocab = cfg.text_config.vocab_size
    ids = torch.randint(4, vocab - 1, (3, length))
    given = {"pixel_values": pictures(2, 3, cfg.vision_config.image_size, cfg.vision_config.image_size)}
    if cls == "CLIPModel":
        mask = torch.zeros_like(ids)
        for row, n in enumerate([length, 5, 3]):
            ids[row, n - 1] = vocab - 1
            ids[row, n:] = cfg.text_config.pad_token_id
            mask[row, :n] = 1
        given["attention_mask"] = mask
    given["input_ids"] = ids
    with torch.no_grad():
        out = model(**given)
        text = {k: v for k, v in given.items() if k != "pixel_values"}
        outputs = {k: out[k] for k in ["image_embeds", "text_embeds", "logits_per_image", "logits_per_text"]}
        t, v = model.get_text_features(**text), model.get_image_features(pixel_values=given["pixel_values"])
    outputs |= {"text_last_hidden_state": t.last_hidden_state, "text_pooler_output": t.pooler_output}
    outputs |= {"vision_last_hidden_state": v.last_hidden_state, "vision_pooler_output": v.pooler_output}
    save(name, model, {"": (given, outputs)})


def detr(name, folder=None, **kw):
    """Wide enough for each layer to matter, with a picture that is padded."""
    small = dict(d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=4,
                 encoder_ffn_dim=20, decoder_ffn_dim=24, num_queries=5, num_labels=3)
    model = transformers.DetrForObjectDetection(AutoConfig.for_model("detr", **small, **kw)).eval()
    randomise(model)
    with torch.no_grad():
        for key, buffer in model.named_buffers():
            if "backbone" in key and buffer.is_floating_point():
                buffer.uniform_(0.3, 0.9)
        for key, p in model.named_parameters():
            if "backbone" in key and p.dim() == 4:
                p.mul_(1 / (0.3 * p[0].numel() ** 0.5))  # else the last stage overflows
    mask = torch.ones(2, 70, 75, dtype=torch.long)
    mask[1, 60:] = 0
    mask[1, :, 41:] = 0
    given = {"pixel_values": pictures(2, 3, 70, 75) * mask[:, None], "pixel_mask": mask}
    with torch.no_grad():
        out = model(**given)
    save(name, model, {"": (given, {k: out[k] for k in ["logits", "pred_boxes", "last_hidden_state", "encoder_last_hidden_state"]})}, folder)


def sides(text, vision, **kw):
    both = dict(hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=INNER)
    return dict(text_config=dict(vocab_size=40, **both, **text), vision_config=dict(image_size=12, patch_size=4, **both, **vision), **kw)


if __name__ == "__main__":
    torch.manual_seed(0)
    grid = dict(image_size=12, patch_size=4)
    two = {"": (12, 12), "interp": (16, 8)}
    vit_like("vit_bare", "ViTModel", "vit", two, [], intermediate_size=INNER, qkv_bias=False, **grid)
    vit_like("deit_sequence", "DeiTForImageClassification", "deit", two, ["logits"], intermediate_size=INNER, num_labels=5, **grid)
    vit_like("deit_teacher", "DeiTForImageClassificationWithTeacher", "deit", two,
             ["logits", "cls_logits", "distillation_logits"], intermediate_size=INNER, num_labels=5, **grid)
    vit_like("dinov2_sequence", "Dinov2ForImageClassification", "dinov2", two, ["logits"], mlp_ratio=2, num_labels=5, **grid)
    vit_like("dinov2_swiglu", "Dinov2Model", "dinov2", two, [], mlp_ratio=4, use_swiglu_ffn=True, **grid)
    vit_like("dinov2_registers", "Dinov2WithRegistersForImageClassification", "dinov2_with_registers", two, ["logits"],
             mlp_ratio=2, num_register_tokens=2, num_labels=5, **grid)
    clip = sides(dict(max_position_embeddings=9, hidden_act="gelu", pad_token_id=0, bos_token_id=38, eos_token_id=2),
                 dict(hidden_act="gelu"), projection_dim=10)
    paired("clip_old_eos", "CLIPModel", AutoConfig.for_model("clip", **clip), 9)
    siglip = sides(dict(max_position_embeddings=8, projection_size=WIDTH), {})
    paired("siglip", "SiglipModel", AutoConfig.for_model("siglip", **siglip), 8)
    resnet = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12, 16], depths=[1, 2, 1], layer_type="basic",
                                       downsample_in_first_stage=True, out_features=["stage3"])
    detr("detr_basic", backbone_config=resnet)
    resnet = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 1], downsample_in_bottleneck=True,
                                       out_features=["stage2"])
    detr("detr_early", backbone_config=resnet)
