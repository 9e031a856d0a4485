"""Runs a Python handler module for turnhost: loads it, then turns lines of the stdio handler protocol into calls of its
`run(invocation, sender)` and what it does into lines. README.md beside this file tells both sides to people.

Owns: descriptor 3 (lines from the server) and descriptor 4 (lines to it), the event loop, and one thread per turn of a
plain function. Does not own: stdout and stderr, which are log; deadlines, restarts and redaction, which are the server's
business; `state`, which passes through json.loads and json.dumps and is never looked into.

The server feeds this source on stdin: python3 -u - /abs/path/handler.py
"""

import asyncio
import codecs
import contextvars
import functools
import importlib.machinery
import importlib.util
import inspect
import json
import math
import os
import re
import sys
import threading
import time
import traceback
import types

FROM_SERVER, TO_SERVER = 3, 4
BREATHE_EVERY = 128  # awaited sends after which the event loop gets to run once
CANCEL_AFTER = 1.0  # seconds from a cancel to the cancelling of an asyncio task that does not heed its signal
EXIT_AFTER = 0.9  # seconds that running turns have to tidy up once the server is gone; all of it within 1 s
TEXT_MAX, DEPTH_MAX, ITEMS_MAX = 4000, 4, 20  # of values in the metadata of an error
KINDS = {str: "a string", int: "an integer", float: "a number", bool: "a boolean", dict: "a dict", list: "a list of strings"}

loop = asyncio.new_event_loop()
turns = {}  # id -> Turn, the running ones; touched by the event loop's thread only
agent = None  # the module's `run`
stopping = False


# --- Lines to the server ---
encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
# Half a surrogate pair (a string cut inside an emoji) is no character: in what is said it becomes U+FFFD.
codecs.register_error("turnhost", lambda error: (b"\xef\xbf\xbd" * (error.end - error.start), error.end))
write_lock = threading.RLock()


def to_line(fields: dict, state: str = None) -> bytes:
    line = encode(fields).encode("utf-8", "turnhost")
    if state is None:
        return line + b"\n"
    # The state must come back as it went: there, half a pair goes out as the JSON escape it came in as.
    return line[:-1] + b',"state":' + state.encode("utf-8", "backslashreplace") + b"}\n"


def write(line: bytes):
    """Blocks until the pipe has taken the line: who talks faster than the server reads waits, and nothing piles up."""
    rest = memoryview(line)
    with write_lock:
        try:
            while rest:
                rest = rest[os.write(TO_SERVER, rest) :]
        except OSError:
            server_gone()


class HandedOver:
    """What sender calls return. The line is written already: it may be awaited or ignored."""

    awaited = 0

    def __await__(self):
        # Now and then the event loop runs, or a tight loop of awaits would starve pings and never hear of its cancel.
        HandedOver.awaited += 1
        if HandedOver.awaited % BREATHE_EVERY == 0:
            yield


handed_over = HandedOver()


# --- Errors: an exception becomes {"message", "metadata"} of plain JSON ---
OUR_FILES = (to_line.__code__.co_filename, "<frozen importlib")


def describe(error: BaseException) -> dict:
    metadata, details = error_parts(error, 0, [error])
    details.pop("metadata", None)
    if isinstance(getattr(error, "metadata", None), dict):
        metadata.update(plain(error.metadata, 0, [error]))
    if details:
        metadata["error_details"] = details
    return {"message": attempt(lambda: str(error)) or type(error).__name__, "metadata": metadata}


def error_parts(error: BaseException, depth: int, around: list):
    cause = None if error.__cause__ is None else plain(error.__cause__, depth + 1, around)
    head = {"error_name": type(error).__name__, "stack": handler_stack(error), "cause": cause}
    named = dict(vars(error))
    if isinstance(error, OSError):
        named.update(errno=error.errno, strerror=error.strerror, filename=error.filename)
    names = [name for name in named if name not in ("name", "message", "stack", "cause") and named[name] is not None]
    details = {name: plain(named[name], depth + 1, around) for name in names[:ITEMS_MAX] if name[0] != "_"}
    return {name: value for name, value in head.items() if value is not None}, details


def plain(value, depth: int, around: list):
    """The value as JSON that is neither deep nor long. `around` are the containers it is in, to find cycles."""
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if not isinstance(value, (dict, list, tuple, set, frozenset, BaseException)):
        text = value if isinstance(value, str) else attempt(lambda: repr(value)) or ""
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
        head["message"] = plain(attempt(lambda: str(value)), depth, around)
    return {**head, **details}


