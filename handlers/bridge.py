"""Runs a Python handler module for turnhost: loads it, then turns lines of the stdio handler protocol into calls of its
`run(invocation, sender)` and what it does into lines. README.md beside this file tells both sides to people.

Owns: descriptor 3 (lines from the server) and descriptor 4 (lines to it), the event loop, and one thread per turn of a
plain function. Does not own: stdout and stderr, which are log; deadlines, restarts and redaction, which are the server's
business; `state`, which passes through json.loads and json.dumps and is never looked into.

The server feeds this source on stdin: python3 -u - /abs/path/handler.py
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import contextvars
import functools
import importlib.machinery
import importlib.util
import inspect
import json
import math
import os
import re
import signal
import sys
import threading
import traceback
import types

FROM_SERVER, TO_SERVER = 3, 4
BREATHE_EVERY = 128  # awaited sends after which the event loop gets to run once
CANCEL_AFTER = 1.0  # seconds from a cancel to the cancelling of an asyncio task that does not heed its signal
EXIT_AFTER = 0.9  # seconds that running turns have to tidy up once the server is gone; all of it within 1 s
TEXT_MAX, DEPTH_MAX, ITEMS_MAX = 4000, 4, 20  # of values in the metadata of an error

loop = asyncio.new_event_loop()
finished = loop.create_future()  # done when the process is to end
turns: dict[str, Turn] = {}  # the running ones; touched by the event loop's thread only
agent = None  # the module's `run`
stopping = False  # the server is gone


# --- Lines to the server ---
encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
# Half a surrogate pair (a string cut inside an emoji) is no character: in what is said it becomes U+FFFD.
codecs.register_error("turnhost", lambda error: ("\ufffd" * (error.end - error.start), error.end))
write_lock = threading.RLock()


def to_line(fields: dict, state: str | None = None) -> bytes:
    line = encode(fields).encode("utf-8", "turnhost")
    if state is None:
        return line + b"\n"
    # The state must come back as it went: there, half a pair goes out as the JSON escape it came in as.
    return line[:-1] + b',"state":' + state.encode("utf-8", "backslashreplace") + b"}\n"


def write(line: bytes):
    """Blocks until the server has taken the line: a handler that talks faster than the server reads is held back, and
    nothing piles up in memory."""
    rest = memoryview(line)
    with write_lock:
        try:
            while rest and not stopping:
                rest = rest[os.write(TO_SERVER, rest) :]
        except OSError:
            server_gone()


class HandedOver:
    """What sender calls return. The line is written already, so it may be awaited or ignored. Now and then awaiting it
    lets the event loop run, or a handler that awaits in a tight loop would starve pings and never learn of its cancel."""

    awaited = 0

    def __await__(self):
        HandedOver.awaited += 1
        if HandedOver.awaited % BREATHE_EVERY == 0:
            yield


handed_over = HandedOver()


# --- Errors: an exception becomes {"message", "metadata"} of plain JSON ---
def describe(error: BaseException) -> dict:
    metadata, details = error_parts(error, 0, [error])
    details.pop("metadata", None)
    if isinstance(getattr(error, "metadata", None), dict):
        metadata.update(plain(error.metadata, 0, [error]))
    if details:
        metadata["error_details"] = details
    return {"message": text_of(str, error) or type(error).__name__, "metadata": metadata}


def error_parts(error: BaseException, depth: int, around: list) -> tuple[dict, dict]:
    cause = None if error.__cause__ is None else plain(error.__cause__, depth + 1, around)
    head = {"error_name": type(error).__name__, "stack": handler_stack(error), "cause": cause}
    named = {name: value for name, value in getattr(error, "__dict__", {}).items() if not name.startswith("_")}
    if isinstance(error, OSError):
        named.update(errno=error.errno, strerror=error.strerror, filename=error.filename)
    names = [name for name in named if name not in ("name", "message", "stack", "cause") and named[name] is not None]
    details = {name: plain(named[name], depth + 1, around) for name in names[:ITEMS_MAX]}
    return {name: value for name, value in head.items() if value is not None}, details


def plain(value, depth: int, around: list):
    """The value as JSON that is neither deep nor long. `around` are the containers it is in, to find cycles."""
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if not isinstance(value, (dict, list, tuple, set, frozenset, BaseException)):
        text = value if isinstance(value, str) else text_of(repr, value)
        return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}... [truncated {len(text) - TEXT_MAX} chars]"
    if any(value is outer for outer in around):
        return "[circular]"
    if depth >= DEPTH_MAX:
        return "[max depth reached]"
    around = [*around, value]
    if isinstance(value, dict):
        return {str(key): plain(value[key], depth + 1, around) for key in list(value)[:ITEMS_MAX]}
    if not isinstance(value, BaseException):
        return [plain(item, depth + 1, around) for item in list(value)[:ITEMS_MAX]]
    head, details = error_parts(value, depth, around)
    if "stack" not in head:  # a stack ends with the message; without a stack it would be lost
        head["message"] = plain(text_of(str, value), depth, around)
    return {**head, **details}


def handler_stack(error: BaseException) -> str | None:
    """The traceback without frames of this file; None if there are no others."""
    frames = [entry for entry in traceback.walk_tb(error.__traceback__) if not is_ours(entry[0])]
    if not frames:
        return None
    lines = ["Traceback (most recent call last):\n", *traceback.StackSummary.extract(iter(frames)).format()]
    text = "".join(lines + traceback.format_exception_only(type(error), error)).rstrip()
    # The end tells more than the start: the innermost frames and the message.
    return text if len(text) <= TEXT_MAX else f"[truncated {len(text) - TEXT_MAX} chars] ...{text[-TEXT_MAX:]}"


def is_ours(frame) -> bool:
    return frame.f_code.co_filename.startswith((is_ours.__code__.co_filename, "<frozen importlib"))


def text_of(how, value) -> str:
    try:
        return how(value)
    except Exception:  # a __str__ or __repr__ that raises must not cost a turn its error
        return ""


# --- Results ---
class HandlerResultError(Exception):
    def __init__(self, defect: str):
        super().__init__(f"handler result: {defect}")


def read_result(result):
    """What `run` returned, as (data, metadata or None, state as JSON text or None)."""
    if isinstance(result, str):
        return {"type": "text", "text": result}, None, None
    kind = result.get("type") if isinstance(result, dict) else None
    if kind not in ("text", "structured_output"):
        got = f"type {encode(str(kind))}" if isinstance(result, dict) else type_name(result)
        raise HandlerResultError(f'expected an object with type "text" or "structured_output", got {got}')
    answer = result.get(kind, result.get("structuredOutput") if kind == "structured_output" else None)
    if kind == "text" and not isinstance(answer, str):
        raise HandlerResultError(f'"text" must be a string, got {type_name(answer)}')
    metadata = result.get("metadata")
    for name, value in {} if kind == "text" else {kind: answer}, ...:
        pass
