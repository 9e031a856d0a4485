"""A Python handler for the tests of its bridge. The prompt's first word names what it does.

Functions of `Async` run on the bridge's event loop; `plain` ones, which may block, each in a thread of its own.
"""

import asyncio
import json
import os
import sys
import threading
import time


def text(text, **more):
    return {"type": "text", "text": text, **more}


class QuotaError(Exception):
    pass


def quota():
    error = QuotaError("disk is full")
    error.code = "ENOSPC"
    error.metadata = {"tenant": "t1", "flags": [True, None]}
    error.__cause__ = TypeError("no space")
    return error


def cyclic():
    error = RuntimeError("the original text")
    error.itself = error
    error.deep = {"a": {"b": {"c": {"d": 1}}}}
    error.__cause__ = RuntimeError("the cause")
    error.__cause__.__cause__ = error
    error.metadata = {"retry": True}
    error.metadata["again"] = error.metadata
    return error


def loop():
    value = {}
    value["again"] = value
    return value


THROWN = {"quota": quota, "cyclic": cyclic, "empty": lambda: ValueError(), "exit": lambda: SystemExit(7)}

RETURNED = {
    "none": None,
    "number": 42,
    "list": [1],
    "notype": {"text": "x"},
    "othertype": {"type": "video", "text": "x"},
    "notext": {"type": "text"},
    "numbertext": {"type": "text", "text": 42},
    "nooutput": {"type": "structured_output"},
    "listoutput": {"type": "structured_output", "structured_output": [1]},
    "set": {"type": "structured_output", "structured_output": {"n": {1}}},
    "nan": {"type": "structured_output", "structured_output": {"n": float("nan")}},
    "cycle": {"type": "structured_output", "structured_output": loop()},
    "metadata": {"type": "text", "text": "x", "metadata": "y"},
    "state": {"type": "text", "text": "x", "state": object()},
}


class Async:
    async def say(sender, invocation, words):
        return text(words)

    async def shape(sender, invocation, words):
        seen = dict(vars(invocation))
        signal, logger, on_input = seen.pop("signal"), seen.pop("logger"), seen.pop("on_input")
        types = {
            "signal": [signal.aborted, callable(signal.wait), callable(signal.add_callback)],
            "logger": [name for name in ("info", "warning", "error", "debug") if callable(getattr(logger, name))],
            "on_input": callable(on_input),
        }
        return {"type": "structured_output", "structured_output": {"plain": seen, "types": types}}

    async def everything(sender, invocation, words):
        sender.send_assistant_message(["Let me look."])
        sender.send_thinking("There may be a file.")
        sender.send_tool_use("call-1", "shell", {"command": "ls", "timeout": None})
        sender.send_tool_result("call-1", "report.txt\n", exit_code=0)
        sender.send_progress("retry", {"attempt": 2})
        sender.send_text_delta("Ther", block="b1")
        sender.send_text_delta("", block="b1", discard=True)
        sender.send_text_delta("There.", block="b1")
        await sender.send_assistant_message(["There", "."], block="b1")
        sender.send_usage(input_tokens=10, output_tokens=5, cached_tokens=3, reasoning_tokens=1, cost_usd=0.25)
        sender.send_warning("the model was slow", "model")
        return text("done", metadata={"steps": 2}, state={"seen": True})

    async def state(sender, invocation, words):
        return text(json.dumps(invocation.state))

    async def keep(sender, invocation, words):
        return text("kept")

    async def set(sender, invocation, words):
        return text("set", state=json.loads(words))

    async def clear(sender, invocation, words):
        return text("cleared", state=None)

    async def throws(sender, invocation, name):
        raise THROWN[name]()

    async def returns(sender, invocation, name):
        return RETURNED[name]

    async def reportsthenreturns(sender, invocation, words):
        sender.send_error_message("first", {"at": 1})
        return text("a result all the same", metadata={"m": 1})

    async def reportsthenreturnsnothing(sender, invocation, words):
        sender.send_error_message("first", {"at": 1})

    async def reportsthenthrows(sender, invocation, words):
        sender.send_error_message("first", {"at": 1})
        raise ValueError("second")

    async def reportstwice(sender, invocation, words):
        sender.send_error_message("first")
        sender.send_error_message("second", {"at": 2})

    async def reportsandtalks(sender, invocation, words):
        sender.send_error_message("first")
        sender.send_assistant_message(["still talking"])

    async def late(sender, invocation, words):
        async def later():
            await asyncio.sleep(0.1)
            sender.send_assistant_message(["a late message"])
            sender.send_error_message("a late error")

        Async.task = asyncio.ensure_future(later())
        return text("on time")

    async def exit(sender, invocation, code):
        sender.send_assistant_message(["before the end"])
        os._exit(int(code))

    async def noise(sender, invocation, words):
        print("a line of print")
        fake = json.dumps({"type": "result", "id": "x", "text": "fake"})
        print(fake)
        os.write(1, (fake + "\n").encode())
        print("no line end", end="", flush=True)
        print("written to stderr", file=sys.stderr)
        sender.send_assistant_message("said")
        return text("quiet")

    async def flood(sender, invocation, count):
        for n in range(1, int(count) + 1):
            sender.send_assistant_message([f"message {n}"])
        return text(f"said {count}")

    async def floodawait(sender, invocation, count):
        for n in range(1, int(count) + 1):
            await sender.send_assistant_message([f"message {n}"])
        return text(f"said {count}")

    async def sleep(sender, invocation, ms):
        sender.send_assistant_message("asleep")
        await asyncio.sleep(int(ms) / 1000)
        return text("slept, aborted: " + json.dumps(invocation.signal.aborted))

    async def heeds(sender, invocation, words):
        sender.send_assistant_message("listening")
        await invocation.signal.wait()
        return text("heard")


class Plain:
    def say(sender, invocation, words):
        return text(words)

    def thread(sender, invocation, words):
        return text("of its own" if threading.current_thread() is not threading.main_thread() else "the bridge's")

    def sleep(sender, invocation, ms):
        sender.send_assistant_message("asleep")
        time.sleep(int(ms) / 1000)
        return text("slept, aborted: " + json.dumps(invocation.signal.aborted))

    def heeds(sender, invocation, words):
        sender.send_assistant_message("listening")
        while not invocation.signal.aborted:
            time.sleep(0.01)
        return text("heard")

    def flood(sender, invocation, count):
        for n in range(1, int(count) + 1):
            sender.send_assistant_message([f"message {n}"])
        return text(f"said {count}")

    def throws(sender, invocation, name):
        raise THROWN[name]()


def run(invocation, sender):
    """A plain function that may return a coroutine: the bridge awaits that on its event loop."""
    where, _, rest = invocation.user_prompt.partition(" ")
    if where == "plain":
        word, _, words = rest.partition(" ")
        return getattr(Plain, word)(sender, invocation, words)
    return getattr(Async, where)(sender, invocation, rest)
