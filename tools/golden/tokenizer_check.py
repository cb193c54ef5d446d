"""The tokenizer against Hugging Face's library, in both directions.

    python tools/golden/tokenizer_check.py make          # writes tests/golden/tokenizer
    python tools/golden/tokenizer_check.py check DIR     # DIR as crates/tokenizer/tests/hugging_face.rs writes it

`make` trains a byte-level BPE with the tokenizers library, saves it, and stores the ids it gives for some texts.
`check` opens each DIR/*/tokenizer.json that verve wrote and compares the ids of the texts beside it; exit code 1 if any
differs.
"""

import json
import sys
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
# Of many scripts, with what splitters and decoders get wrong.
SAMPLES = json.loads((ROOT / "tests/golden/tokenizer/samples.json").read_text("utf-8"))


def make():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<|endoftext|>", "<|user|>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(SAMPLES * 3, trainer)
    folder = ROOT / "tests/golden/tokenizer"
    tokenizer.save(str(folder / "tokenizer.json"))
    # Special tokens written out in a text are text for verve unless asked for: they are encoded apart here.
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in SAMPLES]
    report = {"tokenizers": tokenizers.__version__, "ids": ids}
    (folder / "ids.json").write_text(json.dumps(report) + "\n")


def check(root):
    failed = False
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        texts = json.loads((folder / "texts.json").read_text("utf-8"))
        ours = json.loads((folder / "ids.json").read_text())
        theirs = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        back = [tokenizer.decode(ids, skip_special_tokens=False) for ids in theirs]
        same = sum(a == b for a, b in zip(ours, theirs, strict=True))
        report = {
            "folder": folder.name, "tokenizers": tokenizers.__version__, "vocabulary": tokenizer.get_vocab_size(),
            "same_texts": f"{same}/{len(texts)}", "ids": sum(map(len, theirs)), "decoded_back": back == texts,
        }
        report["agrees"] = same == len(texts) and back == texts
        failed = failed or not report["agrees"]
        print(json.dumps(report))
    sys.exit(failed)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make"]:
            make()
        case ["check", folder]:
            check(Path(folder))
        case _:
            sys.exit(__doc__)
