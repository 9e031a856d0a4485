"""A machine of the stand-ins for the platforms' SDKs: a folder, programs that run in it, and one port that leads to another."""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile

from runtimeuse_client import RuntimeUseClient

MACHINES = []
make_client = RuntimeUseClient.__init__


def without_tls(self, ws_url, **more):
    # The platforms end TLS in front of the sandbox.
    make_client(self, ws_url=ws_url.replace("wss://", "ws://"), **more)


RuntimeUseClient.__init__ = without_tls


class Machine:
    def __init__(self, environment, ports):
        (self.port,) = ports
        self.folder = tempfile.mkdtemp(prefix="machine")
        self.environment = {"PATH": os.environ["PATH"], "HOME": self.folder, "TURNHOST_DATA_DIR": "memory", **environment}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % free.getsockname()[1]
        self.started = []
        MACHINES.append(self)

    def write(self, path, content):
        assert not os.path.isabs(path) and isinstance(content, bytes), path
        with open(os.path.join(self.folder, path), "wb") as file:
            file.write(content)

    def start(self, arguments, **more):
        """Starts a program with the machine's port as it is here."""
        mine = self.address.split(":")[1]
        arguments = [word.replace(f"--port {self.port}", f"--port {mine}") for word in arguments]
        if "--port" in arguments:
            at = arguments.index("--port") + 1
            assert arguments[at] == str(self.port), arguments
            arguments[at] = mine
        program = subprocess.Popen(arguments, cwd=self.folder, env=self.environment, start_new_session=True, **more)
        self.started.append(program)
        return program

    def shell(self, command, timeout=60):
        assert self.start(["bash", "-c", command]).wait(timeout) == 0, command

    def end(self):
        for program in self.started:
            try:
                os.killpg(program.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            program.wait()
        shutil.rmtree(self.folder)
        MACHINES.remove(self)


@atexit.register
def nothing_is_left():
    for left in list(MACHINES):
        left.end()
        print("a sandbox was not given back")
