"""Writes tests/golden/quant/golden.safetensors: blocks of every GGML format that verve reads and what the gguf package
makes of them, and what it makes of values in the formats that it and verve both write. Prints the versions."""

import importlib.metadata
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

KINDS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
# Where the f16 numbers of a block are, in bytes.
HALVES = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
N_BLOCKS = 24
# Ends of the range, zeros, the smallest numbers, and what a damaged file may hold.
SPECIAL = [0.0, -0.0, 6e-8, -6e-8, 6.1e-5, 65504.0, -65504.0, np.inf, -np.inf, np.nan]


def blocks(kind: str, random: np.random.Generator) -> np.ndarray:
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    data = random.integers(0, 256, (N_BLOCKS, block_bytes), dtype=np.uint8)
    for place, at in enumerate(HALVES[kind]):
        halves = random.normal(0, 0.02, N_BLOCKS).astype(np.float16)
        first = 3 + place
        halves[first : first + len(SPECIAL)] = SPECIAL
        data[:, at : at + 2] = halves.view(np.uint8).reshape(N_BLOCKS, 2)
    return data


def values(random: np.random.Generator) -> np.ndarray:
    rows = random.normal(0, 1, (16, 64)).astype(np.float32)
    rows[1] *= 1e-3
    rows[2] *= 1e4
    rows[3] = 0
    rows[4] = -0.5
    # Ties between magnitudes, and codes that end in a half.
    rows[5] = random.integers(-8, 9, 64) / 2
    rows[6] = random.integers(-254, 255, 64) / 2
    rows[6, [0, 32]] = 127
    rows[7] = np.abs(rows[7])
    rows[8] = -np.abs(rows[8])
    return rows


def main() -> None:
    random = np.random.default_rng(20)
    tensors = {}
    for kind in KINDS:
        data = blocks(kind, random)
        name = kind.lower()
        tensors[f"blocks.{name}"] = data
        with np.errstate(all="ignore"):
            tensors[f"values.{name}"] = gguf.dequantize(data, gguf.GGMLQuantizationType[kind])
    rows = values(random)
    tensors["rows"] = rows
    for kind in ["Q8_0", "Q4_0"]:
        tensors[f"quantized.{kind.lower()}"] = gguf.quantize(rows, gguf.GGMLQuantizationType[kind])
    versions = {name: importlib.metadata.version(name) for name in ["gguf", "numpy"]}
    path = Path(__file__).parents[2] / "tests/golden/quant/golden.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=versions)
    print(path, versions)


main()
