"""turnhost in a Docker container, asked over the network.

    pip install runtimeuse-client && python examples/on_docker.py "Hello"

Builds the image of the repository's Dockerfile. The tests run this file with a stand-in for docker that starts the image's command
on this machine, and read the Dockerfile; no image has been built.
"""

import asyncio
import os
import secrets
import subprocess
import sys
import time

from runtimeuse_client import QueryOptions, RuntimeUseClient


def docker(*arguments, **options):
    return subprocess.run(["docker", *arguments], check=True, stdout=subprocess.PIPE, text=True, **options).stdout.strip()


def main(prompt):
    token = secrets.token_urlsafe()
    docker("build", "--tag", "turnhost", ".")
    # Named, not given, so that the token is not seen in a list of processes.
    environment = {**os.environ, "TURNHOST_TOKEN": token}
    container = docker("run", "--detach", "--rm", "--env", "TURNHOST_TOKEN", "--publish", "127.0.0.1::8080", "turnhost", env=environment)
    try:
        while "listening on port" not in docker("logs", container):
            time.sleep(0.1)
        address = docker("port", container, "8080/tcp")
        client = RuntimeUseClient(ws_url=f"ws://{address}/?token={token}")
        result = asyncio.run(client.query(prompt, QueryOptions(system_prompt="Be brief.", model="any")))
        print(result.data.text)
    finally:
        docker("kill", container)


main(sys.argv[1])
