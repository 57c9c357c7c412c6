"""An Ollama daemon in a thread of this process, which can be told to fail in a chosen way.

It speaks real HTTP over a real socket, so that resets, silences and half-sent chunks are those of
a network. It knows the routes that the client uses and answers every question with ``pieces``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx

from ollama_bridge.closing import Closing

HTML_PAGE = b"<html>\n<body>Welcome to the proxy</body>\n</html>\n"
_QUESTIONS = ("/api/chat", "/api/generate")
_CONNECTIONS = Path("/proc/net/tcp")
_READ_WITHIN_S = 10.0
CRASH = "an error was encountered while running the model: unexpected EOF"


class Fault(StrEnum):
    """What goes wrong. All but the first five let the answer begin."""

    SILENT = "accepts the connection and says nothing"
    HANG_UP = "closes the connection without an answer"
    BUSY = "answers 503"
    REDIRECT = "sends the client to another machine"
    HTML_PAGE = "answers 200 with the page of a proxy"
    RESET = "resets the connection in the middle of a chunk"
    BAD_CHUNK = "breaks the rules of HTTP in the middle"
    BAD_JSON = "sends half a line in the middle"
    BAD_UTF8 = "sends half a character in the middle"
    NOT_AN_OBJECT = "sends a line that is a list"
    ERROR_LINE = "reports an error in the middle"
    NO_DONE = "ends cleanly before the last line"
    CUT = "ends cleanly in the middle of a character"
    ENDLESS = "sends a line without end"
    STALL = "falls silent before the last line"
    DRIP = "sends the answer byte by byte, slowly"


@dataclass(frozen=True)
class Asked:
    """A request that came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as a value."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Turn:
    """How one question is met; what is None is as for every other.

    Attributes:
        pieces: The answer.
        thinking: Before it.
        fault: What goes wrong.
        refusal: Status and message of an error reply.
        done_reason: Of the terminal event.
        logprobs: What each piece carries.
        thought_logprobs: What each piece of the thinking carries.
        prompt_tokens: As the daemon counts them.
        tool_calls: Name and arguments of the tools that the answer asks for.
    """

    pieces: Sequence[str] | None = None
    thinking: Sequence[str] | None = None
    fault: Fault | None = None
    refusal: tuple[int, str] | None = None
    done_reason: str = "stop"
    logprobs: Sequence[Sequence[Mapping[str, Any]]] | None = None
    thought_logprobs: Sequence[Sequence[Mapping[str, Any]]] | None = None
    prompt_tokens: int = 7
    tool_calls: Sequence[tuple[str, Mapping[str, Any]]] = ()


