"""The client's own `timeout`: it stops waiting and tells the server nothing."""

import asyncio

from stage import RuntimeUseClient, options, play


async def main(steps, url):
    client = RuntimeUseClient(ws_url=url)
    await steps.take("one-shot", client.query("@sleep 60000", options(timeout=1.0)))
    await steps.take("after the one-shot", client.query("one-shot again", options()))

    async with client.session() as session:
        await steps.take("in a session", session.query("@sleep 6000", options(timeout=1.0)))
        await steps.take("next in the session", session.query("refused", options()))
        await asyncio.sleep(6.0)  # the first query's result comes meanwhile
        await steps.take("the one after", session.query("gets the first one's result", options()))

    async with client.session() as session:
        await steps.take("in a new session", session.query("a new session", options()))


play(main)
