"""The client's `idle_timeout` against a query that says nothing for longer than that."""

from stage import RuntimeUseClient, options, play


async def main(steps, url):
    client = RuntimeUseClient(ws_url=url)
    await steps.take("one-shot", client.query("@sleep 4000", options(idle_timeout=1.5)))
    async with client.session() as session:
        await steps.take("in a session", session.query("@sleep 4000", options(idle_timeout=1.5)))


play(main)
