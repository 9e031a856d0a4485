"""What the client programs beside this file stand on. Each runs the real `runtimeuse-client` against a server and prints
one JSON object: what each of its steps came to. The Rust tests say what that must be.

Started as: python PROGRAM.py URL [ARGUMENT ...]
"""

import asyncio
import json
import logging
import os
import sys
import threading
import time

# A stack trace would print lines of the client's own source, which is not ours to read.
sys.tracebacklimit = 0

from runtimeuse_client import AgentRuntimeError, CancelledException, QueryOptions, RuntimeUseClient  # noqa: E402, F401

DEADLINE = 45.0  # seconds; the tests wait a little longer, so that it is this side that tells what hung


class Log(logging.Handler):
    """Keeps what the client logs: its messages only, no stack traces."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


class Steps:
    """The named steps of a program: what each came to, and how long it took."""

    def __init__(self):
        self.began = time.monotonic()
        self.doing = "starting"
        self.results = {}
        self.seconds = {}

    def begin(self, name):
        self.doing = name
        print(f"{time.monotonic() - self.began:.3f} s: {name}", file=sys.stderr, flush=True)

    async def take(self, name, awaitable):
        """Takes one step, and notes what came of it: its value, or what it raised."""
        self.begin(name)
        began = time.monotonic()
        self.results[name] = await outcome(awaitable)
        self.seconds[name] = time.monotonic() - began
        return self.results[name]


def options(**given):
    """The options of a query. The client demands a system prompt and a model."""
    return QueryOptions(**{"system_prompt": "Be brief.", "model": "test-model", **given})


async def outcome(awaitable):
    """What a call came to, as JSON: every part of it that a user of the client can see."""
    try:
        result = await awaitable
    except AgentRuntimeError as error:
        return {"raised": "AgentRuntimeError", "error": error.error, "metadata": error.metadata, "shown": str(error)}
    except CancelledException as error:
        return {"raised": "CancelledException", "shown": str(error)}
    except Exception as error:
        return {"raised": type(error).__name__, "shown": str(error)}
    if not hasattr(result, "data"):
        return result
    data = result.data
    if data.type == "text":
        return {"text": data.text, "metadata": result.metadata}
    return {"structured_output": data.structured_output, "metadata": result.metadata}


def play(program):
    """Runs `program(steps, url, *arguments)` and prints its results. A program that hangs says in which step."""
    log = Log()
    logging.getLogger().addHandler(log)
    steps = Steps()

    def hang():
        print(f"hung for {DEADLINE} s in all, last in: {steps.doing}", file=sys.stderr, flush=True)
        os._exit(3)

    watchdog = threading.Timer(DEADLINE, hang)
    watchdog.daemon = True
    watchdog.start()
    try:
        asyncio.run(program(steps, *sys.argv[1:]))
    except BaseException as error:
        print(f"broke off in {steps.doing}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(4)
    print(json.dumps({**steps.results, "seconds": steps.seconds, "client_log": log.messages}), flush=True)
