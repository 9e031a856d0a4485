"""Many connections, open at once; each query gets its own answer."""

import asyncio
import time

from stage import RuntimeUseClient, options, play


async def main(steps, url, count):
    count = int(count)
    all_open = asyncio.Barrier(count)
    opened_at = []

    async def one(n):
        async with RuntimeUseClient(ws_url=url).session() as session:
            await session.query(f"first of {n}", options())
            await all_open.wait()
            opened_at.append(time.monotonic())
            answer = await session.query(f"second of {n}", options())
            # Nobody leaves before everybody has an answer.
            await all_open.wait()
            return answer.data.text

    steps.begin(f"{count} sessions")
    began = time.monotonic()
    answers = await asyncio.gather(*(one(n) for n in range(count)))
    steps.results["wrong"] = [[n, answer] for n, answer in enumerate(answers) if answer != f"second of {n}"]
    steps.results["answers"] = len(answers)
    steps.seconds["until all were open"] = max(opened_at) - began
    steps.seconds["in all"] = time.monotonic() - began


play(main)
