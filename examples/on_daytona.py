"""turnhost in a Daytona sandbox, asked over the network.

    make dist && pip install daytona runtimeuse-client && DAYTONA_API_KEY=… python examples/on_daytona.py "Hello"

The calls are those of daytona 0.226. The tests run this file with a stand-in for daytona that works on this machine; it has not
been run at Daytona.
"""

import asyncio
import secrets
import sys
from pathlib import Path

from daytona import AsyncDaytona, CreateSandboxFromSnapshotParams, SessionExecuteRequest
from runtimeuse_client import QueryOptions, RuntimeUseClient

RELEASE = max(Path("dist").glob("turnhost-*.tar.gz"))
START = "./turnhost --handler handlers/echo.py --host 0.0.0.0 --port 8080 >turnhost.log 2>&1"


async def main(prompt):
    token = secrets.token_urlsafe()
    async with AsyncDaytona() as daytona:
        sandbox = await daytona.create(CreateSandboxFromSnapshotParams(env_vars={"TURNHOST_TOKEN": token}))
        try:
            await sandbox.fs.upload_file(RELEASE.read_bytes(), "turnhost.tar.gz")
            await sandbox.process.exec("tar -xzf turnhost.tar.gz")
            await sandbox.process.create_session("turnhost")
            await sandbox.process.execute_session_command("turnhost", SessionExecuteRequest(command=START, run_async=True))
            await sandbox.process.exec("until grep -qs 'listening on port' turnhost.log; do sleep 0.1; done", timeout=10)
            # A client of WebSockets that cannot send Daytona's header gets in by an address that is signed.
            preview = await sandbox.create_signed_preview_url(8080, expires_in_seconds=600)
            address = preview.url.rstrip("/").replace("https://", "wss://")
            client = RuntimeUseClient(ws_url=f"{address}/?token={token}")
            result = await client.query(prompt, QueryOptions(system_prompt="Be brief.", model="any"))
            print(result.data.text)
        finally:
            await sandbox.delete()


asyncio.run(main(sys.argv[1]))
