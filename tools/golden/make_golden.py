"""Writes tests/golden/<case>/{config.json,model.safetensors,golden.safetensors}.

    python tools/golden/make_golden.py [--out tests/golden] [--only CASE ...]

Every folder is a checkpoint that transformers wrote, with what transformers and PyTorch
compute from it next to it. README.md lists the tensors. The same versions give the same bytes.

The numbers are computed in f64 from the f32 weights and rounded to f32 when stored, so that
nearly all of a deviation a test finds is its own. Constants are those of the f32 model: angles of
rotary positions, factors on scores and on embeddings are rounded to f32, and everything that
follows from them is not. The plain f32 model has to agree (it is checked here, and how well it
agrees is stored), and `greedy` comes from it.
"""

import argparse
import contextlib
import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.gemma3 import modeling_gemma3
from transformers.models.gpt_neo import modeling_gpt_neo
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.opt import modeling_opt
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3
from transformers.utils.logging import disable_progress_bar

from recipe import BETAS, CLIP, EPS, IGNORE, WEIGHT_DECAY, adamw, clip, token_loss, versions

ROWS, LENGTH, VOCAB = 2, 24, 97
PROMPT, NEW_TOKENS = 8, 16
STEPS, LEARNING_RATE = 3, 1e-3
FILE_LIMIT = 500_000


def gpt2():
    return GPT2Config(
        vocab_size=VOCAB, n_positions=32, n_embd=32, n_layer=2, n_head=4,
        activation_function="gelu_new", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=0, eos_token_id=0,
    )


def gpt_neo():
    # The window of 8 is a third of the rows, so that the local layers differ from the global ones.
    return GPTNeoConfig(
        vocab_size=VOCAB, max_position_embeddings=32, hidden_size=32, num_layers=4, num_heads=4,
        intermediate_size=96, attention_types=[[["global", "local"], 2]], window_size=8,
        activation_function="gelu_new", resid_dropout=0.0, embed_dropout=0.0,
        attention_dropout=0.0, bos_token_id=0, eos_token_id=0,
    )


def gpt_neox(**changes):
    # Six of the eight dimensions of a head rotate.
    return GPTNeoXConfig(**{**dict(
        vocab_size=VOCAB, max_position_embeddings=32, hidden_size=32, num_hidden_layers=3,
        num_attention_heads=4, intermediate_size=48, hidden_act="gelu", use_parallel_residual=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.75},
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    ), **changes})


def gpt_neox_serial():
    # GPT-NeoX-20B's activation, no biases in attention, a tied head and two more things a file may say.
    return gpt_neox(
        use_parallel_residual=False, hidden_act="gelu_fast", attention_bias=False, tie_word_embeddings=True,
        rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 1.5,
                         "partial_rotary_factor": 0.25},
    )


def opt(**changes):
    return OPTConfig(
        vocab_size=VOCAB, max_position_embeddings=32, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, ffn_dim=48, dropout=0.0, pad_token_id=None, bos_token_id=0, eos_token_id=0,
        **changes,
    )


# What llama and its relatives have in common.
SMALL = dict(
    vocab_size=VOCAB, max_position_embeddings=32, hidden_size=32, intermediate_size=48,
    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
)


def llama(**changes):
    return LlamaConfig(**{**SMALL, "attention_bias": False, **changes})


def llama_tied():
    # Heads wider than hidden_size / heads, and another theta: both have to be read from the file.
    return llama(
        tie_word_embeddings=True, head_dim=16,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )


def llama3():
    # An original context of 24 puts the four waves of a head of 8 on both sides of the transition and into it.
    return llama(rope_parameters={
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 2.0, "original_max_position_embeddings": 24,
    })


def llama_linear():
    return llama(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5})


def mistral():
    return MistralConfig(**SMALL, sliding_window=7)


def qwen2():
    return Qwen2Config(**{**SMALL, "tie_word_embeddings": True}, use_sliding_window=False)


