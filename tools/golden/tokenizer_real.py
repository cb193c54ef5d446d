"""Ids of published vocabularies, as their makers' libraries give them.

    python tools/golden/tokenizer_real.py MODELS OUT

MODELS is a folder with SmolLM2-135M-Instruct.Q4_1.gguf and gemma-3-270m-q4_k_m.gguf. The vocabularies in them are given to
Hugging Face's library (SmolLM2) and to SentencePiece (Gemma). OUT gets `texts.json` and for each model a file of ids and decoded
texts; `crates/tokenizer/tests/real.rs` compares a fixed, small choice of them (tests/golden/tokenizer/real) and, when the
variable VERVE_TOKENIZER_IDS names OUT, all.
"""

import json
import random
import sys
from pathlib import Path

import gguf
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tokenizer_families import ROOT, texts
from tokenizer_models import more_texts

SMOLLM2, GEMMA = "SmolLM2-135M-Instruct.Q4_1", "gemma-3-270m-q4_k_m"


def fuzzed(count):
    random.seed(7)
    fragments = [
        "<start_of_turn>", "<end_of_turn>", "<eos>", "<h1>", "    return self.x\n", "\t\t\t", " " * 31, "\n" * 5, "<|im_start|>",
        "don't", "I'LL", "12345.678", "naïve", "\U0010ffff", "\u2581", "\u200d", "été", "Straße", "東京都", "привет", "مرحبا", "नमस्ते",
    ]
    out = []
    for _ in range(count):
        parts = []
        for _ in range(random.randrange(20)):
            code = random.randrange(1, 0x110000)
            parts.append(random.choice([
                random.choice(fragments), random.choice("ab ") * random.randrange(1, 50),
                chr(code) if not 0xD800 <= code < 0xE000 else "?",
                "".join(random.choice("etaoin shrdlu") for _ in range(random.randrange(1, 24))),
            ]))
        out.append("".join(parts))
    return out


def vocabulary(path):
    reader = gguf.GGUFReader(path)

    def get(key):
        field = reader.fields.get("tokenizer.ggml." + key)
        return field.contents() if field else None

    return get


def smollm2(get):
    tokens, types = get("tokens"), get("token_type")
    tokenizer = Tokenizer(models.BPE(
        vocab={token: i for i, token in enumerate(tokens)}, merges=[tuple(merge.split(" ")) for merge in get("merges")],
    ))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    specials = [token for token, kind in zip(tokens, types, strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return (
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
    )


def gemma(get):
    model = sentencepiece_model_pb2.ModelProto()
    for token, score, kind in zip(get("tokens"), get("scores"), get("token_type"), strict=True):
        model.pieces.add(piece=token.replace(" ", "▁") if kind == 4 else token, score=score, type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.byte_fallback = 2, True
    for role, key in {"unk": "unknown", "bos": "bos", "eos": "eos", "pad": "padding"}.items():
        id_ = get(f"{key}_token_id")
        setattr(trainer, f"{role}_id", id_)
        setattr(trainer, f"{role}_piece", get("tokens")[id_])
    model.pieces[trainer.unk_id].type = 2
    normalizer.name, normalizer.escape_whitespaces = "identity", True
    normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces = get("add_space_prefix"), False
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    return processor.encode, processor.decode


def write(folder, chosen, libraries):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.json").write_text(json.dumps(chosen) + "\n")
    for name, (encode, decode) in libraries.items():
        ids = [encode(text) for text in chosen]
        report = {"ids": ids, "decoded": [decode(row) for row in ids]}
        (folder / f"{name}.json").write_text(json.dumps(report, separators=(",", ":")) + "\n")


def main(root, out):
    libraries = {
        SMOLLM2: smollm2(vocabulary(root / f"{SMOLLM2}.gguf")), GEMMA: gemma(vocabulary(root / f"{GEMMA}.gguf")),
    }
    few = texts(60) + more_texts()[:40] + fuzzed(40)
    write(ROOT / "tests/golden/tokenizer/real", few, libraries)
    many = texts(1500) + more_texts() + fuzzed(1500) + [unit * 3000 for unit in ["a", " ", "\n", "日", "😀", "▁", "<", "\t"]]
    many += [path.read_text("utf-8") for path in sorted((ROOT / "crates/tokenizer/src").glob("*.rs"))]
    write(out, many, libraries)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
