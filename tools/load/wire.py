"""The HTTP that the load scripts speak, over plain sockets: nothing to install, nothing between the script and the bytes."""

import asyncio
import json
import pathlib
import socket
import subprocess
import time
import urllib.request


# A configuration file with a filter, so that /v1/moderations has something to answer from.
FILTERS = """
[[serve.moderation.filters]]
name = "test phrase"
words = ["zanzibar lighthouse"]
reason_code = "test_phrase"
category = "violence"
"""


def free_port():
    """A loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def request_bytes(path, body=None, key=None, headers=None, method=None):
    """One HTTP/1.1 request; `body` is an object that becomes JSON, or bytes that go out as they are."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(data)}"]
    if body is not None:
        lines.append("Content-Type: application/json")
    if key:
        lines.append(f"Authorization: Bearer {key}")
    lines += [f"{k}: {v}" for k, v in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def get(port, path, key=None, timeout=10):
    """(status, text) of a GET."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Cut(Exception):
    """The connection ended before the answer did."""


class Connection:
    """One request on one connection, read piece by piece (asyncio)."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.status, self.headers = 0, {}

    @classmethod
    async def open(cls, port, receive_buffer=None):
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return cls(*await asyncio.open_connection(sock=sock, limit=receive_buffer or 2**20))

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def head(self):
        """Reads status and headers; interim answers (100 Continue) are passed over."""
        while True:
            try:
                block = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise Cut("no complete response head") from error
            first, *rest = block.decode("latin-1").rstrip().split("\r\n")
            self.status = int(first.split()[1])
            self.headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in rest)}
            if self.status >= 200:
                return self.status

    async def pieces(self):
        """The body as it arrives; raises Cut unless it is complete by its own framing."""
        try:
            if "chunked" in self.headers.get("transfer-encoding", ""):
                while size := int((await self.reader.readline()).split(b";")[0] or b"x", 16):
                    yield (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readline()
            elif "content-length" in self.headers:
                if length := int(self.headers["content-length"]):
                    yield await self.reader.readexactly(length)
            else:
                while data := await self.reader.read(2**16):
                    yield data
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            raise Cut("the body ended early") from error

    async def body(self):
        return b"".join([piece async for piece in self.pieces()])

    async def events(self):
        """Server-sent events: the text after `data: `, one at a time. Comments are passed over."""
        rest = b""
        async for piece in self.pieces():
            rest += piece
            while (end := rest.find(b"\n\n")) >= 0:
                block, rest = rest[:end], rest[end + 2:]
                for line in block.split(b"\n"):
                    if line.startswith(b"data: "):
                        yield line[6:].decode()

    def close(self):
        self.writer.close()

    def reset(self):
        """Goes away without a word, as a killed process's connection does when data is unread."""
        self.writer.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.writer.transport.abort()


class Server:
    """A server process of ours."""

    def __init__(self, command, port, ready="/ready", log=None, env=None):
        self.port = port
        self.command, self.ready, self.env = command, ready, env
        self.log = open(log, "ab") if log else subprocess.DEVNULL
        self.start_ms = self.start()

    def start(self, timeout=120):
        """Starts it; returns the milliseconds from spawning it until it says that it is ready."""
        begin = time.perf_counter()
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=self.env)
        probe = request_bytes(self.ready, headers={"Connection": "close"})
        while time.perf_counter() - begin < timeout:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                    connection.sendall(probe)
                    if connection.recv(64).startswith(b"HTTP/1.1 200"):
                        return 1e3 * (time.perf_counter() - begin)
            except OSError:
                pass
            if self.process.poll() is not None:
                raise SystemExit(f"{' '.join(self.command)} ended with {self.process.returncode}")
            time.sleep(0.002)
        raise SystemExit(f"{' '.join(self.command)} is not ready after {timeout} s")

    def memory(self):
        """Resident bytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def descriptors(self):
        return len(list(pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def stop(self, timeout=60):
        """SIGTERM, then the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(10)
