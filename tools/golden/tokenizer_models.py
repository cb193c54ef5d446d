"""SentencePiece models and unigram tokenizer files, with the ids that their makers' libraries give.

    python tools/golden/tokenizer_models.py make DATA      # writes tests/golden/tokenizer/models; DATA is a folder of texts
    python tools/golden/tokenizer_models.py check DIR      # DIR as VERVE_EXPORT of tests/models.rs writes it

`make` trains small models on the .txt files of DATA. A `.model` file comes with the ids of SentencePiece; a `.json` file with
those of Hugging Face's library. `check` opens what verve wrote of each and compares.
"""

import json
import random
import sys
import tempfile
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tokenizer_families import SAMPLES, texts

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests/golden/tokenizer/models"
# A small character map: what it does to clusters of several characters is what matters.
RULES = {
    "ﬁ": "fi", "①": "1", "２": "2", "Ａ": "A", "e\u0301": "é", "\u00a0": " ", "\u3000": " ", "\t": " ", "\n": " ",
    "\r": " ", "\u200b": "", "½": "1\u20442", "™": "TM", "\u0301\u0302": "^", "ｶﾞ": "ガ", "ﾞ": "\u3099",
}


def more_texts():
    random.seed(5)
    out = [
        "", " ", "   ", "a", " a ", "  two  spaces  ", "\r\n", "a\r\nb", "\t", "\u200b", "ﬁ\u0301n", "e\u0301\u0302", "Ａ２①",
        "👩‍👩‍👧‍👦 👍🏽 🇫🇷🇯🇵 ❤️", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢", "ก็็็็็็็็็็", "ガﾞｶﾞ", "각 각 ㄱ", "नमस्ते क्षत्रिय", "\ufffd\uffff\U0010ffff\ue000",
        "\u0000a\u0001b\u001f\u007f", "\u202eabc\u202c", "ß ſ ẞ ı İ", "<unk>", "<s>x</s>", "▁", "▁▁a▁", "a▁b", "<sep>", "a<sep>b", " <sep> ",
        "unknown 龘龘龘 龘", "龘", "龘a龘", "日本語の文章です。漢字とかな", "https://a.example/b?c=d&e=%20f", "1234567890" * 7,
    ]
    out += [unit * 400 for unit in ["a", "ab", "aab", " ", "-", "!", "é", "日", "😀", "▁", "the", "e\u0301"]]
    for _ in range(120):
        length = random.randrange(1, 40)
        picks = [lambda: chr(random.randrange(1, 0xd800)), lambda: chr(random.randrange(0xe000, 0x110000)),
                 lambda: chr(random.randrange(32, 127)), lambda: random.choice(list(RULES)), lambda: random.choice("aeiou  thn")]
        out.append("".join(random.choice(picks)() for _ in range(length)))
    return out


def sentences(data):
    lines = [line for path in sorted(data.glob("*.txt")) for line in path.read_text("utf-8").splitlines() if line.strip()]
    return lines[:3000] + SAMPLES * 5


def train_sentencepiece(lines, folder, **options):
    source, prefix = folder / "text", folder / "model"
    source.write_text("\n".join(lines), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(source), model_prefix=str(prefix), num_threads=1, minloglevel=2, hard_vocab_limit=False,
        input_sentence_size=4000, character_coverage=0.995, **options,
    )
    return prefix.with_suffix(".model").read_bytes()


def sentencepiece_models(lines):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rules = folder / "rules.tsv"
        rules.write_text("".join(
            " ".join(f"{ord(c):X}" for c in key) + "\t" + " ".join(f"{ord(c):X}" for c in value) + "\n"
            for key, value in RULES.items()
        ))
        own = {"normalization_rule_tsv": str(rules)}
        yield "unigram", train_sentencepiece(lines, folder, model_type="unigram", vocab_size=900, **own)
        yield "unigram_bytes", train_sentencepiece(
            lines, folder, model_type="unigram", vocab_size=1000, byte_fallback=True, normalization_rule_name="identity",
            add_dummy_prefix=False, remove_extra_whitespaces=False, split_digits=True, user_defined_symbols=["<sep>"],
            allow_whitespace_only_pieces=True,
        )
        yield "bpe", train_sentencepiece(lines, folder, model_type="bpe", vocab_size=700, **own)
        yield "bpe_bytes", train_sentencepiece(
            lines, folder, model_type="bpe", vocab_size=900, byte_fallback=True, normalization_rule_name="identity",
            remove_extra_whitespaces=False, split_digits=True,
        )
        yield "nmt_nfkc", train_sentencepiece(lines, folder, model_type="unigram", vocab_size=600)


def pieces_of(model):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]


def proto_of(model):
    from sentencepiece import sentencepiece_model_pb2
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    return proto


def charsmap_of(model):
    return proto_of(model).normalizer_spec.precompiled_charsmap


def converted(proto):
    """A unigram model for Hugging Face's library, with all that SentencePiece does to spaces."""
    spec = proto.normalizer_spec
    # Control tokens and the unknown one are pieces there, which text would become: no text has these.
    pieces = [("\0" * (piece.type in (2, 3)) + piece.piece, piece.score) for piece in proto.pieces]
    tokenizer = Tokenizer(models.Unigram(
        pieces, unk_id=proto.trainer_spec.unk_id,
        byte_fallback=proto.trainer_spec.byte_fallback,
    ))
    steps = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +|[ ▁]+\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    tokenizer.normalizer = normalizers.Sequence(steps + [normalizers.Replace(" ", "▁")])
    by_words = not any("▁" in piece.piece[1:] for piece in proto.pieces if piece.type == 1)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=by_words)
    tokenizer.add_tokens([AddedToken(piece.piece, normalized=True) for piece in proto.pieces if piece.type == 4])
    return tokenizer


