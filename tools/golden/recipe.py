"""The training recipe that the golden files and the reference training run share.

GPT-3, appendix B: AdamW with betas (0.9, 0.95) and eps 1e-8, decoupled weight decay 0.1 on
matrices and embeddings only, gradients clipped to global norm 1.0.
"""

import math
import platform

import safetensors
import torch
import torch.nn.functional as F
import transformers

BETAS = (0.9, 0.95)
EPS = 1e-8
WEIGHT_DECAY = 0.1
CLIP = 1.0
IGNORE = -100


def versions():
    """What made a file: goes into its metadata."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "safetensors": safetensors.__version__,
        "python": platform.python_version(),
    }


def token_loss(logits, targets):
    """Mean cross-entropy in nats over the targets that are not IGNORE.

    logits [B, T, V]; targets [B, T] are the ids to predict, already shifted (unlike the
    `labels` argument of transformers, which shifts by itself). Taken in f32 at least.
    """
    logits = logits.reshape(-1, logits.size(-1))
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    return F.cross_entropy(logits, targets.reshape(-1), ignore_index=IGNORE)


def adamw(model, lr, weight_decay=WEIGHT_DECAY, betas=BETAS, eps=EPS):
    """AdamW with decay on 2-D parameters only. A tied head counts once, as the embedding."""
    params = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, foreach=False, fused=False)


def clip(model, max_norm=CLIP):
    """Clips the gradients in place; returns their global norm before clipping."""
    return torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm, foreach=False).item()


def warmup_cosine(step, steps, warmup, lr, final_ratio):
    """Learning rate of `step` (counted from 0): linear warm-up that reaches `lr` in step
    `warmup - 1`, then a cosine that would reach `lr * final_ratio` in step `steps`."""
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return lr * (final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))
