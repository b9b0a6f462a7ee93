"""Makes the folders in decoders/: tiny random decoders, one for each way of
positions, windows and biases, each with golden.safetensors: logits of a prompt, of
tokens that follow it over the cache, and of the prompt's beginning alone, as
transformers computes them in float32.

    pip install torch==2.15.0 transformers==5.23.0
    python generate_decoders.py
"""

import json
import os
import shutil

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
SIZES = dict(
    vocab_size=24, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=12, max_position_embeddings=16, eos_token_id=1, bos_token_id=2, pad_token_id=0,
)
HALF = [1.0, 1.1, 1.4, 2.0]
MODELS = {
    "linear": ("llama", dict(head_dim=8), dict(rope_scaling={"type": "linear", "factor": 2.5}, rope_theta=1000.0)),
    "dynamic": ("llama", dict(head_dim=8), dict(rope_parameters={"rope_type": "dynamic", "factor": 3.0, "rope_theta": 500.0})),
    "yarn": ("llama", dict(head_dim=8), dict(rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12, "beta_fast": 2.0, "beta_slow": 0.5}, rope_theta=100.0)),
    "yarn_given": ("qwen2", {}, dict(rope_parameters={"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.3, "truncate": False, "beta_fast": 3.0, "beta_slow": 0.4, "rope_theta": 60.0})),
    "yarn_mscale": ("qwen3", dict(head_dim=8), dict(rope_parameters={"rope_type": "yarn", "factor": 8.0, "mscale": 1.5, "mscale_all_dim": 0.7, "rope_theta": 60.0, "original_max_position_embeddings": 9})),
    "llama3": ("llama", dict(head_dim=8), dict(rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 3.0, "original_max_position_embeddings": 16}, rope_theta=50.0)),
    "longrope": ("llama", dict(head_dim=8), dict(rope_parameters={"rope_type": "longrope", "long_factor": [1.5, 2.0, 3.0, 5.0], "short_factor": HALF, "original_max_position_embeddings": 8, "rope_theta": 300.0})),
    "biases": ("llama", dict(head_dim=6, attention_bias=True, mlp_bias=True, tie_word_embeddings=True), {}),
    "qwen3_biases": ("qwen3", dict(head_dim=8, attention_bias=True), {}),
    "mistral": ("mistral", dict(sliding_window=4), {}),
    "mistral_whole": ("mistral", dict(sliding_window=None, head_dim=8), {}),
    "windows": ("qwen2", dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=5, max_window_layers=1), {}),
    "window_types": ("qwen3", dict(head_dim=8, use_sliding_window=True, sliding_window=3, layer_types=["sliding_attention", "full_attention"]), {}),
}


def main():
    root = os.path.join(HERE, "decoders")
    shutil.rmtree(root, ignore_errors=True)
    for i, (name, (kind, sizes, rope)) in enumerate(MODELS.items()):
        torch.manual_seed(100 + i)
        given = {**SIZES, **sizes, **rope}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **given), attn_implementation="eager").float().eval()
        with torch.no_grad():
            for key, p in model.named_parameters():
                p.normal_(0, 0.3)
                if "norm" in key and key.endswith("weight"):
                    p.add_(1)
        folder = os.path.join(root, name)
        model.save_pretrained(folder)
        file = os.path.join(folder, "model.safetensors")
        save_file({k: v.contiguous() for k, v in load_file(file).items()}, file)
        for extra in os.listdir(folder):
            if extra not in ("config.json", "model.safetensors"):
                os.remove(os.path.join(folder, extra))
        # The config as people wrote it, in its old spelling where that is asked for.
        at = os.path.join(folder, "config.json")
        with open(at) as f:
            config = json.load(f)
        if "rope_scaling" in rope:
            del config["rope_parameters"]
        if name == "windows":
            del config["layer_types"]
        config.update(rope)
        with open(at, "w") as f:
            json.dump(config, f, indent=1, sort_keys=True)
        ids, following = torch.randint(3, 24, (1, 20)), torch.randint(3, 24, (4,))
        golden = {"in.input_ids": ids, "in.next_ids": following}
        with torch.no_grad():
            golden["out.short_logits"] = model(ids[:, :5]).logits[0]
            out = model(ids, use_cache=True)
            golden["out.logits"] = out.logits[0]
            rows, cache = [], out.past_key_values
            for token in following:
                out = model(token.reshape(1, 1), past_key_values=cache, use_cache=True)
                rows.append(out.logits[0, 0])
                cache = out.past_key_values
            golden["out.next_logits"] = torch.stack(rows)
        save_file({k: v.contiguous() for k, v in golden.items()}, os.path.join(folder, "golden.safetensors"))


main()
