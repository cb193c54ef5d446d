#!/usr/bin/env python3
"""The reference evaluation harness (lm-eval, model type local-completions) against the server, and the same tasks with
transformers on the same weights in f32. Scores must be equal, and so must every log-likelihood within rounding.

    tools/clients/evaluation.py --verve target/release/verve --model SmolLM2-135M-Instruct.Q4_1.gguf
    tools/clients/evaluation.py --verve ... --model ... --python VENV/bin/python

The model is first written as a dense folder in the Hugging Face layout, which both then read. The harness runs against the
server twice: with the folder's tokenizer in its own process, and with the server's (/tokenizer_info, /tokenize). Needs the packages
lm-eval[api], torch, transformers and accelerate, which are installed under target/clients/evaluation unless --python names an
interpreter that has them. No network is used beyond that."""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "load"))

from wire import Server, free_port, get  # noqa: E402

TASKS = ["verve_choice", "verve_rolling"]
# Nats a character by which two correct programs in f32, which add in different orders, may differ.
TOLERANCE = 5e-5


def python_with_harness():
    venv = HERE.parent.parent / "target" / "clients" / "evaluation"
    if not (venv / "complete").exists():
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.check_call([sys.executable, "-m", "venv", str(venv)])
        subprocess.check_call([str(venv / "bin" / "pip"), "install", "--quiet", "lm-eval[api]==0.4.13", "torch", "transformers", "accelerate"])
        (venv / "complete").touch()
    return str(venv / "bin" / "python")


def harness(python, folder, name, model, arguments, key=""):
    """Runs both tasks; returns (scores by task and metric, items by task)."""
    out = folder / name
    command = [python, "-m", "lm_eval", "run", "--model", model, "--model_args", ",".join(f"{k}={v}" for k, v in arguments.items()),
               "--tasks", ",".join(TASKS), "--include_path", str(folder / "tasks"), "--output_path", str(out), "--log_samples", "--batch_size", "4"]
    environment = os.environ | {"OPENAI_API_KEY": key, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache"),
                                "NO_PROXY": "*", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder / "tasks", timeout=1800)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    (results,) = out.rglob("results_*.json")
    scores = {(task, metric): value for task, values in json.loads(results.read_text())["results"].items()
              for metric, value in values.items() if isinstance(value, float) and "stderr" not in metric}
    items = {}
    for task in TASKS:
        (samples,) = out.rglob(f"samples_{task}_*.jsonl")
        items[task] = {line["doc_id"]: line for line in map(json.loads, samples.read_text().splitlines())}
    return scores, items


def log_likelihoods(item):
    """(log-likelihood, is greedy) of each request of an item; a rolling one has the sum alone."""
    found = []
    for response in item["resps"]:
        value = response[0] if isinstance(response, list) and len(response) == 1 else response
        number, greedy = value if isinstance(value, (list, tuple)) else (value, None)
        found.append((float(number), None if greedy is None else str(greedy) == "True"))
    return found


def texts(item):
    """The texts whose log-likelihood each request asks for."""
    arguments = item["arguments"]
    groups = arguments.values() if isinstance(arguments, dict) else arguments
    return [str((list(g.values()) if isinstance(g, dict) else list(g))[-1]) for g in groups]


def compare(title, ours, theirs):
    """Prints the scores side by side and the largest difference of a log-likelihood; returns what is wrong."""
    wrong = []
    print(f"\n{title}\n\n| task | metric | server | transformers |\n| --- | --- | --- | --- |")
    for which, value in theirs[0].items():
        print(f"| {which[0]} | {which[1]} | {ours[0][which]:.6f} | {value:.6f} |")
        close = abs(ours[0][which] - value) <= (0 if which[0] == "verve_choice" else 1e-4 * abs(value))
        if not close:
            wrong.append(f"{title}: {which} is {ours[0][which]}, not {value}")
    worst, compared, greedy = 0.0, 0, 0
    for task in TASKS:
        assert ours[1][task].keys() == theirs[1][task].keys()
        for number, item in theirs[1][task].items():
            for text, (a, a_greedy), (b, b_greedy) in zip(texts(item), log_likelihoods(ours[1][task][number]), log_likelihoods(item), strict=True):
                difference = abs(a - b) / len(text)
                worst, compared = max(worst, difference), compared + 1
                greedy += a_greedy is not None and a_greedy == b_greedy
                if difference > TOLERANCE:
                    wrong.append(f"{title}: {task} {number}: {a} and {b} for {text[:60]!r}")
                if a_greedy != b_greedy:
                    wrong.append(f"{title}: {task} {number}: greedy {a_greedy} and {b_greedy} for {text[:60]!r}")
    print(f"\n{compared} log-likelihoods, the largest difference {worst:.1e} nats a character; is-greedy agrees {greedy} times")
    return wrong


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--verve", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--python", help="an interpreter with lm-eval[api], torch, transformers and accelerate")
    p.add_argument("--dtype", default="f32", help="of the dense folder both read")
    options = p.parse_args()
    python = options.python or python_with_harness()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        dense = folder / "model"
        subprocess.check_call([options.verve, "quantize", options.model, "--to", options.dtype, "--format", "hf", "--out", str(dense), "--no-check"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The paths in the tasks are relative to the harness's folder, and it writes a cache there.
        shutil.copytree(HERE / "evaluation", folder / "tasks")
        for task in (folder / "tasks").glob("*.yaml"):
            task.write_text(task.read_text().replace("test: ", f"test: {folder / 'tasks'}/", 1))
        keys = folder / "keys.redb"
        made = subprocess.run([options.verve, "keys", "--keys", str(keys), "add", "evaluation", "--json"], check=True, capture_output=True, text=True)
        key = json.loads(made.stdout)["secret"]
        port = free_port()
        server = Server([options.verve, "serve", "--model", str(dense), "--host", "127.0.0.1", "--port", str(port), "--keys", str(keys)], port)
        try:
            name = json.loads(get(port, "/v1/models", key)[1])["data"][0]["id"]
            base = {"base_url": f"http://127.0.0.1:{port}/v1/completions", "model": name, "num_concurrent": 4}
            local = harness(python, folder, "local", "local-completions", base | {"tokenizer_backend": "huggingface", "tokenizer": dense}, key)
            remote = harness(python, folder, "remote", "local-completions", base | {"tokenizer_backend": "remote", "auth_token": key}, key)
        finally:
            server.stop()
        reference = harness(python, folder, "transformers", "hf", {"pretrained": dense, "dtype": "float32"})
    wrong = compare("the folder's tokenizer", local, reference) + compare("the server's tokenizer", remote, reference)
    for line in wrong:
        print("FAIL ", line)
    print(f"{'FAILED' if wrong else 'passed'}")
    sys.exit(bool(wrong))


main()
