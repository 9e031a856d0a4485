"""Answers and messages of about a million bytes; the client takes frames of up to 1,048,576."""

from stage import RuntimeUseClient, options, play


async def main(steps, url):
    client = RuntimeUseClient(ws_url=url)
    prompts = {
        "plain": "x" * 1_000_000,
        "three bytes each": "\u20ac" * 333_333 + "x",  # 1,000,000 bytes of UTF-8
        "escaped": '"' * 500_000,  # 1,000,000 bytes of JSON
    }
    for name, prompt in prompts.items():
        answer = await steps.take(name, client.query(prompt, options()))
        # Compared here: a result of a million characters says nothing to a reader of the test's output.
        steps.results[name] = answer if answer.get("text") != prompt else "as it was asked"
    messages = []

    async def on_assistant_message(message):
        messages.extend(message.text_blocks)

    asked = options(on_assistant_message=on_assistant_message)
    await steps.take("message", client.query("@stream 3 1000000", asked))
    steps.results["lengths"] = [len(message) for message in messages]


play(main)
