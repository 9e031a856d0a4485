"""Queries as the second argument lists them, in one session: [{"prompt", "abort_after"?, OPTION...}, ...], and the
messages that came with each.
"""

import asyncio
import json

from stage import RuntimeUseClient, options, play


async def main(steps, url, asked):
    messages = []

    async def on_assistant_message(message):
        messages.append(message.text_blocks)

    async with RuntimeUseClient(ws_url=url).session() as session:
        for n, one in enumerate(json.loads(asked)):
            prompt, after = one.pop("prompt"), one.pop("abort_after", None)
            if after is not None:
                asyncio.get_running_loop().call_later(after, session.abort)
            query = session.query(prompt, options(on_assistant_message=on_assistant_message, **one))
            answer = await steps.take(f"{n}", query)
            answer["messages"] = list(messages)
            messages.clear()
        steps.begin("end of the session")


play(main)
