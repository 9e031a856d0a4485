"""What Dari does with a bundle: starts the command of dari.yml, waits for its health, and posts one turn for each argument, handing the
state of one answer to the next.

    TURNHOST_BINARY=bin/turnhost sudo -E ./setup.sh && python examples/on_dari.py "Hello" "And again"

Needs nothing but Python. turnhost implements the documented contract of dari-runtime-v1; the platform's own service has not been
reached. The tests run this file as it is.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

BUNDLE = Path(os.environ.get("BUNDLE", "."))


def setting(name):
    return re.search(rf"^ +{name}: (.*)$", (BUNDLE / "dari.yml").read_text(), re.M)[1]


def main(prompts):
    # The platform may choose another port than that of the manifest, and says so in PORT.
    port = os.environ.get("PORT", setting("port"))
    environment = {"PORT": port, "PATH": os.environ.get("PATH", os.defpath)}
    server = subprocess.Popen(shlex.split(setting("command")), cwd="/", env=environment, stdout=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"
    try:
        while not is_healthy(base + setting("health_path")):
            if server.poll() is not None:
                sys.exit("the command of dari.yml ended")
            time.sleep(0.1)
        state = None
        for number, prompt in enumerate(prompts, 1):
            turn = {"input": prompt, "session_id": "example", "message_id": f"message-{number}", "state": state}
            request = urllib.request.Request(base + setting("advance_path"), json.dumps(turn).encode())
            answer = json.load(urllib.request.urlopen(request))
            print(answer["text"], "| state:", json.dumps(answer.get("state")))
            # No key means: as it was. An explicit null clears it.
            state = answer.get("state", state)
    finally:
        server.terminate()
        server.wait()


def is_healthy(url):
    try:
        return urllib.request.urlopen(url).status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


main(sys.argv[1:])
