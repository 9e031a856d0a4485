"""The handler of `make soak`: says the prompt back after a while, and dies when it is told to."""

import asyncio
import os


async def run(invocation, sender):
    words = invocation.user_prompt.split()
    if words[0] == "crash":
        os._exit(7)
    for _ in range(int(words[1]) // 20):
        sender.send_assistant_message(["working"])
        await asyncio.sleep(0.02)
    return {"type": "text", "text": invocation.user_prompt, "state": {"turns": (invocation.state or {}).get("turns", 0) + 1}}