def qwen3():
    return Qwen3Config(**SMALL, head_dim=16)


def gemma3():
    # Every third of the four layers is global.
    settings = {**SMALL, "num_hidden_layers": 4, "tie_word_embeddings": True, "head_dim": 12}
    settings["rope_parameters"] = {
        "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    }
    local = "sliding_attention"
    return Gemma3TextConfig(
        **settings, sliding_window=6, query_pre_attn_scalar=20,
        layer_types=[local, local, "full_attention", local],
    )


# name: (model class, config, seed). The seeds were picked so that the greedy continuation is
# varied, its best id is well ahead everywhere and never the end-of-text id 0 (`greedy` checks), and
# that no gradient is so near to zero that AdamW makes much of the noise of f32 (`f32_noise`).
CASES = {
    "gpt2": (GPT2LMHeadModel, gpt2, 14),
    "gpt_neo": (GPTNeoForCausalLM, gpt_neo, 65),
    "gpt_neox": (GPTNeoXForCausalLM, gpt_neox, 129),
    "gpt_neox_serial": (GPTNeoXForCausalLM, gpt_neox_serial, 253),
    "opt": (OPTForCausalLM, opt, 125),
    "opt_post_norm": (OPTForCausalLM, lambda: opt(do_layer_norm_before=False), 297),
    "llama": (LlamaForCausalLM, llama, 212),
    "llama_tied": (LlamaForCausalLM, llama_tied, 94),
    "llama_bias": (LlamaForCausalLM, lambda: llama(attention_bias=True), 95),
    "llama3": (LlamaForCausalLM, llama3, 101),
    "llama_linear": (LlamaForCausalLM, llama_linear, 97),
    "mistral": (MistralForCausalLM, mistral, 99),
    "qwen2": (Qwen2ForCausalLM, qwen2, 102),
    "qwen3": (Qwen3ForCausalLM, qwen3, 104),
    "gemma3": (Gemma3ForCausalLM, gemma3, 8119),
}


def randomise(model, seed):
    """Weights under which no part of the network is close to the identity or to nothing:
    attention is uneven, norm weights are not one, biases are not zero."""
    # Gemma's norms multiply by one more than their weights.
    norm = 0.0 if isinstance(model, Gemma3ForCausalLM) else 1.0
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=random)
            if p.dim() == 2:
                p.copy_(0.2 * noise)
            elif name.endswith("bias"):
                p.copy_(0.1 * noise)
            else:
                p.copy_(norm + 0.2 * noise)


def batch(seed):
    """(input_ids, targets): targets are the following ids, two of them ignored."""
    random = torch.Generator().manual_seed(1000 + seed)
    rows = torch.randint(VOCAB, (ROWS, LENGTH + 1), generator=random)
    targets = rows[:, 1:].clone()
    targets[0, 3] = targets[1, LENGTH - 1] = IGNORE
    return rows[:, :-1].contiguous(), targets


class WideTorch:
    """The torch module with f64 under the name float32.

    The Llama and GPT-Neo classes compute norms and attention scores in f32 whatever the type
    of the model; seen through this, they stay in f64.
    """

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def in_f64():
    modules = (modeling_llama, modeling_gpt_neo, modeling_gpt_neox, modeling_mistral, modeling_opt,
               modeling_qwen2, modeling_qwen3, modeling_gemma3)
    for module in modules:
        module.torch = WideTorch()
    # Rotary angles are f32 in every class, and have to be: the models were trained with them. Their
    # cosines and sines are not rounded here.
    cos, sin = torch.Tensor.cos, torch.Tensor.sin
    torch.Tensor.cos = lambda self: cos(self.double())
    torch.Tensor.sin = lambda self: sin(self.double())
    # This one says `.float()`.
    norm = modeling_gemma3.Gemma3RMSNorm
    forward = norm.forward
    norm.forward = lambda self, x: self._norm(x) * (1.0 + self.weight)
    try:
        yield
    finally:
        norm.forward = forward
        torch.Tensor.cos, torch.Tensor.sin = cos, sin
        for module in modules:
            module.torch = torch


