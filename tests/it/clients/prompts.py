"""The prompts given as arguments, one after the other in one session, with the messages of each."""

from stage import RuntimeUseClient, options, play


async def main(steps, url, *prompts):
    messages = []

    async def on_assistant_message(message):
        messages.append(message.text_blocks)

    async with RuntimeUseClient(ws_url=url).session() as session:
        for n, prompt in enumerate(prompts):
            asked = options(on_assistant_message=on_assistant_message)
            answer = await steps.take(f"{n}", session.query(prompt, asked))
            answer["messages"] = list(messages)
            messages.clear()
        steps.begin("end of the session")


play(main)
