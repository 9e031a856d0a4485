"""One session, rounds of queries of every kind; each gets its own answer."""

import asyncio

from stage import RuntimeUseClient, options, play


async def main(steps, url, rounds):
    said = []

    async def on_assistant_message(message):
        said.append(message.text_blocks)

    async with RuntimeUseClient(ws_url=url).session() as session:
        for n in range(int(rounds)):
            await steps.take(f"text {n}", session.query(f"prompt {n}", options()))
            await steps.take(f"failing {n}", session.query(f"@fail reason {n}", options()))
            await steps.take(f"structured {n}", session.query('@json {"n": %d}' % n, options()))
            asyncio.get_running_loop().call_later(0.1, session.abort)
            await steps.take(f"aborted {n}", session.query("@sleep 60000", options()))
            speaking = options(on_assistant_message=on_assistant_message)
            await steps.take(f"speaking {n}", session.query(f"@text message {n}", speaking))
        steps.begin("end of the session")
    steps.results["said"] = said


play(main)
