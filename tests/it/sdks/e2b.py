"""Stands in for e2b: the calls that examples/on_e2b.py makes, on this machine."""

from machine import Machine


class AsyncSandbox:
    @classmethod
    async def create(cls, *, timeout, envs):
        assert timeout <= 3600
        sandbox = cls()
        sandbox.files = sandbox.commands = sandbox
        sandbox.envs, sandbox.machine = envs, Machine(envs, [8080])
        return sandbox

    async def write(self, path, data):
        self.machine.write(path, data)

    async def run(self, cmd, background=None, timeout=60):
        if background:
            # E2B ends a program at its timeout, in the background, too.
            assert timeout == 0
            self.machine.start(["bash", "-l", "-c", cmd])
        else:
            self.machine.shell(cmd, timeout)

    def get_host(self, port):
        assert port == 8080
        return self.machine.address

    async def kill(self):
        self.machine.end()
        return True