def with_f32_constants(model):
    """Rounds the factors on scores and on embeddings to f32, as the f32 model has them."""
    def rounded(x):
        return torch.tensor(x, dtype=torch.float32).item()

    for module in model.modules():
        if isinstance(getattr(module, "scaling", None), float):
            module.scaling = rounded(module.scaling)
        if hasattr(module, "scalar_embed_scale"):
            module.embed_scale.fill_(rounded(module.scalar_embed_scale))
    return model


def file_name(model, name):
    """The name that a checkpoint has for a parameter; transformers renames this one when it opens and saves."""
    neox = isinstance(model, GPTNeoXForCausalLM)
    return "embed_out.weight" if neox and name == "lm_head.weight" else name


def results(model, input_ids, targets):
    """Everything a golden file holds except `greedy`, in the type of the model."""
    out = {}
    optimizer = adamw(model, LEARNING_RATE)
    for step in range(STEPS + 1):
        optimizer.zero_grad()
        logits = model(input_ids=input_ids, use_cache=False).logits
        loss = token_loss(logits, targets)
        out[f"loss_step.{step}"] = loss.detach().reshape(1)
        if step == STEPS:
            break
        loss.backward()
        if step == 0:
            out["logits"] = logits.detach()
            out["loss"] = out["loss_step.0"].clone()
            for name, p in model.named_parameters():
                out[f"grad.{file_name(model, name)}"] = p.grad.clone()
        out[f"grad_norm.{step}"] = torch.tensor([clip(model)], dtype=loss.dtype)
        optimizer.step()
    for name, p in model.named_parameters():
        out[f"param_after3.{file_name(model, name)}"] = p.detach().clone()
    return out


def greedy(model, prompt):
    """The ids that follow `prompt`, by the KV-cached loop of transformers."""
    model.generation_config.eos_token_id = None  # always NEW_TOKENS ids
    generated = model.generate(
        prompt[None], attention_mask=torch.ones_like(prompt)[None], do_sample=False,
        use_cache=True, max_new_tokens=NEW_TOKENS, pad_token_id=0,
    )[0]
    new = generated[PROMPT:].contiguous()
    with torch.no_grad():
        logits = model(input_ids=generated[None], use_cache=False).logits[0, PROMPT - 1 : -1]
    best, runner_up = logits.topk(2).values.unbind(-1)
    lead = (best - runner_up).min().item()
    assert torch.equal(logits.argmax(-1), new), "the cached loop differs from a full forward"
    varied = len(new.unique()) >= NEW_TOKENS // 2
    assert varied and new.all() and lead > 0.02, f"pick another seed: {new.tolist()}, {lead}"
    return new


def check_not_trivial(name, model, wide, input_ids):
    """A test on these files must be able to fail."""
    for tensor, value in wide.items():
        if tensor.startswith("grad."):
            assert value.isfinite().all() and value.any(), f"{name}: {tensor} is trivial"
    assert wide["grad_norm.0"].item() > CLIP, f"{name}: clipping does nothing"
    if name == "gpt_neo":
        logits = model(input_ids=input_ids, use_cache=False).logits
        for block in model.transformer.h:
            block.attn.attention.bias.copy_(model.transformer.h[0].attn.attention.bias)
        dense = model(input_ids=input_ids, use_cache=False).logits
        changed = (logits - dense).abs().amax(dim=(0, 2))
        window = model.config.window_size
        assert changed[:window].max() == 0 and changed[window:].min() > 0.01, "the window does nothing"


