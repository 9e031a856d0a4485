"""turnhost in a Modal sandbox, asked over the network.

    make dist && pip install modal runtimeuse-client && modal setup && python examples/on_modal.py "Hello"

The calls are those of modal 1.6. The tests run this file with a stand-in for modal that works on this machine; it has not been run
at Modal.
"""

import asyncio
import secrets
import sys
from pathlib import Path

import modal
from runtimeuse_client import QueryOptions, RuntimeUseClient

RELEASE = max(Path("dist").glob("turnhost-*.tar.gz"))


def main(prompt):
    token = secrets.token_urlsafe()
    app = modal.App.lookup("turnhost", create_if_missing=True)
    image = modal.Image.debian_slim().add_local_file(RELEASE, "/opt/turnhost.tar.gz", copy=True)
    image = image.run_commands("tar -xzf /opt/turnhost.tar.gz -C /opt")
    command = ["/opt/turnhost", "--handler", "/opt/handlers/echo.py", "--host", "0.0.0.0", "--port", "8080"]
    secret = modal.Secret.from_dict({"TURNHOST_TOKEN": token})
    sandbox = modal.Sandbox.create(*command, app=app, image=image, secrets=[secret], encrypted_ports=[8080], timeout=600)
    try:
        # The first thing that turnhost says is that it listens.
        next(iter(sandbox.stdout))
        address = sandbox.tunnels()[8080].url.replace("https://", "wss://")
        client = RuntimeUseClient(ws_url=f"{address}/?token={token}")
        result = asyncio.run(client.query(prompt, QueryOptions(system_prompt="Be brief.", model="any")))
        print(result.data.text)
    finally:
        sandbox.terminate()


main(sys.argv[1])