def handler_stack(error: BaseException):
    """The traceback without frames of ours; None if there are no others."""
    walk = traceback.walk_tb(error.__traceback__)
    frames = [entry for entry in walk if not entry[0].f_code.co_filename.startswith(OUR_FILES)]
    if not frames:
        return None
    lines = ["Traceback (most recent call last):\n", *traceback.StackSummary.extract(iter(frames)).format()]
    text = "".join(lines + traceback.format_exception_only(type(error), error)).rstrip()
    # The end tells more than the start: the innermost frames and the message.
    return text if len(text) <= TEXT_MAX else f"[truncated {len(text) - TEXT_MAX} chars] ...{text[-TEXT_MAX:]}"


def attempt(read):
    try:
        return read()
    except Exception:  # a __str__ or __repr__ that raises must not cost a turn its error
        return None


# --- Results ---
class HandlerResultError(Exception):
    def __str__(self):
        return f"handler result: {self.args[0]}"


def read_result(result):
    """What `run` returned, as (kind, answer, metadata or None, state as JSON text or None)."""
    if isinstance(result, str):
        result = {"type": "text", "text": result}
    kind = result.get("type") if isinstance(result, dict) else None
    if kind == "text":
        answer = result.get("text")
        if not isinstance(answer, str):
            raise HandlerResultError(f'"text" must be a string, got {type_name(answer)}')
    elif kind == "structured_output":
        answer = result.get("structured_output", result.get("structuredOutput"))
        to_json("structured_output", answer, dict)
    else:
        got = f"type {kind!r}" if isinstance(result, dict) else type_name(result)
        raise HandlerResultError(f'expected an object with type "text" or "structured_output", got {got}')
    metadata = result.get("metadata")
    if metadata is not None:
        to_json("metadata", metadata, dict)
    # No key: keep the session's state. None: clear it.
    return kind, answer, metadata, to_json("state", result["state"]) if "state" in result else None


def to_json(name: str, value, wanted: type = object) -> str:
    if not isinstance(value, wanted):
        raise HandlerResultError(f'"{name}" must be an object, got {type_name(value)}')
    try:
        return encode(value)
    except Exception as error:  # TypeError, ValueError, RecursionError, and what a dict of the handler's own may raise
        raise HandlerResultError(f'"{name}" cannot be serialised: {error}') from None


def type_name(value) -> str:
    return "None" if value is None else type(value).__name__


# --- A turn ---
class Signal:
    """Tells a turn that it should stop. Safe to use from every thread and event loop."""

    def __init__(self):
        self._lock = threading.Lock()
        self._callbacks = []
        self.aborted = False

    def add_callback(self, callback):  # called at once if the abort was before
        with self._lock:
            if not self.aborted:
                return self._callbacks.append(callback)
        callback()

    async def wait(self):
        here, event = asyncio.get_running_loop(), asyncio.Event()
        self.add_callback(lambda: here.call_soon_threadsafe(event.set))
        await event.wait()

    def _abort(self):
        with self._lock:
            self.aborted = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            call_back(callback)


def call_back(function, *args):
    """Calls the handler. What goes wrong there is log: none of its own code waits for the call."""
    try:
        result = function(*args)
        if inspect.isawaitable(result):
            asyncio.ensure_future(result, loop=loop)
    except Exception:
        traceback.print_exc()


