"""Golden values of real GGUF models, from transformers reading the same file (it dequantises, as `GgufModel::read` does).

    python gguf_models.py FILE.gguf OUT.safetensors

For each prompt: its ids, 24 greedy ids that follow, and the logits after the prompt at every 97th id. Tests read the result
only where `VERVE_TEST_MODELS` names a folder with the model files (crates/model/tests/gguf_real.rs).
"""

import os
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "Water boils at a temperature of",
    "The three laws of thermodynamics state that",
    "To be, or not to be: that is",
    "My favourite recipe for bread starts with",
    "In 1969, the first human",
    "Q: What is 17 + 25?\nA:",
    "def fibonacci(n):\n    ",
    "#include <stdio.h>\n\nint main(void) {\n",
    "SELECT name, COUNT(*) FROM users",
    "fn main() {\n    let numbers = vec![1, 2, 3];\n",
    "La capitale de la France est",
    "Il était une fois, dans un petit village,",
    "Le chat est assis sur",
    "Bonjour, je m'appelle",
    "La capital de España es",
    "Había una vez, en un pequeño pueblo,",
    "El perro corre por",
    "Buenos días, me llamo",
]
NEW = 24
STEP = 97


def main():
    path, out = sys.argv[1], sys.argv[2]
    folder, name = os.path.split(os.path.abspath(path))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    tensors = {}
    with torch.no_grad():
        for i, prompt in enumerate(PROMPTS):
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            logits = model(ids).logits[0, -1]
            both = model.generate(ids, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
            tensors[f"{i}.prompt"] = ids[0].to(torch.float32)
            tensors[f"{i}.greedy"] = both[0, ids.shape[1]:].to(torch.float32)
            tensors[f"{i}.logits"] = logits[::STEP].to(torch.float32).clone()
            print(repr(tokenizer.decode(both[0])))
    save_file(tensors, out, metadata={"file": name})


main()
