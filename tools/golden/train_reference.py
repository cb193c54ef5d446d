"""Trains a GPT-2 model in PyTorch on given token ids, in a given order, and writes the curve.

    python tools/golden/train_reference.py config.json --train TRAIN --heldout HELDOUT \\
        [--rows ROWS] [--init DIR] [--dtype f32|bf16] [--save DIR] --out curve.jsonl

The other half of a comparison: both programs start from the same weights (--init), read the
same rows in the same order and use the same recipe, so their curves may differ by rounding only.

TRAIN, HELDOUT  token ids: .npy, or raw little-endian u16.
ROWS            where each training row starts in TRAIN, in tokens: .npy, or raw little-endian
                u64. Step s takes rows s*batch_rows .. (s+1)*batch_rows; a row is n_ctx ids from
                its start and predicts the n_ctx ids one further on. Without ROWS, TRAIN is the
                rows themselves, end to end, each n_ctx + 1 ids long.
HELDOUT         is scored as consecutive rows of n_ctx predictions, each starting at the last id
                that the row before predicted; a rest shorter than n_ctx is left out.

config.json: n_layers d_model n_heads n_ctx n_vocab, steps batch_rows lr warmup_steps, and
optionally micro_batch (batch_rows), final_lr_ratio (0.1), beta1 (0.9), beta2 (0.95), eps (1e-8),
weight_decay (0.1), clip (1.0), eval_every (100), eval_rows (all), seed (0), threads (2).
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.utils.logging import disable_progress_bar

from recipe import BETAS, CLIP, EPS, WEIGHT_DECAY, adamw, clip, token_loss, versions, warmup_cosine

REQUIRED = ("n_layers", "d_model", "n_heads", "n_ctx", "n_vocab",
            "steps", "batch_rows", "lr", "warmup_steps")
DEFAULTS = {
    "micro_batch": None, "final_lr_ratio": 0.1, "beta1": BETAS[0], "beta2": BETAS[1], "eps": EPS,
    "weight_decay": WEIGHT_DECAY, "clip": CLIP, "eval_every": 100, "eval_rows": None, "seed": 0,
    "threads": 2,
}


def read_config(path):
    given = json.loads(path.read_text())
    missing = [key for key in REQUIRED if key not in given]
    unknown = [key for key in given if key not in REQUIRED and key not in DEFAULTS]
    if missing or unknown:
        raise SystemExit(f"{path}: missing {missing}, unknown {unknown}")
    config = {**DEFAULTS, **given}
    config["micro_batch"] = config["micro_batch"] or config["batch_rows"]
    return config


def read_numbers(path, raw_type):
    """A 1-D array, mapped rather than read."""
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r").reshape(-1)
    return np.memmap(path, dtype=raw_type, mode="r")


def rows_at(ids, starts, n_ctx):
    """[len(starts), n_ctx + 1]: inputs and targets overlap."""
    rows = [ids[int(start) : int(start) + n_ctx + 1] for start in starts]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def new_model(c):
    """GPT-2 as initialised in the paper: N(0, 0.02), projections into the residual stream scaled
    by 1/sqrt(2 * n_layers), biases 0, norm weights 1."""
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=c["n_vocab"], n_positions=c["n_ctx"], n_embd=c["d_model"],
        n_layer=c["n_layers"], n_head=c["n_heads"], activation_function="gelu_new",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    ))
    random = torch.Generator().manual_seed(c["seed"])
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 2:
                std = 0.02
                if name.endswith("c_proj.weight"):
                    std /= math.sqrt(2 * c["n_layers"])
                p.copy_(torch.randn(p.shape, generator=random) * std)
            elif name.endswith("bias"):
                p.zero_()
            else:
                p.fill_(1.0)
    return model


def check_shape(model, c, folder):
    """The folder decides what is trained, so it has to be what the configuration says."""
    found = {
        "n_layers": model.config.num_hidden_layers, "d_model": model.config.hidden_size,
        "n_heads": model.config.num_attention_heads, "n_vocab": model.config.vocab_size,
        "n_ctx": model.config.max_position_embeddings,
    }
    wrong = {key: (value, c[key]) for key, value in found.items() if value != c[key]}
    if wrong:
        raise SystemExit(f"{folder}: differs from the configuration (found, expected): {wrong}")


def main():
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("config", type=Path)
    arguments.add_argument("--train", type=Path, required=True)
    arguments.add_argument("--heldout", type=Path, required=True)
    arguments.add_argument("--rows", type=Path)
    arguments.add_argument("--init", type=Path, help="Hugging Face folder to start from")
    arguments.add_argument("--dtype", choices=("f32", "bf16"), default="f32",
                           help="bf16: autocast over f32 weights")
    arguments.add_argument("--save", type=Path, help="Hugging Face folder for the trained model")
    arguments.add_argument("--out", type=Path, required=True)
    arguments = arguments.parse_args()
    c = read_config(arguments.config)
    disable_progress_bar()
    torch.set_num_threads(c["threads"])

    n_ctx, batch_rows, micro_batch = c["n_ctx"], c["batch_rows"], c["micro_batch"]
    train = read_numbers(arguments.train, "<u2")
    heldout = read_numbers(arguments.heldout, "<u2")
    if arguments.rows:
        starts = read_numbers(arguments.rows, "<u8")
    else:
        starts = np.arange(len(train) // (n_ctx + 1)) * (n_ctx + 1)
    heldout_starts = np.arange((len(heldout) - 1) // n_ctx)[: c["eval_rows"]] * n_ctx
    if len(starts) < c["steps"] * batch_rows:
        raise SystemExit(f"{c['steps']} steps need {c['steps'] * batch_rows} rows, found {len(starts)}")
    if len(heldout_starts) == 0:
        raise SystemExit(f"{arguments.heldout}: shorter than one row of {n_ctx}")
    if batch_rows % micro_batch:
        raise SystemExit("batch_rows must be a multiple of micro_batch")

    if arguments.init:
        model = AutoModelForCausalLM.from_pretrained(arguments.init, dtype=torch.float32)
        check_shape(model, c, arguments.init)
    else:
        model = new_model(c)
    model.train()
    optimizer = adamw(model, c["lr"], c["weight_decay"], (c["beta1"], c["beta2"]), c["eps"])
    bf16 = arguments.dtype == "bf16"

    def loss_of(rows):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        return token_loss(logits, rows[:, 1:])

    def heldout_loss():
        total = 0.0
        model.eval()
        with torch.no_grad():
            for at in range(0, len(heldout_starts), micro_batch):
                rows = rows_at(heldout, heldout_starts[at : at + micro_batch], n_ctx)
                total += loss_of(rows).item() * len(rows)
        model.train()
        return total / len(heldout_starts)

    with arguments.out.open("w") as curve:

        def record(**line):
            curve.write(json.dumps(line) + "\n")
            curve.flush()

        record(config=c, dtype=arguments.dtype, init="given" if arguments.init else "own",
               parameters=sum(p.numel() for p in model.parameters()),
               heldout_predictions=len(heldout_starts) * n_ctx, versions=versions())
        record(step=0, heldout_loss=heldout_loss())
        for step in range(c["steps"]):
            began = time.perf_counter()
            lr = warmup_cosine(step, c["steps"], c["warmup_steps"], c["lr"], c["final_lr_ratio"])
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad(set_to_none=True)
            rows = rows_at(train, starts[step * batch_rows : (step + 1) * batch_rows], n_ctx)
            total = 0.0
            for part in rows.split(micro_batch):
                loss = loss_of(part) * (len(part) / batch_rows)
                loss.backward()
                total += loss.item()
            grad_norm = clip(model, c["clip"])
            optimizer.step()
            # Counted from 1: the loss before the update that completes step `step`.
            record(step=step + 1, loss=total, lr=lr, grad_norm=grad_norm,
                   seconds=round(time.perf_counter() - began, 4))
            if (step + 1) % c["eval_every"] == 0 or step + 1 == c["steps"]:
                score = heldout_loss()
                record(step=step + 1, heldout_loss=score)
                print(f"step {step + 1}/{c['steps']} loss {total:.4f} held-out {score:.4f}", flush=True)
    if arguments.save:
        model.save_pretrained(arguments.save)


if __name__ == "__main__":
    main()
