#!/usr/bin/env python3
"""verve beside llama.cpp's server, over plain sockets, with the same requests at the same number of sequences.

    tools/load/compare.py --verve target/release/verve --llama llama-server --model SmolLM2-135M-Instruct.Q4_0.gguf

Every round starts each server anew, in alternating order (A B, B A, ...), so that a slow minute of the machine falls on both. Loads:

- `P+A`: --streams clients, each sends --per-client completions one after another, prompts of P random token ids, answers of A
  tokens exactly. Total tokens/s, time to first token, gaps between the events of a stream.
- `long`: --streams - 1 clients are being answered when a prompt of 1,500 tokens arrives; the gaps of the others from its arrival
  until its first token, where it hurts, and its own time to first token.
- start: from spawning the process until it says that it is ready, file cache warm.

Prints medians over rounds as a Markdown table, and writes every round as a line of JSON with --out. Measure on a quiet machine. The
client is one thread that only takes times and looks for ends of events, and shares the cores with the server, as for both."""

import argparse
import json
import os
import pathlib
import random
import selectors
import shlex
import socket
import statistics
import subprocess
import time

from wire import Server, free_port, get, request_bytes


class Stream:
    """One streamed answer: when it was asked for, when each event came."""

    def __init__(self, port, body):
        self.data, self.times, self.done = bytearray(), [], False
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = time.perf_counter()
        self.sock.sendall(request_bytes("/v1/completions", body, headers={"Connection": "close"}))
        self.sock.setblocking(False)

    def read(self):
        """Takes what has come; notes one time for each event that carries text."""
        data = self.sock.recv(65536)
        now = time.perf_counter()
        begin = max(0, len(self.data) - 6)
        self.data += data
        events = self.data.count(b"data: {", begin)
        self.times += [now] * events
        # A closed connection ends an answer too; whether it was complete is looked at afterwards.
        self.done = not data or self.data.rfind(b"data: [DONE]", max(0, begin - 6)) >= 0
        if self.done:
            self.sock.close()

    def finish(self, answer_tokens):
        """Checks the answer and leaves out events without text (the last ones)."""
        text = bytes(self.data)
        if b" 200 " not in text[:20] or b"data: [DONE]" not in text:
            raise SystemExit(f"not answered: {text[:600].decode(errors='replace')}")
        events = [json.loads(line[6:].split(b"\r")[0]) for line in text.split(b"\n") if line.startswith(b"data: {")]
        assert len(events) == len(self.times), (len(events), len(self.times))
        usage = [e["usage"] for e in events if e.get("usage")]
        if not usage or usage[-1]["completion_tokens"] != answer_tokens:
            raise SystemExit(f"wanted {answer_tokens} tokens, got {usage}")
        self.times = [t for e, t in zip(events, self.times) if e["choices"] and e["choices"][0]["text"]]
        return self


def request(rng, prompt_tokens, answer_tokens):
    return {"prompt": [rng.randrange(100, 40000) for _ in range(prompt_tokens)], "max_tokens": answer_tokens,
            "ignore_eos": True, "temperature": 0.8, "top_k": 40, "seed": rng.randrange(2**31), "stream": True,
            "stream_options": {"include_usage": True}}


def closed_loop(port, bodies):
    """Each list of bodies is one client that sends them one after another. The finished streams, and the seconds all took."""
    waiting = selectors.DefaultSelector()
    finished, queues = [], [list(b) for b in bodies]
    begin = time.perf_counter()

    def next_of(client):
        if queues[client]:
            stream = Stream(port, queues[client].pop(0))
            waiting.register(stream.sock, selectors.EVENT_READ, (client, stream))

    for client in range(len(queues)):
        next_of(client)
    while waiting.get_map():
        for key, _ in waiting.select():
            client, stream = key.data
            descriptor = stream.sock
            waiting_key = descriptor.fileno()
            stream.read()
            if stream.done:
                waiting.unregister(waiting_key)
                finished.append(stream)
                next_of(client)
    return finished, time.perf_counter() - begin


def at(values, share):
    values = sorted(values)
    return 1e3 * values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def load(port, rng, streams, per_client, prompt, answer):
    finished, seconds = closed_loop(port, [[request(rng, prompt, answer) for _ in range(per_client)] for _ in range(streams)])
    finished = [s.finish(answer) for s in finished]
    first = [s.times[0] - s.sent for s in finished]
    gaps = [b - a for s in finished for a, b in zip(s.times, s.times[1:])]
    return {"tokens/s": len(finished) * answer / seconds, "TTFT p50 ms": at(first, 0.5), "TTFT p95 ms": at(first, 0.95),
            "gap p50 ms": at(gaps, 0.5), "gap p95 ms": at(gaps, 0.95), "gap p99 ms": at(gaps, 0.99)}


