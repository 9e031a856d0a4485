"""turnhost in an E2B sandbox, asked over the network.

    make dist && pip install e2b runtimeuse-client && E2B_API_KEY=… python examples/on_e2b.py "Hello"

The calls are those of e2b 2.63. The tests run this file with a stand-in for e2b that works on this machine; it has not been run
at E2B. For a template that has turnhost in it, see e2b.Dockerfile.
"""

import asyncio
import secrets
import sys
from pathlib import Path

from e2b import AsyncSandbox
from runtimeuse_client import QueryOptions, RuntimeUseClient

RELEASE = max(Path("dist").glob("turnhost-*.tar.gz"))
START = "./turnhost --handler handlers/echo.py --host 0.0.0.0 --port 8080 >turnhost.log 2>&1"


async def main(prompt):
    # The sandbox has a public address: who has no token is not let in.
    token = secrets.token_urlsafe()
    sandbox = await AsyncSandbox.create(timeout=600, envs={"TURNHOST_TOKEN": token})
    try:
        await sandbox.files.write("turnhost.tar.gz", RELEASE.read_bytes())
        await sandbox.commands.run("tar -xzf turnhost.tar.gz")
        await sandbox.commands.run(START, background=True, timeout=0)
        await sandbox.commands.run("until grep -qs 'listening on port' turnhost.log; do sleep 0.1; done", timeout=10)
        client = RuntimeUseClient(ws_url=f"wss://{sandbox.get_host(8080)}/?token={token}")
        result = await client.query(prompt, QueryOptions(system_prompt="Be brief.", model="any"))
        print(result.data.text)
    finally:
        await sandbox.kill()


asyncio.run(main(sys.argv[1]))
