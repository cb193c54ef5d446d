"""Tokenizers of the open families: small ones with the published parts, and real vocabularies of GGUF files.

    python tools/golden/tokenizer_families.py make          # writes tests/golden/tokenizer/families
    python tools/golden/tokenizer_families.py check DIR     # DIR as VERVE_EXPORT of tests/families.rs writes it

`make` trains a small vocabulary for each family with the normaliser, pre-tokenizer, decoder and post-processor of its
published file, and stores texts with the ids of Hugging Face's library. `check` reads what verve wrote of them and
compares the ids.
"""

import json
import random
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = json.loads((ROOT / "tests/golden/tokenizer/samples.json").read_text("utf-8"))
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
CHARACTERS = (
    "aAzZéñßΩжש日本한ีक्ो\u0301\u200d\ufe0f0 9٣Ⅷ½²!.,-_#<|>'’\"\\/$€™😀🏽 \u00a0\u2003\u0085\u3000\ufeff\u1680"
    "\t\n\r\u000b\u001c▁ſ"
)
FRAGMENTS = [
    "'s", "'LL", "'ſ", "  ", "\n\n", " \n ", "\r\n", " '", "don't", " 123", "12345", "<s>", "</s>", "<bos>", "<unk>",
    "<|endoftext|>", "<|im_end|>", " Hello", "<0x0A>", "x=1;", "   \t ", "...", "the quick brown fox", "▁▁", "e\u0301",
    "<pre> ", " <post>", "<word>", "a<word>b", " <word> ", "<fold\u00e9>", "<folde\u0301>",
]


def texts(count):
    random.seed(11)
    out = ["", *SAMPLES]
    for _ in range(count):
        parts = []
        for _ in range(random.randrange(24)):
            kind = random.random()
            if kind < 0.35:
                parts.append(random.choice(CHARACTERS))
            elif kind < 0.75:
                parts.append(random.choice(FRAGMENTS))
            elif kind < 0.8:
                parts.append(random.choice("ab ") * random.randrange(1, 90))
            else:
                parts.append("".join(random.choice("abcdefghijklmnop ABC  ") for _ in range(random.randrange(1, 20))))
        out.append("".join(parts))
    return out


def byte_level(splitter, normalizer=None, specials=("<|endoftext|>",), bos=None, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, list(specials), 500, pre_tokenizers.ByteLevel.alphabet())
    tokenizer.post_processor = with_bos(tokenizer, bos) if bos else processors.ByteLevel(trim_offsets=False)
    return tokenizer


def train(tokenizer, specials, size, alphabet):
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, show_progress=False, initial_alphabet=sorted(alphabet),
    )
    tokenizer.train_from_iterator(SAMPLES * 3, trainer)


def with_bos(tokenizer, bos):
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )


def pieces(normalizer, pre_tokenizer, strip, bos, added=()):
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if strip else []))
    specials = ["<unk>", bos, "</s>"]
    # Words are learnt apart, as SentencePiece does; then whole texts are encoded.
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials, show_progress=False, limit_alphabet=150)
    learner.train_from_iterator(SAMPLES * 3, trainer)
    model = json.loads(learner.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(pair) for pair in model["merges"]]
    names = specials + [f"<0x{byte:02X}>" for byte in range(256)] + [t for t in vocab if t not in specials]
    names += [text for text in ["▁▁", "▁▁▁▁"] if text not in vocab]
    merges += [("▁", "▁"), ("▁▁", "▁▁")]
    tokenizer.model = models.BPE(
        vocab={name: i for i, name in enumerate(names)}, merges=merges, byte_fallback=True, fuse_unk=True,
        unk_token="<unk>",
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in specials])
    tokenizer.add_tokens(list(added))
    tokenizer.post_processor = with_bos(tokenizer, bos)
    return tokenizer


def families():
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def split(pattern):
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), plain])

    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level])
    prepend = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    yield "llama3", byte_level(split(LLAMA3), specials=["<s>", "<|endoftext|>"], bos="<s>", ignore_merges=True)
    yield "qwen2", byte_level(split(QWEN2), normalizers.NFC(), ["<|endoftext|>", "<|im_end|>"])
    yield "smollm2", byte_level(digits, specials=["<|endoftext|>", "<|im_end|>"])
    neox = byte_level(level, normalizers.NFC())
    # Runs of spaces, and every rule for added tokens.
    neox.add_tokens([AddedToken(" " * n, normalized=True) for n in range(8, 1, -1)])
    neox.add_tokens([
        AddedToken("<word>", single_word=True), AddedToken("<pre>", lstrip=True, normalized=False),
        AddedToken("<post>", rstrip=True), AddedToken("<fold\u00e9>", normalized=True, lstrip=True, rstrip=True),
    ])
    yield "pythia", neox
    yield "opt", byte_level(level, specials=["<s>", "</s>"], bos="</s>")
    yield "llama2", pieces(prepend, None, True, "<s>", [AddedToken("<word>", single_word=True, normalized=True)])
    first = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    yield "mistral", pieces(normalizers.Sequence([]), first, True, "<s>", [AddedToken("<post>", rstrip=True)])
    gemma = [AddedToken("\n" * n, normalized=False) for n in range(2, 9)] + [AddedToken("▁▁", normalized=False)]
    yield "gemma", pieces(normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"), False, "<bos>", gemma)


def make():
    folder = ROOT / "tests/golden/tokenizer/families"
    folder.mkdir(exist_ok=True)
    chosen = texts(250)
    (folder / "texts.json").write_text(json.dumps(chosen) + "\n")
    for name, tokenizer in families():
        if name == "mistral":
            content = json.loads(tokenizer.to_str())
            content["normalizer"] = None
            tokenizer = Tokenizer.from_str(json.dumps(content))
        tokenizer.save(str(folder / f"{name}.json"), pretty=False)
        plain = [tokenizer.encode(text, add_special_tokens=False).ids for text in chosen]
        whole = [tokenizer.encode(text).ids for text in chosen]
        back = [tokenizer.decode(ids, skip_special_tokens=False) for ids in plain]
        report = {"plain": plain, "whole": whole, "decoded": back}
        (folder / f"{name}.ids.json").write_text(json.dumps(report, separators=(",", ":")) + "\n")


def check(root):
    chosen = json.loads((ROOT / "tests/golden/tokenizer/families/texts.json").read_text())
    failed = False
    for path in sorted(root.glob("*.json")):
        tokenizer = Tokenizer.from_file(str(path))
        known = json.loads((ROOT / f"tests/golden/tokenizer/families/{path.stem}.ids.json").read_text())
        same = {
            "plain": [tokenizer.encode(text, add_special_tokens=False).ids for text in chosen] == known["plain"],
            "whole": [tokenizer.encode(text).ids for text in chosen] == known["whole"],
        }
        failed = failed or not all(same.values())
        print(json.dumps({"family": path.stem, **same}))
    sys.exit(failed)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make"]:
            make()
        case ["check", folder]:
            check(Path(folder))
        case _:
            sys.exit(__doc__)
