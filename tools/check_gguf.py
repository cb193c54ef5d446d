"""Reads GGUF files that `verve quantize` wrote with the Python package `gguf`, the format's own reader.

    pip install gguf
    python tools/check_gguf.py FILE.gguf [--against SOURCE.gguf]

Prints what the package finds (architecture, keys, tensors of each type) and fails if a tensor has another name than its
architecture's tensors in llama.cpp, or bytes that do not belong to its shape. With --against, both files' tensors are
dequantised by the package and compared: the relative root mean square difference of each type, which should be about
0.4 % for q8_0, 8 % for q4_0 and q4_k, 2 % for q6_k, and 0 for f32.
"""

import argparse
import collections
import re

import gguf
import numpy as np


def names(architecture, n_layers):
    """All names that tensors of an architecture have, without their endings."""
    found = set()
    for tensor in gguf.MODEL_TENSORS[architecture]:
        name = gguf.TENSOR_NAMES[tensor]
        found |= {name.format(bid=layer) for layer in range(n_layers)} if "{bid}" in name else {name}
    return found


def value(field):
    contents = field.contents()
    if isinstance(contents, list):
        return f"{len(contents)} values"
    return repr(contents)[:70]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--against")
    args = parser.parse_args()
    reader = gguf.GGUFReader(args.file)
    for key, field in reader.fields.items():
        print(f"{key} = {value(field)}")
    name = reader.fields["general.architecture"].contents()
    architecture = {text: number for number, text in gguf.MODEL_ARCH_NAMES.items()}.get(name)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if architecture is None:
        print(f"architecture {name!r} is not one of llama.cpp's: names are not checked")
    else:
        n_layers = reader.fields[f"{name}.block_count"].contents()
        known = names(architecture, n_layers)
        for tensor in tensors:
            base = re.sub(r"\.(weight|bias)$", "", tensor)
            assert base in known, f"{tensor} is no tensor of {name}"
        n_vocab = len(reader.fields["tokenizer.ggml.tokens"].contents())
        assert tensors["token_embd.weight"].shape[1] == n_vocab, "the vocabulary is not as long as the token table"
    counts = collections.Counter(tensor.tensor_type.name for tensor in tensors.values())
    print("tensors:", dict(counts))
    differences = collections.defaultdict(list)
    other = {}
    if args.against:
        other = {tensor.name: tensor for tensor in gguf.GGUFReader(args.against).tensors}
        assert set(tensors) == set(other), f"other tensors: {set(tensors) ^ set(other)}"
    for tensor in tensors.values():
        found = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert found.size == tensor.n_elements and np.isfinite(found).all(), tensor.name
        if other:
            source = other[tensor.name]
            assert list(source.shape) == list(tensor.shape), f"{tensor.name}: {tensor.shape}, not {source.shape}"
            expected = gguf.dequantize(source.data, source.tensor_type)
            scale = np.sqrt(np.mean(np.square(expected, dtype=np.float64)))
            error = np.sqrt(np.mean(np.square(found.astype(np.float64) - expected)))
            differences[tensor.tensor_type.name].append(error / scale if scale else error)
            reference = {"Q8_0", "Q4_0"} & {tensor.tensor_type.name}
            if reference and source.tensor_type.name in {"F32", "F16", "BF16"}:
                blocks = gguf.quantize(expected.astype(np.float32), tensor.tensor_type)
                assert (blocks.tobytes() == tensor.data.tobytes()), f"{tensor.name}: not the package's blocks"
    for kind, errors in differences.items():
        print(f"{kind}: relative difference {np.mean(errors):.2e} on average, {np.max(errors):.2e} at most")


if __name__ == "__main__":
    main()
