"""Sandboxes of the stand-in for vercel."""

import subprocess
from contextlib import asynccontextmanager
from types import SimpleNamespace

from machine import Machine


@asynccontextmanager
async def create_sandbox(*, ports, env, execution_time_limit):
    machine = Machine(env, ports)
    try:
        yield Sandbox(machine)
    finally:
        machine.end()


class Sandbox:
    def __init__(self, machine):
        self.machine, self.fs = machine, self
        self.routes = (SimpleNamespace(port=machine.port, url=f"https://{machine.address}"),)

    async def write_bytes(self, path, data):
        self.machine.write(path, data)

    async def run_process(self, command, args, *, check):
        assert check and self.machine.start([command, *args]).wait() == 0

    async def create_process(self, command, args):
        said = self.machine.start([command, *args], stdout=subprocess.PIPE, text=True).stdout
        return SimpleNamespace(stdout=Lines(said))


class Lines:
    def __init__(self, pipe):
        self.pipe = pipe

    async def readline(self):
        return self.pipe.readline()
