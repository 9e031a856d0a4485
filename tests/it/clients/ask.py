"""Queries as the second argument lists them, in one session: [{"prompt", "abort_when"?, OPTION...}, ...], and the
messages that came with each. A query is aborted when the file `abort_when` is there, which is removed then.
"""

import asyncio
import json
import os

from stage import RuntimeUseClient, options, play


async def abort_when(path, session):
    while not os.path.exists(path):
        await asyncio.sleep(0.01)
    os.remove(path)
    session.abort()


async def main(steps, url, asked):
    messages = []

    async def on_assistant_message(message):
        messages.append(message.text_blocks)

    async with RuntimeUseClient(ws_url=url).session() as session:
        for n, one in enumerate(json.loads(asked)):
            prompt, when = one.pop("prompt"), one.pop("abort_when", None)
            aborting = when and asyncio.create_task(abort_when(when, session))
            query = session.query(prompt, options(on_assistant_message=on_assistant_message, **one))
            answer = await steps.take(f"{n}", query)
            answer["messages"] = list(messages)
            messages.clear()
            if aborting:
                await aborting
        steps.begin("end of the session")


play(main)
