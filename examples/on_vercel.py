"""turnhost in a Vercel sandbox, asked over the network.

    make dist && pip install vercel runtimeuse-client && vercel env pull && python examples/on_vercel.py "Hello"

The calls are those of vercel-sandbox 0.10. The tests run this file with a stand-in for vercel that works on this machine; it has not
been run at Vercel.
"""

import asyncio
import secrets
import sys
from pathlib import Path

from runtimeuse_client import QueryOptions, RuntimeUseClient
from vercel.api import session
from vercel.sandbox import create_sandbox

RELEASE = max(Path("dist").glob("turnhost-*.tar.gz"))


async def main(prompt):
    token = secrets.token_urlsafe()
    # The sandbox goes with the block.
    create = create_sandbox(ports=[3000], env={"TURNHOST_TOKEN": token}, execution_time_limit=600)
    async with session(), create as sandbox:
        await sandbox.fs.write_bytes("turnhost.tar.gz", RELEASE.read_bytes())
        await sandbox.run_process("tar", ["-xzf", "turnhost.tar.gz"], check=True)
        arguments = ["--handler", "handlers/echo.py", "--host", "0.0.0.0", "--port", "3000"]
        server = await sandbox.create_process("./turnhost", arguments)
        # The first thing that turnhost says is that it listens.
        await server.stdout.readline()
        address = next(route.url for route in sandbox.routes if route.port == 3000).replace("https://", "wss://")
        client = RuntimeUseClient(ws_url=f"{address}/?token={token}")
        result = await client.query(prompt, QueryOptions(system_prompt="Be brief.", model="any"))
        print(result.data.text)


asyncio.run(main(sys.argv[1]))
