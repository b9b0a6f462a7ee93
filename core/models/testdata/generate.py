"""Makes the folders beside this file: tiny random models of each class, head and
way of pooling, each with golden.safetensors (in.NAME, out.NAME: what transformers
or sentence-transformers compute in float32).

    pip install torch==2.15.0 transformers==5.23.0 sentence-transformers==6.2.0
    python generate.py
"""

import json
import os
import shutil

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoConfig, AutoModel
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
VOCAB, HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 24, 8, 2, 2, 12, 14
BATCH, SEQUENCE = 3, 9
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


def config(model_type, **kw):
    if model_type == "distilbert":
        sizes = dict(dim=HIDDEN, n_layers=LAYERS, n_heads=HEADS, hidden_dim=INNER)
    else:
        sizes = dict(hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=INNER)
    return AutoConfig.for_model(model_type, vocab_size=VOCAB, max_position_embeddings=POSITIONS, **{**sizes, **kw})


def randomise(model):
    """Default weights are so small that a wrong graph would still look right."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(0, 0.3)
            if "norm" in name.lower() and name.endswith("weight"):
                p.add_(1)


def inputs(cfg, left=False):
    lengths = [SEQUENCE, 5, 2]
    ids = torch.randint(4, VOCAB, (BATCH, SEQUENCE))
    mask = torch.zeros(BATCH, SEQUENCE, dtype=torch.long)
    for row, n in enumerate(lengths):
        at = slice(SEQUENCE - n, None) if left else slice(0, n)
        mask[row, at] = 1
    ids = torch.where(mask == 1, ids, cfg.pad_token_id)
    given = {"input_ids": ids, "attention_mask": mask}
    if getattr(cfg, "type_vocab_size", 0) > 1:
        given["token_type_ids"] = torch.randint(0, cfg.type_vocab_size, (BATCH, SEQUENCE))
    return given


def golden(folder, given, outputs):
    tensors = {"in." + k: v for k, v in given.items()}
    tensors |= {"out." + k: v.float().contiguous() for k, v in outputs.items()}
    save_file(tensors, os.path.join(folder, "golden.safetensors"))


def fresh(name):
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def save(model, folder, dtype):
    model.to(dtype).save_pretrained(folder)
    for extra in ("generation_config.json",):
        path = os.path.join(folder, extra)
        if os.path.exists(path):
            os.remove(path)
    return model.float()


def rename(folder, rule):
    path = os.path.join(folder, "model.safetensors")
    save_file({rule(k): v for k, v in load_file(path).items()}, path, metadata={"format": "pt"})


def headed(name, architecture, model_type, dtype=torch.float32, rule=None, **kw):
    torch.manual_seed(sum(name.encode()))
    folder = fresh(name)
    cfg = config(model_type, **kw)
    model = getattr(transformers, architecture)(cfg).eval()
    randomise(model)
    model.tie_weights()
    model = save(model, folder, dtype)
    if rule:
        rename(folder, rule)
    given = inputs(cfg)
    with torch.no_grad():
        out = dict(model(**given))
        base = getattr(model, model.base_model_prefix, model)
        out |= {k: v for k, v in base(**given).items() if v is not None}
    golden(folder, given, out)


def pooled(name, modes, normalize, left, flags):
    """A sentence-transformers folder; flags: as versions up to 5 wrote it."""
    torch.manual_seed(sum(name.encode()))
    folder = fresh(name)
    cfg = config("bert", num_hidden_layers=1)
    model = AutoModel.from_config(cfg).eval()
    randomise(model)
    model = save(model, folder, torch.float32)
    old = "sentence_transformers.models."
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": old + "Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": old + "Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": old + "Normalize"},
    ][: 3 if normalize else 2]
    module = Pooling(HIDDEN, modes)
    os.makedirs(os.path.join(folder, "1_Pooling"))
    module.save(os.path.join(folder, "1_Pooling"))
    if flags:
        names = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}
        new = {"word_embedding_dimension": HIDDEN}
        new |= {"pooling_mode_" + names.get(m, m): m in modes for m in MODES}
        with open(os.path.join(folder, "1_Pooling", "config.json"), "w") as f:
            json.dump(new, f, indent=2)
    with open(os.path.join(folder, "modules.json"), "w") as f:
        json.dump(modules, f, indent=2)
    with open(os.path.join(folder, "sentence_bert_config.json"), "w") as f:
        json.dump({"max_seq_length": 12, "do_lower_case": False}, f)
    given = inputs(cfg, left)
    given["attention_mask"][0, 4] = 0  # a hole: positions count on, the token doesn't
    with torch.no_grad():
        hidden = model(**given).last_hidden_state
        y = module({"token_embeddings": hidden, **given})["sentence_embedding"]
        if normalize:
            y = torch.nn.functional.normalize(y, p=2, dim=-1)
    golden(folder, given, {"sentence_embedding": y})


def old_names(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


if __name__ == "__main__":
    headed("bert_bare_old", "BertModel", "bert", rule=old_names, hidden_act="gelu_new")
    headed("bert_mlm_untied", "BertForMaskedLM", "bert", tie_word_embeddings=False, hidden_act="relu")
    headed("bert_nsp", "BertForNextSentencePrediction", "bert", hidden_act="silu")
    headed("bert_sequence_f16", "BertForSequenceClassification", "bert", torch.float16, num_labels=3)
    headed("bert_token_bf16", "BertForTokenClassification", "bert", torch.bfloat16, num_labels=5)
    headed("bert_qa", "BertForQuestionAnswering", "bert", hidden_act="quick_gelu")
    headed("roberta_mlm", "RobertaForMaskedLM", "roberta", type_vocab_size=1)
    headed("roberta_sequence", "RobertaForSequenceClassification", "roberta", type_vocab_size=1, layer_norm_eps=1e-5)
    headed("xlm_roberta_token", "XLMRobertaForTokenClassification", "xlm-roberta", type_vocab_size=1)
    headed("xlm_roberta_bare", "XLMRobertaModel", "xlm-roberta", type_vocab_size=1)
    headed("camembert_qa", "CamembertForQuestionAnswering", "camembert", type_vocab_size=1, pad_token_id=2)
    headed("distilbert_mlm", "DistilBertForMaskedLM", "distilbert")
    headed("distilbert_sequence", "DistilBertForSequenceClassification", "distilbert", activation="relu", num_labels=2)
    headed("distilbert_qa", "DistilBertForQuestionAnswering", "distilbert")
    headed("electra_discriminator", "ElectraForPreTraining", "electra", embedding_size=6)
    headed("electra_generator", "ElectraForMaskedLM", "electra", embedding_size=6)
    headed("electra_sequence", "ElectraForSequenceClassification", "electra", embedding_size=HIDDEN)
    for mode in MODES:
        pooled("sentence_" + mode, [mode], mode in ("mean", "lasttoken"), mode in ("cls", "lasttoken", "weightedmean"), False)
    pooled("sentence_joined", ["cls", "mean", "lasttoken"], True, False, True)
