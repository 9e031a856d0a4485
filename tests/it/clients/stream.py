"""Many messages of one query, in order and all before the result."""

from stage import RuntimeUseClient, options, play


async def main(steps, url, prompt):
    messages = []

    async def on_assistant_message(message):
        messages.extend(message.text_blocks)

    client = RuntimeUseClient(ws_url=url)
    await steps.take("stream", client.query(prompt, options(on_assistant_message=on_assistant_message)))
    # Those that came by the time of the result; a late one would be missing.
    steps.results["messages"] = list(messages)


play(main)