class Turn:
    def __init__(self, turn_id: str):
        self.id = turn_id
        self.signal = Signal()
        self.ended = False
        self.late_call_told = False
        self.errors = []  # descriptions of what was sent as error or raised; the first decides the outcome
        self.task = None  # what a cancel cancels: set while a coroutine of the handler runs
        self.inputs = []  # steering texts nobody listened to yet
        self.listeners = []
        turns[turn_id] = self

    def say(self, method: str, kind: str, fields: dict) -> HandedOver:
        line = to_line({"type": kind, "id": self.id, **fields})
        with write_lock:  # so that no line can follow the last one of its turn
            if self.is_open(method):
                write(line)
        return handed_over

    def is_open(self, method: str) -> bool:
        if self.ended and not self.late_call_told:
            self.late_call_told = True
            text = f"{method} was called after the turn had ended: dropped, as further calls will be"
            write(to_line({"type": "log", "id": self.id, "level": "debug", "text": text}))
        return not self.ended

    def log(self, level: str, message, *args):
        text = attempt(lambda: str(message) % args if args else str(message)) or " ".join(map(str, (message, *args)))
        self.say("logger", "log", {"level": level, "text": text})

    def cancel(self):
        self.signal._abort()
        if self.task is not None:
            loop.call_later(CANCEL_AFTER, self.task.cancel)

    def input(self, *texts: str):
        self.inputs.extend(texts)
        while self.listeners and self.inputs:
            text = self.inputs.pop(0)
            for listener in self.listeners:
                call_back(listener, text)

    def on_input(self, listener):
        self.listeners.append(listener)
        loop.call_soon_threadsafe(self.input)

    async def run(self, line: dict):
        try:
            result = await self.call_agent(invocation_of(self, line), Sender(self))
            if result is None and self.errors:
                self.end()  # after an error message a bare `return` is the usual way out and no second error
            else:
                self.end(*read_result(result))
        except BaseException as error:  # also CancelledError, and SystemExit, which would end the event loop
            self.fail(error)

    async def call_agent(self, *args):
        if inspect.iscoroutinefunction(agent) or inspect.iscoroutinefunction(getattr(agent, "__call__", None)):
            result = agent(*args)
        else:
            result = await in_thread(agent, *args)
        if inspect.isawaitable(result):
            self.task = asyncio.current_task()
            if self.signal.aborted:
                self.cancel()
            result = await result
        return result

    def fail(self, error: BaseException):
        self.errors.append(describe(error))
        self.end()

    def end(self, kind=None, answer=None, metadata=None, state=None):
        """The one place where a turn ends. The first error decides; all else is attached to it."""
        if self.errors:
            first, *further = self.errors
            attached = dict(first["metadata"])
            if kind is not None:
                attached["result"] = {"data": {"type": kind, kind: answer}, "metadata": metadata or {}}
            if further:
                attached["further_errors"] = [{"error": e["message"], "metadata": e["metadata"]} for e in further]
            fields = {"type": "error", "id": self.id, "message": first["message"], "metadata": attached}
        else:
            fields = {"type": "result", "id": self.id, kind: answer, **({"metadata": metadata} if metadata else {})}
        line = to_line(fields, state)
        with write_lock:
            self.ended = True
            write(line)
        turns.pop(self.id, None)
        if stopping:
            stop()


async def in_thread(function, *args):
    """Runs a plain function, which may block, in a thread of its own."""
    future, context = loop.create_future(), contextvars.copy_context()

    def work():
        try:
            outcome = context.run(function, *args), None
        except BaseException as error:
            outcome = None, error
        loop.call_soon_threadsafe(future.set_result, outcome)

    threading.Thread(target=work, daemon=True).start()
    result, error = await future
    if error is not None:
        raise error
    return result


def invocation_of(turn: Turn, line: dict) -> types.SimpleNamespace:
    levels = {"info": "info", "log": "info", "warning": "warn", "warn": "warn", "error": "error", "debug": "debug"}
    logger = types.SimpleNamespace(**{name: functools.partial(turn.log, level) for name, level in levels.items()})
    given = "system_prompt output_format model env secrets state session_id attempt source_id attachments metadata traceparent tracestate"
    ours = {"turn_id": turn.id, "signal": turn.signal, "logger": logger, "on_input": turn.on_input}
    return types.SimpleNamespace(user_prompt=line["prompt"], **{name: line.get(name) for name in given.split()}, **ours)


def checked(method: str, needed: dict, **optional) -> dict:
    """The arguments that were given; each must be what the method's annotations say."""
    arguments = {**needed, **{name: value for name, value in optional.items() if value is not None}}
    for name, kind in getattr(Sender, method).__annotations__.items():
        value = arguments.get(name)
        fits = isinstance(value, (int, float) if kind is float else kind) or (name in optional and value is None)
        wrong_item = kind is list and fits and not all(isinstance(part, str) for part in value)
        # True is an int to Python, but not to JSON.
        if not fits or wrong_item or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{method}: {name} must be {KINDS[kind]}, got {type_name(value)}")
    return arguments


