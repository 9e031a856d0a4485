"""The end of a session, after a query and after nothing."""

import time

from stage import RuntimeUseClient, options, play


async def main(steps, url):
    client = RuntimeUseClient(ws_url=url)
    for n in range(4):
        async with client.session() as session:
            if n % 2 == 0:
                await steps.take(f"query {n}", session.query("hello", options()))
            steps.begin(f"leaving {n}")
            began = time.monotonic()
        steps.seconds[f"leaving {n}"] = time.monotonic() - began


play(main)