def long_prompt(port, rng, streams, prompt):
    """The others are answered; when all of them have their tenth token, the long prompt arrives."""
    waiting = selectors.DefaultSelector()
    others = [Stream(port, request(rng, 64, 300)) for _ in range(streams - 1)]
    for stream in others:
        waiting.register(stream.sock, selectors.EVENT_READ, stream)
    long = None
    while waiting.get_map():
        for key, _ in waiting.select():
            descriptor = key.data.sock.fileno()
            key.data.read()
            if key.data.done:
                waiting.unregister(descriptor)
        if long is None and all(len(s.times) >= 10 for s in others):
            long = Stream(port, request(rng, prompt, 8))
            waiting.register(long.sock, selectors.EVENT_READ, long)
    long.finish(8)
    for stream in others:
        stream.finish(300)
    begin, end = long.sent, long.times[0]
    # A gap counts if any of it lies in the time of the long prompt's computation.
    gaps = [b - a for s in others for a, b in zip(s.times, s.times[1:]) if b > begin and a < end]
    return {"gap p50 ms": at(gaps, 0.5), "gap p99 ms": at(gaps, 0.99), "gap max ms": at(gaps, 1), "TTFT of it ms": 1e3 * (end - begin)}


def verve_command(options, port):
    return [options.verve, "serve", "--model", options.model, "--host", "127.0.0.1", "--port", str(port),
            *shlex.split(options.verve_args)]


def llama_command(options, port):
    # A slot's context is the whole divided by the slots; the long prompt must fit in one. No time goes to a page or a second cache.
    slots = options.streams
    return [options.llama, "-m", options.model, "--host", "127.0.0.1", "--port", str(port), "-t", str(options.threads),
            "-tb", str(options.threads), "-np", str(slots), "-c", str(2048 * slots), "-fa", "on", "--no-webui", "--cache-ram", "0",
            *shlex.split(options.llama_args)]


def machine():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return f"{model}, {os.cpu_count()} cores"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--verve")
    p.add_argument("--llama")
    p.add_argument("--model", required=True, metavar="GGUF")
    p.add_argument("--rounds", type=int, default=4)
    p.add_argument("--streams", type=int, default=16)
    p.add_argument("--per-client", type=int, default=3)
    p.add_argument("--loads", default="64+64,200+100", help="prompt+answer tokens, comma-separated")
    p.add_argument("--long", type=int, default=1500, help="tokens of the long prompt; 0 leaves that load out")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--verve-args", default="", help="more arguments of `verve serve`")
    p.add_argument("--llama-args", default="")
    p.add_argument("--out", metavar="JSONL")
    options = p.parse_args()
    servers = {name: command for name, command in (("verve", verve_command), ("llama.cpp", llama_command))
               if getattr(options, name.split(".")[0])}
    if not servers:
        p.error("name at least one of --verve and --llama")
    loads = [tuple(map(int, item.split("+"))) for item in options.loads.split(",")]
    pathlib.Path(options.model).read_bytes()  # into the file cache
    rows = []
    for number in range(options.rounds):
        order = list(servers) if number % 2 == 0 else list(servers)[::-1]
        for name in order:
            port = free_port()
            server = Server(servers[name](options, port), port, ready="/health" if name == "llama.cpp" else "/ready")
            try:
                rng = random.Random(number)  # both servers get the same requests
                row = {"round": number, "server": name, "start": {"ready ms": server.start_ms}}
                closed_loop(port, [[request(rng, 64, 8)]] * 2)
                for prompt, answer in loads:
                    row[f"{prompt}+{answer}"] = load(port, rng, options.streams, options.per_client, prompt, answer)
                if options.long:
                    row["long"] = long_prompt(port, rng, options.streams, options.long)
                row["memory"] = {"resident MiB": server.memory() / 2**20}
            finally:
                server.stop()
            rows.append(row)
            print("#", json.dumps(row), flush=True)
            if options.out:
                with open(options.out, "a") as file:
                    file.write(json.dumps(row | {"machine": machine(), "model": pathlib.Path(options.model).name,
                                                 "streams": options.streams}) + "\n")
    table(rows, list(servers), options)


def table(rows, names, options):
    print(f"\n{pathlib.Path(options.model).name}, {options.streams} streams, {machine()}, medians of {options.rounds} rounds "
          "(smallest and largest in brackets)\n")
    print(f"| load | figure | {' | '.join(names)} |{' ratio |' if len(names) == 2 else ''}")
    print(f"| --- | --- |{' --- |' * len(names)}{' --- |' if len(names) == 2 else ''}")
    for load_name in [k for k in rows[0] if k not in ("round", "server")]:
        for figure in rows[0][load_name]:
            values = {n: [r[load_name][figure] for r in rows if r["server"] == n] for n in names}
            medians = {n: statistics.median(v) for n, v in values.items()}
            cells = [f"{medians[n]:.1f} ({min(values[n]):.1f} to {max(values[n]):.1f})" for n in names]
            ratio = f" {medians[names[0]] / medians[names[1]]:.2f} |" if len(names) == 2 else ""
            print(f"| {load_name} | {figure} | {' | '.join(cells)} |{ratio}")


main()