class Sender:
    """Says what the turn has to say. Every method may be called from any thread, and awaited or not."""

    def __init__(self, turn: Turn):
        self._turn = turn

    def _say(self, method: str, line_type: str, needed: dict, **optional) -> HandedOver:
        fields = checked(method, needed, **optional)
        if "id" in fields:
            fields["call_id"] = fields.pop("id")
        return self._turn.say(method, line_type, fields)

    def send_assistant_message(self, parts: list, block: str = None):
        parts = [parts] if isinstance(parts, str) else parts
        return self._say("send_assistant_message", "text", {"parts": parts}, block=block)

    def send_error_message(self, text: str, metadata: dict = None):
        checked("send_error_message", {"text": text}, metadata=metadata)
        # Copied, since the handler may change its dict later. An error is never lost over its metadata.
        copy = attempt(lambda: json.loads(encode(metadata or {}))) or plain(metadata or {}, 0, [])
        if self._turn.is_open("send_error_message"):
            self._turn.errors.append({"message": text, "metadata": copy})
        return handed_over

    def send_text_delta(self, text: str, block: str = None, discard: bool = None):
        return self._say("send_text_delta", "delta", {"text": text}, block=block, discard=discard)

    def send_thinking(self, text: str):
        return self._say("send_thinking", "thinking", {"text": text})

    def send_tool_use(self, id: str, name: str, input=None):
        return self._say("send_tool_use", "tool_use", {"id": id, "name": name}, input=input)

    def send_tool_result(self, id: str, output: str = "", is_error: bool = False, exit_code: int = None):
        needed = {"id": id, "output": output, "is_error": is_error}
        return self._say("send_tool_result", "tool_result", needed, exit_code=exit_code)

    def send_progress(self, kind: str, detail=None):
        return self._say("send_progress", "progress", {"kind": kind}, detail=detail)

    def send_usage(self, input_tokens: int = 0, output_tokens: int = 0, cached_tokens: int = 0,
                   reasoning_tokens: int = 0, cost_usd: float = None):  # fmt: skip
        counts = {"input_tokens": input_tokens, "output_tokens": output_tokens}
        counts.update(cached_tokens=cached_tokens, reasoning_tokens=reasoning_tokens)
        return self._say("send_usage", "usage", counts, cost_usd=cost_usd)

    def send_warning(self, text: str, field: str = None):
        return self._say("send_warning", "warning", {"text": text}, field=field)


# --- Loading the module ---
def load(path: str):
    """The module's `run`, or the end of the process."""
    sys.path[0] = os.path.dirname(path)  # as for a script, in place of the current folder
    sys.argv = [path]
    name = os.path.splitext(os.path.basename(path))[0]
    if not name.isidentifier() or name in sys.modules or name in getattr(sys, "stdlib_module_names", ()):
        name = "turnhost_handler"
    loader = importlib.machinery.SourceFileLoader(name, path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.modules[name] = module  # dataclasses and pickle look there
    message = f'module at {path} must export an AgentHandler (as default or named "handler")'
    try:
        loader.exec_module(module)
        handler = getattr(module, "handler", None)
        for run in (getattr(handler, "run", None), getattr(module, "run", None), handler):
            if callable(run):
                return run
    except BaseException as error:  # also SystemExit
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename.startswith(OUR_FILES):
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
        message = traceback.format_exception_only(type(error), error)[-1].strip()
    write(to_line({"type": "error", "message": message}))
    os._exit(1)  # not sys.exit, which would wait for threads that the module has started


# --- Lines from the server ---
def read():
    pieces = []  # of a line whose end has not come yet; joined once, so a long line costs no more than its length
    while data := os.read(FROM_SERVER, 256 * 1024):
        pieces.append(data)
        if b"\n" in data:
            lines = b"".join(pieces).split(b"\n")
            pieces = [lines.pop()]
            loop.call_soon_threadsafe(take, lines)
    server_gone()


def take(lines: list[bytes]):
    for text in lines:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:  # for example a number of 5,000 digits in the state
            for known in re.findall(rb'^\{"type":"turn","id":"([^"\\]*)"', text):
                Turn(known.decode()).fail(error.with_traceback(None))
            continue
        turn = turns.get(line.get("id"))
        if line["type"] == "hello":
            capabilities = ["concurrent", "cancel", "steer"]
            write(to_line({"type": "ready", "name": os.path.basename(sys.argv[0]), "capabilities": capabilities}))
        elif line["type"] == "ping":
            write(to_line({"type": "pong", "n": line["n"]}))
        elif line["type"] == "turn":
            turn = Turn(line["id"])
            turn.runner = loop.create_task(turn.run(line))  # kept, since the loop holds its tasks weakly
        elif turn is not None and line["type"] == "cancel":
            turn.cancel()
        elif turn is not None and line["type"] == "input":
            turn.input(line["text"])


# --- Ends ---
def server_gone():
    """Ends the process soon; called from any thread. Whoever still runs may tidy up for a moment."""
    global stopping
    if stopping:
        return
    stopping = True
    threading.Thread(target=lambda: (time.sleep(EXIT_AFTER), os._exit(0)), daemon=True).start()
    loop.call_soon_threadsafe(stop)


def stop():
    for turn in list(turns.values()):
        turn.cancel()
    if not turns:
        loop.stop()


# --- Start ---
globals().pop("__file__", None)  # "<stdin>", which a child of multiprocessing would try to run
sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
for descriptor in (FROM_SERVER, TO_SERVER):
    os.set_inheritable(descriptor, False)  # not for the programs that the handler starts
    os.set_blocking(descriptor, True)
asyncio.set_event_loop(loop)  # before the module loads: what it makes of asyncio must belong to this loop
threading.Thread(target=read, daemon=True).start()
agent = load(sys.argv[1])
loop.run_forever()  # only now `take` gets to run
