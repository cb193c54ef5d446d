"""Opens a model folder with transformers and compares its logits with ours.

    python tools/golden/check_export.py DIR --logits OURS [--tolerance 1e-3]
    python tools/golden/check_export.py DIR --ids 5,17,3 [--save THEIRS.safetensors]

OURS holds `input_ids` ([T] or [B, T]) and `logits` ([T, V] or [B, T, V]) as .safetensors or as
.json (`{"input_ids": [...], "logits": [[...], ...]}`). Prints one line of JSON. Exit code 1 if
transformers misses a tensor, does not know one, or the logits differ by more than the tolerance.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from recipe import versions


def read(path):
    """(input_ids [B, T], logits [B, T, V] in f32)"""
    if path.suffix == ".json":
        content = {k: torch.tensor(v) for k, v in json.loads(path.read_text()).items()}
    else:
        content = load_file(path)
    ids, logits = content["input_ids"].long(), content["logits"].float()
    ids = ids.reshape(-1, ids.size(-1))
    return ids, logits.reshape(*ids.shape, logits.size(-1))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    source = arguments.add_mutually_exclusive_group(required=True)
    source.add_argument("--logits", type=Path, help="ids and logits to compare with")
    source.add_argument("--ids", help="comma-separated ids of one row, nothing to compare with")
    arguments.add_argument("--save", type=Path, help="write the logits of transformers here")
    arguments.add_argument("--tolerance", type=float, default=1e-3)
    arguments = arguments.parse_args()
    disable_progress_bar()

    model, loading = AutoModelForCausalLM.from_pretrained(
        arguments.folder, dtype=torch.float32, attn_implementation="eager",
        output_loading_info=True, local_files_only=True,
    )
    # A tensor that is missing is filled with random numbers, so a warning is not enough.
    problems = {kind: sorted(map(str, names)) for kind, names in loading.items() if names}
    if arguments.logits:
        ids, ours = read(arguments.logits)
    else:
        ids, ours = torch.tensor([[int(i) for i in arguments.ids.split(",")]]), None
    with torch.no_grad():
        theirs = model.eval()(input_ids=ids, use_cache=False).logits
    if arguments.save:
        save_file({"input_ids": ids, "logits": theirs.contiguous()}, arguments.save)

    report = {
        "folder": arguments.folder.name,
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "positions": ids.numel(),
        "problems": problems,
        "versions": versions(),
    }
    failed = bool(problems)
    if ours is None:
        report["best_ids"] = theirs.argmax(-1).tolist()
    elif ours.shape != theirs.shape:
        report["shapes"] = {"ours": list(ours.shape), "theirs": list(theirs.shape)}
        failed = True
    else:
        report["max_abs_difference"] = (ours - theirs).abs().max().item()
        report["max_abs_logit"] = theirs.abs().max().item()
        same = ours.argmax(-1) == theirs.argmax(-1)
        report["same_best_id"] = f"{same.sum().item()}/{same.numel()}"
        # Written so that a NaN fails too.
        failed = failed or not report["max_abs_difference"] <= arguments.tolerance
    report["agrees"] = not failed
    print(json.dumps(report))
    sys.exit(failed)


if __name__ == "__main__":
    main()
