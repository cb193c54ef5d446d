"""Writes tests/golden/beam_search.json: what transformers' beam search finds on the checkpoints of tests/golden.

    python beam_search.py

The models compute in float64, so that rounding decides no tie. Several ids end a text, so that answers end at different
lengths. For each case all `num_beams` answers: ids behind the prompt up to the one that ends the text, and their scores.
"""

import json
import pathlib

import torch
import transformers
from transformers import AutoModelForCausalLM

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
ENDS = [0, 7, 19, 23, 42, 55, 61, 88]
PROMPTS = [[3], [5, 9, 60, 2], [1, 2, 3, 4, 5, 6, 7, 8, 10]]


def cases():
    for model in ["gpt2", "llama"]:
        for beams in [2, 4]:
            for penalty in [0.0, 1.0, 2.0, -1.0]:
                for stopping in [False, True, "never"]:
                    for ends in [ENDS, ENDS[:1]]:
                        yield model, beams, penalty, stopping, ends


def main():
    models = {}
    out = []
    for number, (name, beams, penalty, stopping, ends) in enumerate(cases()):
        if name not in models:
            models[name] = AutoModelForCausalLM.from_pretrained(GOLDEN / name, dtype=torch.float64).eval()
        prompt = PROMPTS[number % len(PROMPTS)]
        ids = torch.tensor([prompt])
        with torch.no_grad():
            found = models[name].generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=20,
                do_sample=False,
                num_beams=beams,
                num_return_sequences=beams,
                length_penalty=penalty,
                early_stopping=stopping,
                eos_token_id=ends,
                pad_token_id=ends[0],
                return_dict_in_generate=True,
                output_scores=True,
            )
        answers = []
        for row, score in zip(found.sequences.tolist(), found.sequences_scores.tolist()):
            row = row[len(prompt) :]
            first = next((at for at, id in enumerate(row) if id in ends), len(row) - 1)
            answers.append({"ids": row[: first + 1], "score": score})
        out.append(
            {
                "model": name,
                "prompt": prompt,
                "width": beams,
                "length_penalty": penalty,
                "early_stopping": stopping,
                "ends": ends,
                "max_tokens": 20,
                "answers": answers,
            }
        )
    head = {"torch": torch.__version__, "transformers": transformers.__version__}
    lines = ",\n".join(json.dumps(case) for case in out)
    text = '{"versions": %s,\n"cases": [\n%s\n]}\n' % (json.dumps(head), lines)
    (GOLDEN / "beam_search.json").write_text(text)


main()