def around(bos, eos):
    single = " ".join(([bos[0]] if bos else []) + ["$A"] + ([eos[0]] if eos else []))
    return processors.TemplateProcessing(single=single, special_tokens=[token for token in (bos, eos) if token])


def with_specials(tokenizer, names, added=()):
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    tokenizer.add_tokens(list(added))
    return tokenizer


def unigram_files(made, lines):
    """Files with the parts of published ones: T5, XGLM, Japanese models with bytes, and one that the library trained."""
    t5 = Tokenizer(models.Unigram(pieces_of(made["unigram"]) + [("<extra_id_0>", 0.0)], unk_id=0, byte_fallback=False))
    t5.normalizer = normalizers.Sequence([
        normalizers.Precompiled(charsmap_of(made["unigram"])), normalizers.Strip(left=False, right=True),
        normalizers.Replace(Regex(" {2,}"), "▁"),
    ])
    t5.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    t5.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    t5.post_processor = around(None, ("</s>", 2))
    yield "t5", with_specials(t5, ["<unk>", "<s>", "</s>", "<extra_id_0>"])

    xglm = Tokenizer(models.Unigram(pieces_of(made["unigram"]), unk_id=0, byte_fallback=False))
    xglm.normalizer = normalizers.Sequence([
        normalizers.Precompiled(charsmap_of(made["unigram"])), normalizers.Replace(Regex(" {2,}"), " "),
    ])
    xglm.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    xglm.decoder = decoders.Metaspace()
    xglm.post_processor = around(("</s>", 2), None)
    yield "xglm", with_specials(xglm, ["<unk>", "<s>", "</s>"])

    bytes_ = Tokenizer(models.Unigram(pieces_of(made["unigram_bytes"]), unk_id=0, byte_fallback=True))
    bytes_.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    bytes_.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])
    bytes_.post_processor = around(("<s>", 1), None)
    yield "bytes", with_specials(bytes_, ["<unk>", "<s>", "</s>"], [AddedToken("<sep>", normalized=True, single_word=True)])

    trained = Tokenizer(models.Unigram())
    trained.normalizer = normalizers.Sequence([
        normalizers.NFKC(), normalizers.Strip(), normalizers.Replace("``", '"'), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"),
    ])
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trained.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=500, special_tokens=["<s>", "<unk>"], unk_token="<unk>", show_progress=False,
    )
    trained.train_from_iterator(lines, trainer)
    yield "trained", trained


def report_of(tokenizer, chosen):
    plain = [tokenizer.encode(text, add_special_tokens=False).ids for text in chosen]
    return {
        "tokenizers": tokenizers.__version__,
        "plain": plain,
        "whole": [tokenizer.encode(text).ids for text in chosen],
        "decoded": [tokenizer.decode(ids, skip_special_tokens=False) for ids in plain],
    }


def write(name, value):
    (FOLDER / name).write_text(json.dumps(value, separators=(",", ":")) + "\n")


def make(data):
    FOLDER.mkdir(exist_ok=True)
    chosen = texts(120) + more_texts()
    write("texts.json", chosen)
    lines = sentences(data)
    made = {}
    for name, model in sentencepiece_models(lines):
        made[name] = model
        (FOLDER / f"{name}.model").write_bytes(model)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        ids = [processor.encode(text) for text in chosen]
        report = {"sentencepiece": sentencepiece.__version__, "plain": ids, "decoded": [processor.decode(i) for i in ids]}
        proto = proto_of(model)
        if proto.trainer_spec.model_type == 1:
            other = converted(proto)
            report["hugging_face"] = [other.encode(text, add_special_tokens=False).ids for text in chosen]
            print(name, sum(a == b for a, b in zip(ids, report["hugging_face"])), "of", len(ids), "same in both libraries")
        write(f"{name}.model.ids.json", report)
    for name, tokenizer in unigram_files(made, lines):
        tokenizer.save(str(FOLDER / f"{name}.json"), pretty=False)
        write(f"{name}.json.ids.json", report_of(tokenizer, chosen))


def check(root):
    """What verve writes of a model, opened by Hugging Face's library, gives the ids that verve gives."""
    chosen = json.loads((FOLDER / "texts.json").read_text("utf-8"))
    failed = False
    for path in sorted(root.glob("*.tokenizer.json")):
        tokenizer = Tokenizer.from_file(str(path))
        ours = json.loads((root / path.name.replace(".tokenizer.json", ".ids.json")).read_text())
        theirs = [tokenizer.encode(text, add_special_tokens=False).ids for text in chosen]
        # Special tokens and bytes that are written out in a text are no text there.
        pairs = [(a, b, t) for a, b, t in zip(ours, theirs, chosen, strict=True) if "<0x" not in t]
        wrong = [(t, a, b) for a, b, t in pairs if a != b]
        failed = failed or bool(wrong)
        print(json.dumps({"model": path.name, "texts": len(pairs), "differ": len(wrong), "first": wrong[:1]}))
    sys.exit(failed)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", data]:
            make(Path(data))
        case ["check", folder]:
            check(Path(folder))
        case _:
            sys.exit(__doc__)
