"""The same query by several URLs."""

from stage import RuntimeUseClient, options, play


async def main(steps, *urls):
    for n, url in enumerate(urls):
        await steps.take(f"{n}", RuntimeUseClient(ws_url=url).query("let me in", options()))


play(main)
