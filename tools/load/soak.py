#!/usr/bin/env python3
"""Many streams and bad clients against one server, for a while; then looks whether anything was lost, mixed or leaked.

    tools/load/soak.py --verve target/release/verve --model SmolLM2-135M-Instruct.Q4_1.gguf --seconds 600 --streams 64
    tools/load/soak.py --verve ... --model ... --seconds 60                        as in continuous integration
    tools/load/soak.py --verve ... --model ... --streams 1000 --seconds 120 --serve-args "--queue 4000"

It starts the server itself on a loopback port, with keys. First each of the --requests is asked alone. Then, all at once: --streams
clients ask them again, streamed and not, and take what comes; some read slowly, some close only their sending half, some are killed.
Beside them: requests that trickle in a byte at a time, bodies that are too large, nested too deeply, or no JSON, bytes that are no
HTTP; keys made and revoked in mid-stream by the command line. At the end: SIGTERM under load, SIGKILL under load and a new start.

What must hold, and fails loudly:
- every complete answer has the text, token ids, log-probabilities, counts and finish reasons that it had alone;
- every answer is complete, unless its client went away or its key was revoked; 429 and 503 carry Retry-After and are tried again;
- each bad request gets its own error and touches nothing else;
- memory, descriptors and threads are flat; afterwards nothing runs, waits or holds cache, and the counters add up;
- a drain ends every answer and exits with 0; after SIGKILL, keys, revocations and usage are there."""

import argparse
import asyncio
import collections
import json
import os
import pathlib
import random
import re
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error

from wire import Connection, Cut, Server, free_port, get, request_bytes

SYSTEMS = ["You are a helpful assistant who answers briefly.", "You are a poet of the sea. " * 20,
           "You translate English to French and say nothing else.", "You know everything about gardens. " * 40]
SUBJECTS = ["the moon", "a lighthouse", "bread", "the number seven", "rain in April", "old maps", "a red bicycle", "glaciers", "cats",
            "the postman", "salt", "a bridge of stone", "tomorrow", "violins", "the colour of leaves", "étoiles 🌟 and naïve emoji 👩‍🚀"]

# Not understood as HTTP at all: a bare status will do.
NO_HTTP = {"headers without end", "two lengths", "TLS in the clear", "no HTTP"}


class Failures:
    """What went wrong, counted; the first few of each kind are printed as they come."""

    def __init__(self):
        self.counts = collections.Counter()

    def note(self, kind, detail=""):
        self.counts[kind] += 1
        if self.counts[kind] <= 3:
            print(f"FAIL  {kind}: {str(detail)[:600]}", flush=True)

    def check(self, what, ok, detail=""):
        if ok:
            print(f"ok    {what}", flush=True)
        else:
            self.note(what, detail)


def make_requests(count, rng):
    """Requests of every sort; all of them repeat."""
    made = []
    for i in range(count):
        subject, system = SUBJECTS[i % len(SUBJECTS)], SYSTEMS[i % len(SYSTEMS)]
        body = {"max_tokens": rng.randrange(4, 48), "seed": rng.randrange(2**31), "return_token_ids": True,
                "temperature": [0, 0.8, 1.2][i % 3], "top_p": [1, 0.9][i % 2]}
        if i % 4 == 3:
            path = "/v1/chat/completions"
            body["messages"] = [{"role": "system", "content": system}, {"role": "user", "content": f"Tell me about {subject}."}]
            if i % 8 == 7:
                body |= {"logprobs": True, "top_logprobs": 3}
        else:
            path = "/v1/completions"
            body["prompt"] = f"{system}\n\nHere is a short text about {subject}:"
            if i % 4 == 1:
                body["logprobs"] = 2
            if i % 5 == 0:
                body["stop"] = ["\n\n", ". "]
            if i % 7 == 0:
                body |= {"n": 3, "temperature": 0.9}
            if i % 11 == 0:
                body["json_schema"] = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12},
                                                                        "count": {"type": "integer"}}, "required": ["name", "count"],
                                       "additionalProperties": False}
                body["max_tokens"] = 60
        made.append((path, body))
    return made