def f32_noise(plain, wide):
    """Largest deviation of the plain f32 run from the f64 run, by kind of tensor."""
    noise = {}
    for tensor, value in wide.items():
        kind = tensor.split(".")[0]
        deviation = (plain[tensor].double() - value).abs().max().item()
        noise[kind] = max(noise.get(kind, 0.0), deviation)
    # The parameters after the steps are looser: Adam divides each gradient by its own size,
    # so the noise of one that should be zero (a key bias of GPT-2) moves it by up to lr.
    for kind, deviation in noise.items():
        limit = STEPS * LEARNING_RATE if kind == "param_after3" else 1e-4
        assert deviation < limit, f"f32 and f64 differ in {kind} by {deviation}"
    # Matrices have no such gradients by nature, only by chance.
    for tensor, value in wide.items():
        if tensor.startswith("param_after3") and value.dim() == 2:
            deviation = (plain[tensor].double() - value).abs().max().item()
            assert deviation < 2e-5, f"pick another seed: f32 and f64 differ in {tensor} by {deviation}"
    return noise


def make(name, out, seed):
    model_class, config, _ = CASES[name]
    config = config()
    config._attn_implementation = "eager"
    model = model_class(config).eval()
    randomise(model, seed)
    input_ids, targets = batch(seed)
    prompt = input_ids[0, :PROMPT].clone()
    new = greedy(model, prompt)
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)

    def load(dtype):
        return model_class.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()

    with in_f64():
        wide = results(with_f32_constants(load(torch.float64)), input_ids, targets)
    noise = f32_noise(results(load(torch.float32), input_ids, targets), wide)
    check_not_trivial(name, load(torch.float32), wide, input_ids)

    tensors = {tensor: value.float().contiguous() for tensor, value in wide.items()}
    tensors |= {"input_ids": input_ids, "targets": targets}
    tensors |= {"greedy_prompt": prompt, "greedy": new}
    about = {
        "case": name,
        "seed": seed,
        "versions": versions(),
        "optimizer": {
            "name": "AdamW", "lr": LEARNING_RATE, "betas": BETAS, "eps": EPS,
            "weight_decay": WEIGHT_DECAY, "decayed": "2-D", "clip": CLIP,
        },
        "f32_noise": {kind: f"{deviation:.1e}" for kind, deviation in noise.items()},
    }
    # One metadata key only: safetensors writes several in no fixed order.
    save_file(tensors, folder / "golden.safetensors", metadata={"about": json.dumps(about)})
    print(f"{name}: seed {seed} loss {wide['loss'].item():.6f} norm {wide['grad_norm.0'].item():.4f} "
          f"greedy {tensors['greedy'].tolist()} f32 noise {about['f32_noise']}")


def find_seed(name):
    """The first seed from the known one on that is fit for a test."""
    seed = CASES[name][2]
    with tempfile.TemporaryDirectory() as folder:
        while True:
            try:
                make(name, Path(folder), seed)
            except AssertionError:
                seed += 1
                continue
            return


def make_sharded(out):
    """The weights of `gpt2` in two files with an index."""
    folder = out / "gpt2_sharded"
    shutil.rmtree(folder, ignore_errors=True)
    model = GPT2LMHeadModel.from_pretrained(out / "gpt2")
    model.save_pretrained(folder, max_shard_size="70KB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) == 2, shards
    print(f"gpt2_sharded: {[shard.name for shard in shards]}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path,
                           default=Path(__file__).resolve().parents[2] / "tests" / "golden")
    arguments.add_argument("--find-seed", action="store_true",
                           help="print a seed for each of --only, from the known one on")
    arguments.add_argument("--only", nargs="+", choices=[*CASES, "gpt2_sharded"])
    arguments = arguments.parse_args()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    disable_progress_bar()
    if arguments.find_seed:
        for name in arguments.only:
            find_seed(name)
        return
    names = arguments.only or [*CASES, "gpt2_sharded"]
    for name in names:
        if name == "gpt2_sharded":
            make_sharded(arguments.out)
        else:
            make(name, arguments.out, CASES[name][2])
        for file in (arguments.out / name).iterdir():
            assert file.stat().st_size < FILE_LIMIT, f"{file} is too large"


if __name__ == "__main__":
    main()
