"""Stands in for modal: the calls that examples/on_modal.py makes, on this machine."""

import shutil
import subprocess
from types import SimpleNamespace

from machine import Machine


class App:
    @staticmethod
    def lookup(name, *, create_if_missing):
        return name


class Secret:
    @staticmethod
    def from_dict(env_dict):
        return env_dict


class Image:
    """Its /opt is the machine's folder."""

    def __init__(self, files=(), commands=()):
        self.files, self.commands = files, commands

    @staticmethod
    def debian_slim():
        return Image()

    def add_local_file(self, local_path, remote_path, *, copy):
        # What a later command of the image needs must be copied into it.
        assert copy and local_path.is_file()
        return Image((*self.files, (local_path, remote_path)), self.commands)

    def run_commands(self, *commands):
        return Image(self.files, (*self.commands, *commands))


class Sandbox:
    @staticmethod
    def create(*args, app, image, secrets, encrypted_ports, timeout):
        sandbox = Sandbox()
        sandbox.machine = machine = Machine({key: value for secret in secrets for key, value in secret.items()}, encrypted_ports)
        for here, there in image.files:
            shutil.copy(here, there.replace("/opt", machine.folder))
        for command in image.commands:
            machine.shell(command.replace("/opt", machine.folder))
        command = [word.replace("/opt", machine.folder) for word in args]
        sandbox.stdout = machine.start(command, stdout=subprocess.PIPE, text=True).stdout
        return sandbox

    def tunnels(self):
        return {self.machine.port: SimpleNamespace(url=f"https://{self.machine.address}")}

    def terminate(self):
        self.machine.end()
