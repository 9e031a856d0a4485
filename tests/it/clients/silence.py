"""The client's `idle_timeout` against a query that says nothing for longer than that."""

import asyncio

from stage import RuntimeUseClient, options, play


async def main(steps, url):
    client = RuntimeUseClient(ws_url=url)

    def silent(caller):
        return caller.query("@sleep 7000", options(idle_timeout=3.0))

    async with client.session() as session:
        one_shot = steps.take("one-shot", silent(client))
        await asyncio.gather(one_shot, steps.take("in a session", silent(session)))


play(main)