@dataclass
class FakeDaemon(Closing):
    """Listens on a free port of loopback while its block is entered.

    Attributes:
        pieces: The answer, in the pieces in which it is streamed.
        thinking: Thinking that the daemon itself splits off, before the answer.
        fault: What goes wrong with every answer; None: nothing.
        pause_s: Silence before an answer begins, and between two bytes of a drip.
        final: Fields of the terminal event.
        logprobs: What each piece carries under ``logprobs``.
        renders: Whether it knows ``_debug_render_only``; else it answers as if it were not there.
        statuses: What ``create``, ``pull`` and ``push`` say.
        contained: Whether it is in a container, whose 127.0.0.1 is another.
        models: Tag to the digest of its manifest.
        shown: What ``show`` says of each.
        made: What it says of those that were made with turns in them, besides.
        rendered: Makes a prompt of messages.
        prompt_end: What a rendered prompt ends with.
        context_length: With which each runs. A text to embed may have so many words.
        vram_bytes: Of each that runs, on GPUs.
        left: Those that left memory: their last question said ``keep_alive=0``.
        blobs: Files by digest.
        asked: Every request, in the order of arrival.
        script: Meets every question in a way of its own.
        port: Of loopback; 0: any that is free.
    """

    pieces: Sequence[str] = ("Hel", "lo", "!")
    thinking: Sequence[str] = ()
    fault: Fault | None = None
    pause_s: float = 0.0
    final: dict[str, Any] = field(
        default_factory=lambda: {
            "done_reason": "stop",
            "prompt_eval_count": 7,
            "eval_count": 3,
            "total_duration": 4_000_000_000,
            "load_duration": 1_000_000_000,
            "prompt_eval_duration": 500_000_000,
            "eval_duration": 2_000_000_000,
        }
    )
    logprobs: list[dict[str, Any]] | None = None
    renders: bool = True
    statuses: Sequence[Mapping[str, Any]] = ({"status": "writing manifest"}, {"status": "success"})
    contained: bool = False
    models: dict[str, str] = field(default_factory=lambda: {"m:latest": "d" * 64})
    shown: Mapping[str, Any] = field(
        default_factory=lambda: {
            "modelfile": "FROM x",
            "parameters": "stop x",
            "capabilities": ["tools"],
            "model_info": {},
        }
    )
    made: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    rendered: Callable[[Sequence[Mapping[str, Any]]], str] = lambda messages: "".join(
        f"[{message['role']}]{message['content']}" for message in messages
    )
    prompt_end: str = ""
    context_length: int = 4096
    vram_bytes: int = 2
    left: set[str] = field(default_factory=set)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    script: Callable[[Asked], Turn] | None = None
    port: int = 0

    def __enter__(self) -> Self:
        """Start to listen."""
        self.closing = threading.Event()
        self.connections: list[socket.socket] = []
        handler = type("Handler", (_Handler,), {"daemon": self})
        self._server = _Server(("127.0.0.1", self.port), handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop, and end every silence."""
        self.closing.set()
        self._server.shutdown()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def full_tag(self, tag: str) -> str | None:
        """The name under which there is such a model, if there is one."""
        return next((name for name in (tag, f"{tag}:latest") if name in self.models), None)

    def make(self, request: Mapping[str, Any]) -> None:
        """A tag with turns in it, as a chat saves it."""
        name = request["model"]
        tag = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
        self.made[tag] = {"messages": request["messages"]}
        self.models[tag] = hashlib.sha256(json.dumps(request).encode()).hexdigest()

    @property
    def questions(self) -> list[Any]:
        """The bodies of all questions."""
        return [asked.json for asked in self.asked if self._is_question(asked)]

    def turn(self, asked: Asked) -> Turn:
        """How a request is met."""
        if self.script is not None and self._is_question(asked):
            return self.script(asked)
        return Turn(fault=self.fault)

    def ask_registry(self, name: str) -> None:
        """Ask for a manifest where the name says that one lies: on loopback, else nowhere."""
        host, _, rest = name.partition("/")
        if host.startswith("127.0.0.1:") and not self.contained:
            repository, _, tag = rest.rpartition(":")
            url = f"http://{host}/v2/{repository}/manifests/{tag}"
            httpx.get(url, trust_env=False)

    def embed(self, body: Mapping[str, Any]) -> tuple[int, Sequence[Mapping[str, Any]]]:
        """A vector of each text's number of words, as far as the context goes."""
        texts = body["input"]
        counts = [len(text.split()) for text in ([texts] if isinstance(texts, str) else texts)]
        if max(counts, default=0) > self.context_length and not body["truncate"]:
            return 400, [{"error": "the input length exceeds the context length"}]
        kept = [min(count, self.context_length) for count in counts]
        vectors = [[float(count), 1.0] for count in kept]
        return 200, [{"model": "m:latest", "embeddings": vectors, "prompt_eval_count": sum(kept)}]

    def _is_question(self, asked: Asked) -> bool:
        if asked.path not in _QUESTIONS:
            return False
        return not (self.renders and asked.json.get("_debug_render_only"))

    def answer(self, turn: Turn, *, chat: bool) -> Iterator[dict[str, Any]]:
        """The events of one answer."""
        for number, thought in enumerate(self.thinking if turn.thinking is None else turn.thinking):
            reported = turn.thought_logprobs
            extra = {} if reported is None else {"logprobs": reported[number]}
            yield _event({"thinking": thought, "content": "", "response": ""}, chat=chat) | extra
        for number, piece in enumerate(self.pieces if turn.pieces is None else turn.pieces):
            logprobs = self.logprobs if turn.logprobs is None else turn.logprobs[number]
            extra = {} if logprobs is None else {"logprobs": logprobs}
            yield _event({"content": piece, "response": piece}, chat=chat) | extra
        final = {**self.final, "done": True}
        if self.script is not None:
            final |= {"done_reason": turn.done_reason, "prompt_eval_count": turn.prompt_tokens}
        if turn.tool_calls:
            called = [
                {"id": f"call_{number}", "function": {"name": name, "arguments": arguments}}
                for number, (name, arguments) in enumerate(turn.tool_calls)
            ]
            message = {"role": "assistant", "content": "", "tool_calls": called}
            yield {"model": "m:latest", "done": False, "message": message}
        yield _event({"content": "", "response": ""}, chat=chat) | final


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for them: no thread outlives a test
    request_queue_size = 128  # who has to knock twice waits for a second


def _messages(body: Mapping[str, Any]) -> Any:
    return body.get("messages") or [{"role": "user", "content": body["prompt"]}]


def nobody_listens() -> str:
    """An address of loopback that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def hang_up_late_at_first(daemon: FakeDaemon, *, after_s: float) -> None:
    """Let it give up the first request after a while, and answer all others."""
    is_first = iter([True])

    def turn(asked: Asked) -> Turn:
        if not next(is_first, False):
            return Turn()
        daemon.closing.wait(after_s)
        return Turn(fault=Fault.HANG_UP)

    daemon.turn = turn  # type: ignore[method-assign]


def _event(fields: Mapping[str, Any], *, chat: bool) -> dict[str, Any]:
    names = ("thinking", "content" if chat else "response")
    said = {name: fields[name] for name in names if name in fields}
    inner = {"message": {"role": "assistant", **said}} if chat else said
    return {"model": "m:latest", "done": False, **inner}


class _Handler(BaseHTTPRequestHandler):
    daemon: FakeDaemon
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.daemon.connections.append(self.connection)

    def log_message(self, *args: object) -> None:
        """Say nothing on stderr."""

    def handle(self) -> None:
        # A client that went away is what some tests are about.
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_GET
    do_POST = do_GET
    do_DELETE = do_GET

    def _serve(self) -> None:
        body = self._body()
        if body is None:  # the client was killed while it asked
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, self.path, headers, body)
        self.daemon.asked.append(asked)
        self.turn = self.daemon.turn(asked)
        if not self._fails_at_once():
            status, lines = self._route(asked)
            self._send(status, [json.dumps(line).encode() + b"\n" for line in lines])

    def _body(self) -> bytes | None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline() or b"0", 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        return body if len(body) == size else None

    def _route(self, asked: Asked) -> tuple[int, Sequence[Mapping[str, Any]]]:
        daemon = self.daemon
        if asked.path.startswith("/api/blobs/"):
            return self._blob(asked.path.removeprefix("/api/blobs/"), asked)
        match asked.path:
            case "/api/version":
                return 200, [{"version": "0.34.4"}]
            case "/api/tags" | "/api/ps":
                context = {"context_length": daemon.context_length, "size_vram": daemon.vram_bytes}
                gone = daemon.left if asked.path == "/api/ps" else ()
                found = [item for item in daemon.models.items() if item[0] not in gone]
                listed = [_listed(*item) | context for item in found]
                return 200, [{"models": listed}]
            case "/api/create" | "/api/pull" | "/api/push":
                if asked.path == "/api/pull":
                    daemon.ask_registry(asked.json["model"])
                elif asked.json.get("messages"):
                    daemon.make(asked.json)
                return 200, list(daemon.statuses)
        wanted = asked.json.get("model", asked.json.get("source"))
        tag = daemon.full_tag(wanted)
        if tag is None:
            return 404, [{"error": f"model '{wanted}' not found"}]
        match asked.path:
            case "/api/show":
                return 200, [{**daemon.shown, **daemon.made.get(tag, {})}]
            case "/api/copy":
                daemon.models[asked.json["destination"]] = daemon.models[tag]
                return 200, []
            case "/api/delete":
                del daemon.models[tag]
                return 200, []
        if asked.json.get("keep_alive") == 0:
            daemon.left.add(tag)
        else:
            daemon.left.discard(tag)
        if asked.path == "/api/embed":
            return daemon.embed(asked.json)
        if self.turn.refusal is not None:
            status, message = self.turn.refusal
            return status, [{"error": message}]
        if daemon.renders and asked.json.get("_debug_render_only"):
            text = daemon.rendered(_messages(asked.json))
            return 200, [{"_debug_info": {"rendered_template": text + daemon.prompt_end}}]
        events = list(daemon.answer(self.turn, chat=asked.path == "/api/chat"))
        return 200, events if asked.json.get("stream", True) else events[-1:]

    def _blob(self, digest: str, asked: Asked) -> tuple[int, Sequence[Mapping[str, Any]]]:
        if asked.method == "HEAD":
            return (200 if digest in self.daemon.blobs else 404), []
        found = "sha256:" + hashlib.sha256(asked.body).hexdigest()
        if found != digest:
            return 400, [{"error": f'digest mismatch, expected "{digest}", got "{found}"'}]
        self.daemon.blobs[digest] = asked.body
        return 201, []

    def _fails_at_once(self) -> bool:
        match self.turn.fault:
            case Fault.SILENT:
                self._wait()
            case Fault.HANG_UP:
                pass
            case Fault.BUSY:
                self._send_whole(503, b'{"error":"server busy, please try again"}')
                return True
            case Fault.REDIRECT:
                self.send_response(307)
                self.send_header("Location", "http://192.0.2.1/api/version")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return True
            case Fault.HTML_PAGE:
                self._send_whole(200, HTML_PAGE)
                return True
            case _:
                return False
        self.close_connection = True
        return True

    def _send_whole(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send(self, status: int, lines: list[bytes]) -> None:
        self._wait(self.daemon.pause_s)
        fault = self.turn.fault
        if self.command == "HEAD" or not lines or status >= 400:
            self._send_whole(status, b"".join(lines))
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if fault is Fault.DRIP:
            for byte in b"".join(lines):
                self._wait(self.daemon.pause_s)
                self._chunk(bytes([byte]))
            self._chunk(b"")
            return
        for line in lines[:-1]:
            self._chunk(line)
        self._break(lines[-1])

    def _break(self, last: bytes) -> None:
        match self.turn.fault:
            case None:
                self._chunk(last)
            case Fault.RESET:
                self.wfile.write(b"%x\r\n%b" % (len(last), last[: len(last) // 2]))
                # Closing with data unsent after zero seconds is a reset.
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.close_connection = True
                self._wait_until_read()
                self.connection.close()
                return
            case Fault.BAD_CHUNK:
                self.wfile.write(b"not a length\r\n")
                self.close_connection = True
                return
            case Fault.BAD_JSON:
                self._chunk(last[: len(last) // 2] + b"\n")
            case Fault.BAD_UTF8:
                self._chunk(b'{"response": "\xc3"}\n')
            case Fault.NOT_AN_OBJECT:
                self._chunk(b"[1, 2]\n")
            case Fault.ERROR_LINE:
                self._chunk(json.dumps({"error": CRASH}).encode() + b"\n")
            case Fault.CUT:
                self._chunk('{"response": "é'.encode()[:-1])
            case Fault.ENDLESS:
                while not self.daemon.closing.is_set():
                    self._chunk(b"x" * (1 << 20))
            case Fault.STALL:
                self._wait()
                self.close_connection = True
                return
            case _:
                pass
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _wait_until_read(self) -> None:
        """Until the client has taken what was sent: a reset throws the rest away."""
        if not _CONNECTIONS.exists():  # not Linux
            self._wait(0.5)
            return
        until_s = time.monotonic() + _READ_WITHIN_S
        while self._unread_bytes() and time.monotonic() < until_s:
            self._wait(0.005)

    def _unread_bytes(self) -> int:
        ours, theirs = self.connection.getsockname()[1], self.client_address[1]
        for line in _CONNECTIONS.read_text(encoding="ascii").splitlines()[1:]:
            _, local, remote, _, queues = line.split()[:5]
            if local.endswith(f":{theirs:04X}") and remote.endswith(f":{ours:04X}"):
                return int(queues.partition(":")[2], 16)
        return 0

    def _wait(self, seconds: float | None = None) -> None:
        if seconds != 0.0:
            self.daemon.closing.wait(seconds)


def _listed(tag: str, digest: str) -> dict[str, Any]:
    return {
        "model": tag,
        "name": tag,
        "digest": digest,
        "size": 5,
        "size_vram": 2,
        "modified_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-01-01T00:05:00Z",
    }
