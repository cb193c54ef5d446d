"""PyTorch in the shapes of `verve bench` on a GPU: one line of JSON a figure.

    python3 tools/gpu_peer.py ceilings | attention | train-gpt2 | train-1.3b

Training: torch.compile, bf16 autocast with f32 weights, flash attention (scaled_dot_product_attention), fused AdamW, gradients of
the micro-batches added, clipped at 1. FLOPs of a token: 6 times the weights that take part in products, and 12 L T d for
attention, as verve counts them."""

import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

# layers, width, head width, vocabulary, rows of a micro-batch, context, micro-batches of a step
SHAPES = {
    "train-gpt2": (12, 768, 64, 50257, 32, 1024, 16),
    "train-1.3b": (24, 2048, 128, 50257, 8, 2048, 8),
}


def timed(work, runs, repeats=5):
    """Median seconds of one run, over repeats of several runs that are timed together by the card's clock."""
    for _ in range(3):
        work()
    seconds = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(runs):
            work()
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3 / runs)
    return statistics.median(seconds)


def show(job, value, unit, **more):
    facts = {"torch": torch.__version__, "card": torch.cuda.get_device_name()}
    print(json.dumps({"job": job, "value": value, "unit": unit, **more, **facts}), flush=True)


def ceilings():
    for n in (4096, 8192):
        a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        seconds = timed(lambda: a @ b.t(), 20)
        show("peak-bf16", 2 * n**3 / seconds / 1e9, "GFLOP/s", size=n)
    src, dst = (torch.empty(512 << 20, device="cuda", dtype=torch.uint8) for _ in range(2))
    show("peak-copy", 2 * src.numel() / timed(lambda: dst.copy_(src), 20) / 1e9, "GB/s")


def attention():
    for d_head, heads, rows in ((64, 12, 16), (128, 16, 8)):
        n_ctx = 2048
        q, k, v = (torch.randn(rows, heads, n_ctx, d_head, device="cuda", dtype=torch.bfloat16, requires_grad=True)
                   for _ in range(3))
        forward = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)
        d_out = torch.randn_like(forward())
        both = lambda: torch.autograd.grad(forward(), (q, k, v), d_out)
        ahead, all_of_it = timed(forward, 10), timed(both, 10)
        flops = 2 * rows * heads * n_ctx**2 * d_head  # two products, half of them masked
        show("attention-forward", flops / ahead / 1e9, "GFLOP/s", d_head=d_head, n_ctx=n_ctx, rows=rows, heads=heads)
        show("attention-backward", 2.5 * flops / (all_of_it - ahead) / 1e9, "GFLOP/s", d_head=d_head, n_ctx=n_ctx, rows=rows,
             heads=heads)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.attn_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn_qkv, self.attn_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn_up, self.ffn_down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        rows, n_ctx, width = x.shape
        qkv = self.attn_qkv(self.attn_norm(x)).view(rows, n_ctx, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_out(heads.transpose(1, 2).reshape(rows, n_ctx, width))
        return x + self.ffn_down(F.gelu(self.ffn_up(self.ffn_norm(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, layers, width, heads, n_vocab, n_ctx):
        super().__init__()
        self.tok_embed, self.pos_embed = nn.Embedding(n_vocab, width), nn.Embedding(n_ctx, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.final_norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids, targets):
        x = self.tok_embed(ids) + self.pos_embed.weight
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.final_norm(x), self.tok_embed.weight)
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))


def train(job):
    layers, width, d_head, n_vocab, rows, n_ctx, micro_batches = SHAPES[job]
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    # A vocabulary that is a multiple of 64 is what PyTorch is fastest with.
    model = Gpt(layers, width, width // d_head, -(-n_vocab // 64) * 64, n_ctx).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    compiled = torch.compile(model)
    ids = torch.randint(n_vocab, (micro_batches, rows, n_ctx + 1), device="cuda")

    def step():
        for batch in ids:
            with torch.autocast("cuda", torch.bfloat16):
                loss = compiled(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
            (loss / micro_batches).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    start = time.monotonic()
    step()
    torch.cuda.synchronize()
    compile_seconds = time.monotonic() - start
    step()
    torch.cuda.synchronize()
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        step()
        torch.cuda.synchronize()
        seconds.append(time.monotonic() - start)
    median = statistics.median(seconds)
    weights = sum(p.numel() for p in model.parameters()) - model.pos_embed.weight.numel()
    rate = rows * n_ctx * micro_batches / median
    gflops = rate * (6 * weights + 12 * layers * n_ctx * width) / 1e9
    memory = torch.cuda.max_memory_allocated() / 2**30
    show(job, rate, "tokens/s", gflops=gflops, seconds_per_step=median, compile_seconds=compile_seconds, memory_gib=memory)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in ("ceilings", "attention", *SHAPES):
        sys.exit(__doc__)
    if not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU")
    {"ceilings": ceilings, "attention": attention}.get(sys.argv[1], lambda: train(sys.argv[1]))()
