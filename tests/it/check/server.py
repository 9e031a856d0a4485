"""A server of dari-runtime-v1 that is not ours: right as it is, wrong in one way when it is told to be.

server.py FAULT PORT-OF-THE-MANIFEST
"""

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULT = sys.argv[1]
PORT = int(sys.argv[2]) if FAULT == "other-port" else int(os.environ["PORT"])

answers = {}  # by message id; a lock for each, so that a retry waits for the turn that runs
locks = {}
looking = {}  # by message id: how many requests have not looked yet whether their caller is still there
guard = threading.Lock()
count = 0
running = 0
block = threading.Lock()


def words(value):
    """The last text of a user in any of the forms."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        found = [words(item) for item in value]
        return next((text for text in reversed(found) if text), None)
    if isinstance(value, dict):
        for key in ("text", "content", "parts", "messages", "message"):
            if words(value.get(key)):
                return words(value[key])
    return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # the head and the body of an answer in one packet

    def log_message(self, *_):
        pass

    def answer(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def problem(self, status, detail):
        self.answer(status, json.dumps({"detail": detail}).encode())

    def do_GET(self):
        if FAULT == "all-paths":
            return self.answer(200, b'{"ok":true}')
        if self.path != ("/healthz" if FAULT == "other-health" else "/health"):
            return self.problem(405 if self.path == "/runtime/advance" else 404, "no")
        if FAULT == "slow-health":
            time.sleep(0.2)
        if FAULT == "blocking":
            with block:
                pass
        if FAULT == "unhealthy":
            return self.answer(503, b'{"ok":false}')
        self.answer(200, b'{"ok":true}')

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != "/runtime/advance":
            return self.problem(404, "not found")
        if FAULT == "no-kind" and not self.headers.get("Content-Type"):
            return self.problem(415, "what is this?")
        if FAULT == "small-bodies" and len(raw) > 1 << 20:
            return self.problem(413, "too large")
        try:
            body = json.loads(raw)
            assert isinstance(body, dict)
        except (ValueError, AssertionError):
            if FAULT == "fragile":
                os._exit(6)
            return self.problem(500 if FAULT == "trips" else 400, "request body is not valid JSON")
        self.turn(body)

    def turn(self, body):
        global count, running
        if FAULT == "needs-state" and "state" not in body:
            return self.problem(422, "state is missing")
        text = words(body.get("input"))
        if text is None:
            return self.problem(500 if FAULT == "needs-input" else 422, "no user input found")
        if FAULT == "objects-only" and not (isinstance(body["input"], dict) and "text" in body["input"]):
            return self.problem(422, "input has no text")
        with guard:
            count += 1
            mine = count
            session = body.get("session_id")
            message = locks.setdefault(body["message_id"], threading.Lock())
            busy = running > 0
            running += 1
            looking[body["message_id"]] = looking.get(body["message_id"], 0) + 1
        try:
            if FAULT == "one-at-a-time" and busy:
                return self.problem(503, "busy")
            if FAULT == "conflict" and session.endswith("order"):
                order = locks.setdefault(session, threading.Lock())
                if not order.acquire(blocking=False):
                    return self.problem(409, "the session is busy")
                time.sleep(0.1)
                order.release()
            if FAULT == "one-at-a-time":
                time.sleep(0.1)
            if FAULT == "blocking" and "busy" in session:
                with block:
                    time.sleep(1.5)
            if FAULT == "gone":
                time.sleep(0.1)
                if select.select([self.connection], [], [], 0)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                    os._exit(9)
                with guard:
                    looking[body["message_id"]] -= 1
                # A retry is not answered before what was lost has been noticed.
                while looking[body["message_id"]]:
                    time.sleep(0.01)
            if FAULT == "runs-again":
                return self.say(self.made(body, text, mine))
            if FAULT == "runs-twice":
                if body["message_id"] not in answers:
                    time.sleep(0.3)
                    made = self.made(body, text, mine)
                    answers.setdefault(body["message_id"], made)
                    return self.say(made)
                return self.say(answers[body["message_id"]])
            with message:
                if body["message_id"] not in answers:
                    answers[body["message_id"]] = self.made(body, text, mine)
                self.say(answers[body["message_id"]])
        finally:
            with guard:
                running -= 1

    def made(self, body, text, mine):
        if FAULT == "crash" and mine == 2:
            print("the second turn was too much", file=sys.stderr, flush=True)
            os._exit(7)
        if FAULT == "broken":
            return "broken"
        state = body.get("state") or {}
        turns = (0 if FAULT == "forgets" else state.get("turns", 0)) + 1
        said = {"text": "You said: " + text[:100], "state": {"turns": turns}}
        if FAULT in ("runs-again", "runs-twice"):
            said["text"] += f" ({mine})"
        if FAULT == "no-text":
            del said["text"]
        if FAULT == "empty-text":
            said["text"] = ""
        if FAULT == "more-keys":
            said["usage"] = {"tokens": 3}
        return json.dumps(said)

    def say(self, text):
        if text == "broken":
            return self.problem(500, "model not found")
        if FAULT == "plain":
            text = json.loads(text)["text"]
        kind = "text/plain" if FAULT == "wrong-kind" else "application/json"
        if FAULT == "says-twice":
            text += text
        self.answer(200, text.encode(), kind)
        if FAULT == "answers-twice":
            self.answer(200, text.encode())


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


if FAULT == "ends":
    print("no module named agent", file=sys.stderr, flush=True)
    sys.exit(3)
if FAULT == "late":
    time.sleep(60)
if FAULT == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if FAULT == "ends-badly":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
if FAULT == "here":
    open("server.py").close()  # only where this file is

Server(("127.0.0.1" if FAULT == "loopback" else "0.0.0.0", PORT), Handler).serve_forever()
