"""Aborted queries, one-shot and within a session, and the query after each."""

import asyncio

from stage import RuntimeUseClient, options, play


async def aborted(caller, prompt, after=0.3):
    """The query; it is aborted while it runs."""
    asyncio.get_running_loop().call_later(after, caller.abort)
    return await caller.query(prompt, options())


async def main(steps, url, prompt):
    client = RuntimeUseClient(ws_url=url)
    await steps.take("one-shot", aborted(client, prompt))
    await steps.take("after the one-shot", RuntimeUseClient(ws_url=url).query("next", options()))
    async with client.session() as session:
        await steps.take("in a session", aborted(session, prompt))
        await steps.take("after it in the session", session.query("next in the session", options()))
        await steps.take("again", aborted(session, prompt))
        await steps.take("after again", session.query("last", options()))
        steps.begin("end of the session")


play(main)
