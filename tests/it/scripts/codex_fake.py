#!/usr/bin/env python3
"""A `codex app-server` that does what the real one rarely does. The prompt says what, FAKE_START how it begins."""

import json
import os
import sys
import time

THREAD, TURN = "thread-1", "turn-1"


def send(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def tell(method, **params):
    send(method=method, params={"threadId": THREAD, "turnId": TURN, **params})


def read():
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    return json.loads(line)


def read_until(method):
    while True:
        message = read()
        if message.get("method") == method:
            return message


def started():
    send(method="turn/started", params={"threadId": THREAD, "turn": {"id": TURN, "status": "inProgress"}})


def message(text, name="m1"):
    tell("item/started", item={"type": "agentMessage", "id": name, "text": ""})
    tell("item/agentMessage/delta", itemId=name, delta=text)
    tell("item/completed", item={"type": "agentMessage", "id": name, "text": text})


def ended(status="completed", error=None):
    turn = {"id": TURN, "status": status, "error": error}
    send(method="turn/completed", params={"threadId": THREAD, "turn": turn})


def command(name):
    return {"type": "commandExecution", "id": name, "command": "make", "status": "inProgress"}


def play(prompt, reply):
    """Plays one turn; `reply` answers its request."""
    if prompt == "early":
        started()
        message("before the reply")
        ended()
        return reply()
    reply()
    started()
    if prompt == "ask":
        answers = []
        for method in ["item/commandExecution/requestApproval", "item/fileChange/requestApproval", "item/new/request"]:
            send(id=len(answers), method=method, params={"threadId": THREAD})
            answer = read()
            answers.append(answer.get("result", {}).get("decision") or answer["error"]["code"])
        message(json.dumps(answers))
    elif prompt == "noise":
        print("no JSON at all")
        print("{half of it")
        print("x" * 100_000)
        print('{"method":"' + "y" * (80 << 20) + '"}')
        tell("item/unheard/of", item={"type": 3})
        tell("item/started", item={"type": 3})
        tell("item/completed", item=None)
        send(method="unheard/of")
        send(id="strange", result=1)
        send(id=10_000, error="strange")
        tell("item/started", item={"type": "unheardOf", "id": "u1"})
        message("heard " + "z" * 1_000_000)
    elif prompt == "open":
        tell("item/started", item=command("c1"))
        tell("item/commandExecution/outputDelta", itemId="c1", delta="half")
        tell("item/started", item={"type": "agentMessage", "id": "m0", "text": ""})
        tell("item/agentMessage/delta", itemId="m0", delta="thrown away")
        tell("item/completed", item={**command("c2"), "status": "completed", "exitCode": 0, "aggregatedOutput": "out"})
        tell("item/completed", turnId="turn-0", item={**command("c3"), "status": "completed"})
        tools = {"server": "files", "tool": "read", "arguments": {"path": "x"}, "status": "completed"}
        result = {"content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}
        tell("item/completed", item={"type": "mcpToolCall", "id": "c4", **tools, "result": result})
        message("done")
    elif prompt == "deaf":
        tell("item/agentMessage/delta", itemId="m1", delta="I go on")
        while True:
            read()
    elif prompt == "late":
        message("first")
        steer = read_until("turn/steer")
        ended()
        send(id=steer["id"], error={"code": -32600, "message": "no active turn to steer"})
        return
    elif prompt == "stop":
        message("half")
        return ended("interrupted")
    elif prompt == "retry":
        while True:
            error = {"message": "Reconnecting...", "additionalDetails": "no network", "codexErrorInfo": "other"}
            tell("error", error=error, willRetry=True)
            time.sleep(0.05)
    elif prompt == "aside":
        print("one aside\nanother", file=sys.stderr, flush=True)
        time.sleep(0.3)
        tell("item/completed", item={"type": "unheardOf", "id": "u2"})
        message("said")
    elif prompt == "crash":
        print("the end is near", file=sys.stderr)
        sys.exit(7)
    else:
        message("you said " + prompt)
    ended()


def main():
    start = os.environ.get("FAKE_START")
    if start == "crash":
        print("bad configuration", file=sys.stderr)
        sys.exit(3)
    hello = read_until("initialize")
    if start == "silent":
        read_until("nothing")
    send(id=hello["id"], result={"userAgent": "fake"})
    read_until("initialized")
    while True:
        request = read()
        method, number = request.get("method"), request.get("id")
        if method in ("thread/start", "thread/resume"):
            send(id=number, result={"thread": {"id": THREAD}})
        elif method == "turn/start":
            prompt = request["params"]["input"][0]["text"]
            play(prompt, lambda: send(id=number, result={"turn": {"id": TURN, "status": "inProgress"}}))
        elif number is not None and method:
            send(id=number, error={"code": -32600, "message": "unknown"})


main()
