"""Stands in for daytona: the calls that examples/on_daytona.py makes, on this machine."""

from types import SimpleNamespace

from machine import Machine


class CreateSandboxFromSnapshotParams:
    def __init__(self, *, env_vars):
        self.env_vars = env_vars


class SessionExecuteRequest:
    def __init__(self, *, command, run_async):
        assert run_async
        self.command = command


class AsyncDaytona:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def create(self, params):
        return Sandbox(Machine(params.env_vars, [8080]))


class Sandbox:
    def __init__(self, machine):
        self.machine, self.sessions = machine, set()
        self.fs = self.process = self

    async def upload_file(self, src, dst):
        self.machine.write(dst, src)

    async def exec(self, command, timeout=None):
        self.machine.shell(command, timeout)

    async def create_session(self, session_id):
        self.sessions.add(session_id)

    async def execute_session_command(self, session_id, req):
        assert session_id in self.sessions
        self.machine.start(["bash", "-c", req.command])

    async def create_signed_preview_url(self, port, expires_in_seconds=None):
        assert port == 8080
        return SimpleNamespace(url=f"https://{self.machine.address}")

    async def delete(self):
        self.machine.end()
