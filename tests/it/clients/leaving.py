"""The end of a session, after a query and after nothing."""

import time

from stage import RuntimeUseClient, options, play


async def main(steps, url):
    client = RuntimeUseClient(ws_url=url)
    async with client.session() as session:
        await steps.take("query", session.query("hello", options()))
        steps.begin("leaving an idle session")
        began = time.monotonic()
    steps.seconds["leaving an idle session"] = time.monotonic() - began

    async with client.session():
        steps.begin("leaving a session that did nothing")
        began = time.monotonic()
    steps.seconds["leaving a session that did nothing"] = time.monotonic() - began


play(main)
