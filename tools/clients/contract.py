#!/usr/bin/env python3
"""schemathesis against the OpenAPI document that the server serves: made-up requests, right and wrong, to every operation.

    tools/clients/contract.py --verve target/release/verve --model runs/docs          (a small model answers sooner)

All of schemathesis's checks but these, which do not fit:
- positive_data_acceptance: what fits the schema may still be refused, for an unknown model's name, a prompt that is too long, a
  token id outside the vocabulary, a grammar that does not parse. That it is refused with an error object is checked.
- use_after_free and ensure_resource_availability: nothing is created or deleted by these routes.

Installs schemathesis under target/clients/contract. `--examples` bounds the cases of each operation, --seed makes them the same."""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "load"))

from wire import FILTERS, Server, free_port, get  # noqa: E402

PACKAGE = "schemathesis==4.32.5"
UNFIT = ["positive_data_acceptance", "use_after_free", "ensure_resource_availability"]


def program():
    venv = HERE.parent.parent / "target" / "clients" / "contract"
    if not (venv / "bin" / "schemathesis").exists():
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.check_call([sys.executable, "-m", "venv", str(venv)])
        subprocess.check_call([str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", PACKAGE])
    return str(venv / "bin" / "schemathesis")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--verve", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--examples", type=int, default=40)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--max-time", type=int, default=300, help="seconds")
    p.add_argument("--serve-args", default="", help="more arguments of `verve serve`")
    p.add_argument("--more", default="", help="more arguments of `schemathesis run`")
    options = p.parse_args()
    command = program()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        keys = folder / "keys.redb"
        made = subprocess.run([options.verve, "keys", "--keys", str(keys), "add", "contract", "--json", "--scopes",
                               "generate,embed,score,moderate,admin"], check=True, capture_output=True, text=True)
        key = json.loads(made.stdout)["secret"]
        (folder / "verve.toml").write_text(FILTERS)
        port = free_port()
        # Requests that name no length would otherwise be answered for minutes.
        server = Server([options.verve, "serve", "--model", options.model, "--context", "512", "--host", "127.0.0.1", "--port", str(port), "--keys", str(keys),
                         "--config", str(folder / "verve.toml"), *shlex.split(options.serve_args)], port, log=folder / "log")
        try:
            status, text = get(port, "/openapi.json", key)
            assert status == 200, text
            (folder / "openapi.json").write_text(text)
            operations = sum(method in ("get", "post", "delete", "put", "patch") for path in json.loads(text).get("paths", {}).values() for method in path)
            assert operations > 10, f"the document has {operations} operations"
            environment = os.environ | {"NO_PROXY": "*"}
            done = subprocess.run([command, "run", str(folder / "openapi.json"), "--url", f"http://127.0.0.1:{port}",
                                   "--header", f"Authorization: Bearer {key}", "--checks", "all", "--exclude-checks", ",".join(UNFIT),
                                   "--phases", "examples,coverage,fuzzing", "--max-examples", str(options.examples), "--seed", str(options.seed),
                                   "--max-time", str(options.max_time), "--request-timeout", "60", "--max-response-time", "60", "--no-shrink", "--continue-on-failure",
                                   *shlex.split(options.more)], cwd=folder, env=environment)
            alive = server.process.poll() is None and get(port, "/health")[0] == 200
            code = server.stop()
            log = (folder / "log").read_text(errors="replace")
        finally:
            server.stop()
    panicked = "panicked" in log
    if panicked or not alive:
        print(log[-3000:])
    print(f"server: {'up' if alive else 'DOWN'} afterwards, {'PANICKED' if panicked else 'no panic'}, exit status {code}")
    sys.exit(0 if done.returncode == 0 and alive and code == 0 and not panicked else 1)


main()