def fold(path, objects):
    """What must be the same, streamed or not, alone or among many: by choice, and the counts."""
    choices = collections.defaultdict(lambda: {"text": "", "ids": [], "logprobs": [], "finish": None})
    usage, ids = None, set()
    for item in objects:
        ids.add(item["id"])
        usage = item.get("usage") or usage
        for choice in item["choices"]:
            own = choices[choice["index"]]
            part = choice.get("delta") or choice.get("message")
            own["text"] += (part.get("content") or "") if part is not None else choice.get("text", "")
            own["ids"] += choice.get("token_ids") or []
            logprobs = choice.get("logprobs") or {}
            own["logprobs"] += logprobs.get("token_logprobs") or [p["logprob"] for p in logprobs.get("content") or []]
            own["finish"] = choice.get("finish_reason") or own["finish"]
    return {"choices": dict(choices), "completion_tokens": usage and usage["completion_tokens"],
            "prompt_tokens": usage and usage["prompt_tokens"], "one id": len(ids) == 1}


class Soak:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.rng = random.Random(options.seed)
        self.failures, self.counts = Failures(), collections.Counter()
        self.keys = folder / "keys.redb"
        self.requests = make_requests(options.requests, self.rng)
        self.alone, self.tokens = {}, 0
        self.log = folder / "server.log"
        self.end = 0.0

    # The server ------------------------------------------------------------------------------------------------------------

    def keys_command(self, *arguments):
        """`verve keys ...`; the objects it prints."""
        command = [self.options.verve, "keys", "--keys", str(self.keys), *arguments, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def new_key(self, name, *more):
        return self.keys_command("add", name, *more)[0]["secret"]

    def start(self):
        port = free_port()
        command = [self.options.verve, "serve", "--model", self.options.model, "--host", "127.0.0.1", "--port", str(port),
                   "--keys", str(self.keys), *shlex.split(self.options.serve_args)]
        self.server = Server(command, port, log=self.log)
        self.port = port

    def metrics(self):
        """The sum of each metric over its labels."""
        sums = collections.Counter()
        for line in get(self.port, "/metrics", self.admin)[1].splitlines():
            if found := re.match(r"(\w+)(?:\{.*\})? ([-+.\deE]+)$", line):
                sums[found[1]] += float(found[2])
        return sums

    # Clients ---------------------------------------------------------------------------------------------------------------

    async def ask(self, number, key, how="whole", until=None):
        """One request in one manner. Returns "done", "gone" (as the client wanted), or "busy"."""
        path, body = self.requests[number]
        streamed = how != "whole"
        body = body | ({"stream": True, "stream_options": {"include_usage": True}} if streamed else {})
        connection = await Connection.open(self.port, receive_buffer=4096 if how == "slow" else None)
        try:
            await connection.send(request_bytes(path, body, key, {"Connection": "close"}))
            if how == "half":
                connection.writer.write_eof()
            status = await connection.head()
            if status in (429, 503):
                if "retry-after" not in connection.headers:
                    self.failures.note("busy without Retry-After", connection.headers)
                return "busy"
            if status != 200:
                self.failures.note(f"status {status}", f"{path} {await connection.body()}")
                return "done"
            if not streamed:
                answer = fold(path, [json.loads(await connection.body())])
            else:
                events, complete = [], False
                leave = self.rng.randrange(1, 12) if how == "killed" else None
                async for event in connection.events():
                    if event == "[DONE]":
                        complete = True
                        continue
                    item = json.loads(event)
                    if "error" in item:
                        self.failures.note("error inside a stream", event)
                        return "done"
                    events.append(item)
                    if how == "slow":
                        await asyncio.sleep(0.05)
                    if leave and len(events) >= leave:
                        connection.reset()
                        return "gone"
                if not complete:
                    raise Cut("no [DONE]")
                answer = fold(path, events)
        except (Cut, ConnectionError) as error:
            if how == "half":
                return "gone"  # a server may take the half-closed connection for a client that left
            self.failures.note("an answer was cut", f"{how} {path}: {error}")
            return "done"
        finally:
            connection.close()
        self.compare(number, answer, how)
        return "done"

    def compare(self, number, answer, how):
        self.tokens += answer["completion_tokens"] or 0
        wanted = self.alone.setdefault(number, answer)
        if answer != wanted:
            self.failures.note("an answer differs from the one alone", f"{how} {self.requests[number]}\n  {answer}\n  {wanted}")

    async def client(self):
        """Asks until the time is up; each manner now and then."""
        manners = ["stream"] * 10 + ["whole"] * 3 + ["killed"] * 3 + ["slow", "half"]
        while time.monotonic() < self.end:
            number, how = self.rng.randrange(len(self.requests)), self.rng.choice(manners)
            outcome = await self.ask(number, self.key, how)
            self.counts[f"{how} {outcome}"] += 1
            if outcome == "busy":
                await asyncio.sleep(self.rng.random() * 2)

    async def bad(self, what, data, statuses, timeout=15, eof=False):
        """Sends bytes; wants one of the statuses (0: the connection may simply end), within the time."""
        connection = await Connection.open(self.port)

        async def send():
            try:
                for piece in data:
                    await connection.send(piece)
                if eof:
                    connection.writer.write_eof()
            except ConnectionError:
                pass  # refused before all of it was taken

        # The answer may come, and the connection end, while we still send.
        sending = asyncio.create_task(send())
        try:
            async with asyncio.timeout(timeout):
                try:
                    status = await connection.head()
                    text = await connection.body()
                except (Cut, ConnectionError, IndexError, ValueError):
                    status, text = 0, b""
        except TimeoutError:
            return self.failures.note(f"{what}: no answer in {timeout} s")
        finally:
            sending.cancel()
            connection.close()
        self.counts[f"{what}: {status}"] += 1
        if status not in statuses:
            self.failures.note(f"{what}: status {status}", text)
        elif status and status != 200 and (text or what not in NO_HTTP):
            try:
                assert set(json.loads(text)["error"]) >= {"message", "type", "param", "code"}
            except (ValueError, KeyError, AssertionError):
                self.failures.note(f"{what}: no error object with status {status}", text)

    async def bad_clients(self):
        path, key = "/v1/completions", self.key
        many = b"x" * 2**20

        def claim(length, piece, times):
            head = request_bytes(path, b"", key).replace(b"Content-Length: 0", f"Content-Length: {length}".encode())
            return [head] + [piece] * times

        chunked = request_bytes(path, b"", key).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        kinds = [
            ("too large a body", claim(2**33, many, 80), {413, 0}),
            ("too large a body in chunks", [chunked] + [b"100000\r\n" + many + b"\r\n"] * 80, {413, 0}),
            ("deep JSON", [request_bytes(path, b'{"prompt":' + b"[" * 100_000, key)], {400}),
            ("deep JSON with its ends", [request_bytes(path, b'{"prompt":' + b"[" * 5000 + b"]" * 5000 + b"}", key)], {400}),
            ("no JSON", [request_bytes(path, b"}{", key)], {400}),
            ("no UTF-8", [request_bytes(path, b'{"prompt":"\xff\xfe"}', key)], {400}),
            ("no body", [request_bytes(path, b"", key)], {400}),
            ("a number that is none", [request_bytes(path, b'{"prompt":"a","temperature":1e999}', key)], {400}),
            ("a bad grammar", [request_bytes(path, {"prompt": "a", "grammar": "start: ((((" * 50}, key)], {400}),
            ("a bad schema", [request_bytes(path, {"prompt": "a", "json_schema": {"type": "nonsense"}}, key)], {400}),
            ("a bad regex", [request_bytes(path, {"prompt": "a", "regex": "(" * 500}, key)], {400}),
            ("a huge repetition", [request_bytes(path, {"prompt": "a", "regex": "((a{999}){999}){999}"}, key)], {400, 200}),
            ("an over-long prompt", [request_bytes(path, {"prompt": "word " * 60_000}, key)], {400, 413}),
            ("token ids out of range", [request_bytes(path, {"prompt": [10**9]}, key)], {400}),
            ("an unknown model", [request_bytes(path, {"model": "no-such", "prompt": "a"}, key)], {404}),
            ("no key", [request_bytes(path, {"prompt": "a"})], {401}),
            ("a wrong key", [request_bytes(path, {"prompt": "a"}, "sk-" + "0" * 43)], {401}),
            ("an unknown path", [request_bytes("/v1/nothing", {}, key)], {404}),
            ("a wrong method", [request_bytes(path, None, key)], {405}),
            ("headers without end", [b"POST /v1/completions HTTP/1.1\r\n" + b"X-A: b\r\n" * 100_000], {400, 431, 0}),
            ("no HTTP", [os.urandom(4096)], {400, 0}),
            ("TLS in the clear", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(500)], {400, 0}),
            ("two lengths", [request_bytes(path, b"{}", key, {"Content-Length": "40"})], {400, 0}),
            ("only half a body, then closed", [request_bytes(path, {"prompt": "a" * 500}, key)[:-100]], {400, 408, 0}),
        ]
        while time.monotonic() < self.end:
            what, data, statuses = self.rng.choice(kinds)
            await self.bad(what, data, statuses, eof="closed" in what)
            await asyncio.sleep(0.02)

    async def slow_loris(self):
        """A byte a second, first in the headers, then in the body: the server must end it by its own limit."""
        for _ in range(1000):
            inside = self.rng.random() < 0.5
            data = request_bytes("/v1/completions", {"prompt": "a" * 5000}, self.key)
            start = data.index(b"\r\n\r\n") + 8 if inside else 20
            connection = await Connection.open(self.port)
            begin = time.monotonic()
            try:
                await connection.send(data[:start])
                for i in range(start, len(data)):
                    await connection.send(data[i:i + 1])
                    try:
                        async with asyncio.timeout(1):
                            await connection.reader.read(1)
                        break
                    except TimeoutError:
                        pass
                    if time.monotonic() >= self.end:
                        if time.monotonic() - begin > self.options.loris_limit:
                            self.failures.note("a slow request is not ended", f"{time.monotonic() - begin:.0f} s, in the body: {inside}")
                        return
                    if time.monotonic() - begin > self.options.loris_limit:
                        self.failures.note("a slow request is not ended", f"{self.options.loris_limit} s, in the body: {inside}")
                        break
                self.counts["slow-loris ended by the server"] += 1
            except ConnectionError:
                self.counts["slow-loris ended by the server"] += 1
            finally:
                connection.close()
            if time.monotonic() >= self.end:
                return

    async def idle(self):
        """A client that asks for a long stream and reads none of it: it may be ended, and must hold little memory."""
        while time.monotonic() < self.end:
            connection = await Connection.open(self.port, receive_buffer=2048)
            connection.reader._limit = 1
            await connection.send(request_bytes("/v1/completions", {"prompt": "On and on:", "max_tokens": 1500, "n": 1,
                                                                    "ignore_eos": True, "stream": True, "logprobs": 5}, self.key))
            await asyncio.sleep(self.rng.randrange(5, 20))
            connection.reset()
            self.counts["unread streams"] += 1

    async def revoker(self):
        """A key is made, used and revoked while its answer streams: the stream may end early, new requests must be refused."""
        number = 0
        while time.monotonic() < self.end - 5:
            number += 1
            name = f"guest-{number}"
            key = await asyncio.to_thread(self.new_key, name)
            try:
                await self.revoked(name, key)
            except (Cut, ConnectionError) as error:
                self.failures.note("the stream of a revoked key broke without an error event", error)
            await asyncio.sleep(3)

    async def revoked(self, name, key):
        body = {"prompt": "Count: one, two,", "max_tokens": 400, "ignore_eos": True, "stream": True}
        for _ in range(200):
            connection = await Connection.open(self.port)
            await connection.send(request_bytes("/v1/completions", body, key, {"Connection": "close"}))
            status = await connection.head()
            if status == 200:
                break
            text = await connection.body()
            connection.close()
            if status != 429 and status != 503 and status != 401:
                return self.failures.note(f"a new key: status {status}", text)
            await asyncio.sleep(0.5)
        else:
            return self.failures.note("a new key is never served", f"{status} {text}")
        events = connection.events()
        for _ in range(3):
            await anext(events)
        await asyncio.to_thread(self.keys_command, "revoke", name)
        begin = time.monotonic()
        status = 0
        while status != 401 and time.monotonic() - begin < 10:
            other = await Connection.open(self.port)
            await other.send(request_bytes("/v1/models", None, key, {"Connection": "close"}))
            status = await other.head()
            other.close()
            await asyncio.sleep(0.1)
        if status != 401:
            self.failures.note("a revoked key still works", status)
        else:
            self.counts["revoked keys refused"] += 1
        last = None
        async for event in events:
            last = event
        connection.close()
        self.counts["streams of revoked keys that " + ("ran to the end" if last == "[DONE]" else "were ended")] += 1

    # The whole -------------------------------------------------------------------------------------------------------------

    async def each_alone(self):
        for number in range(len(self.requests)):
            for how in ("whole", "stream"):
                while await self.ask(number, self.key, how) == "busy":
                    self.failures.note("busy while alone")
                    await asyncio.sleep(0.5)

    async def load(self):
        self.end = time.monotonic() + self.options.seconds
        memory, samples = [], []

        async def watch():
            while time.monotonic() < self.end:
                memory.append(self.server.memory())
                samples.append(self.server.descriptors())
                if self.server.process.poll() is not None:
                    self.failures.note("the server ended", self.server.process.returncode)
                    self.end = 0
                await asyncio.sleep(1)

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            for _ in range(self.options.streams):
                group.create_task(self.client())
            for _ in range(4):
                group.create_task(self.bad_clients())
                group.create_task(self.slow_loris())
            for _ in range(2):
                group.create_task(self.idle())
            group.create_task(self.revoker())
        return memory

    def run(self):
        check = self.failures.check
        self.key = self.new_key("soak")
        self.admin = self.new_key("admin", "--scopes", "admin")
        self.start()
        print(f"#     ready after {self.server.start_ms:.0f} ms", flush=True)
        asyncio.run(self.each_alone())
        check(f"{len(self.requests)} requests alone, streamed and not: the same", not self.failures.counts)
        quiet = self.server.memory(), self.server.descriptors()

        begin = time.monotonic()
        memory = asyncio.run(self.load())
        for what, count in sorted(self.counts.items()):
            print(f"#     {what}: {count}")
        answered = sum(count for what, count in self.counts.items() if what.endswith(" done"))
        check(f"{answered} answers under load", answered > self.options.streams)

        # Flat: the last third against the second, the first being warm-up (the cache fills, the allocator finds its size).
        third = len(memory) // 3
        middle, last = statistics.median(memory[third:2 * third]), statistics.median(memory[2 * third:])
        allowed = max(0.03 * middle, 24 * 2**20)
        check(f"memory is flat: {middle / 2**20:.0f} then {last / 2**20:.0f} MiB, at most {max(memory) / 2**20:.0f}; "
              f"{quiet[0] / 2**20:.0f} before", last <= middle + allowed, [m // 2**20 for m in memory])

        for _ in range(100):
            now = self.metrics()
            if not (now["verve_requests_running"] or now["verve_requests_waiting"]):
                break
            time.sleep(0.1)
        check("nothing runs or waits afterwards", not (now["verve_requests_running"] or now["verve_requests_waiting"]), now)
        check("no cache is held by a request", now["verve_kv_blocks_used"] == 0, now["verve_kv_blocks_used"])
        check(f"the counter of generated tokens covers all that were received ({self.tokens})",
              now["verve_generated_tokens_total"] >= self.tokens, now["verve_generated_tokens_total"])
        time.sleep(2)
        check("descriptors are given back", self.server.descriptors() <= quiet[1] + 4, (quiet[1], self.server.descriptors()))
        self.counts.clear()
        before = sum(self.failures.counts.values())
        asyncio.run(self.each_alone())
        check("afterwards, alone, the same answers again", sum(self.failures.counts.values()) == before)
        print(f"#     {self.tokens / (time.monotonic() - begin):.0f} tokens/s over all of it", flush=True)

        self.restart(signal.SIGKILL)
        self.restart(signal.SIGTERM)
        self.server.stop()
        text = self.log.read_text(errors="replace")
        check("no panic in the log", "panicked" not in text, text[-2000:])
        check("no prompt in the log", not any(s in text for s in ("lighthouse", "poet of the sea")))
        check("no key in the log", self.key not in text)
        return +self.failures.counts

    def restart(self, how):
        """SIGTERM drains: every answer ends. SIGKILL loses answers, and nothing that was recorded."""
        check = self.failures.check

        async def under_load():
            self.end = time.monotonic() + 3600
            asked = [asyncio.create_task(self.ask(self.rng.randrange(len(self.requests)), self.key, "stream")) for _ in range(16)]
            await asyncio.sleep(0.3)
            os.kill(self.server.process.pid, how)
            begin = time.monotonic()
            if how == signal.SIGTERM:
                # All of them were asked for before the signal, so each either ends well or was not taken (busy).
                outcomes = collections.Counter(await asyncio.gather(*asked))
                return outcomes, time.monotonic() - begin
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            return None, 0

        name = how.name
        before, cut = sum(self.failures.counts.values()), self.failures.counts["an answer was cut"]
        outcomes, _ = asyncio.run(under_load())
        code = self.server.process.wait(60)
        if how == signal.SIGTERM:
            check(f"{name} under load: every answer ends ({dict(outcomes)})",
                  sum(self.failures.counts.values()) == before and outcomes["done"] > 0)
            check(f"{name}: exits with 0", code == 0, code)
        else:
            # What this signal cuts is no failure; what was cut before stays one.
            self.failures.counts["an answer was cut"] = cut
            check(f"{name}: the process is gone", code == -signal.SIGKILL, code)
        self.start()
        status = get(self.port, "/v1/models", self.key)[0]
        check(f"after {name}: the key works", status == 200, status)
        keys = {key["name"]: key for key in self.keys_command("list")}
        guests = [key for key_name, key in keys.items() if key_name.startswith("guest-")]
        check(f"after {name}: revoked keys stay revoked ({len(guests)})", all(g["revoked_at"] for g in guests[:-1]), guests)
        own = keys["soak"]["usage_total"]
        used = own["prompt_tokens"] + own["completion_tokens"]
        check(f"after {name}: usage is kept ({used} tokens)", own["completion_tokens"] >= 0.99 * self.tokens, (own, self.tokens))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--verve", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--seconds", type=float, default=600)
    p.add_argument("--streams", type=int, default=64)
    p.add_argument("--requests", type=int, default=48)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--loris-limit", type=float, default=45, metavar="SECONDS", help="a request that trickles must have been ended by then")
    p.add_argument("--serve-args", default="", help="more arguments of `verve serve`")
    options = p.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(options, pathlib.Path(folder))
        try:
            failures = soak.run()
        finally:
            if hasattr(soak, "server"):
                soak.server.process.kill()
            if +soak.failures.counts and soak.log.exists():
                print("#     the server's last words:\n" + "\n".join(soak.log.read_text(errors="replace").splitlines()[-20:]))
    print("FAILED: " + ", ".join(f"{k} ({n})" for k, n in failures.items()) if failures else "passed")
    sys.exit(bool(failures))


main()
