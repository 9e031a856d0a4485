"""Secrets: those of the request and the server's own never come back."""

from stage import RuntimeUseClient, options, play


async def main(steps, url, secret, servers_own):
    messages = []

    async def on_assistant_message(message):
        messages.append(message.text_blocks)

    client = RuntimeUseClient(ws_url=url)

    def query(prompt):
        asked = options(secrets_to_redact=[secret, ""], on_assistant_message=on_assistant_message)
        return client.query(prompt, asked)

    await steps.take("text", query(f"before {secret} after"))
    await steps.take("message", query(f"@text say {secret}{secret}"))
    await steps.take("structured", query('@json {"key": "%s", "%s": [1]}' % (secret, secret)))
    await steps.take("error", query(f"@fail cannot log in with {secret}"))
    await steps.take("the server's own", query(f"key {servers_own}"))
    await steps.take("the next request's list is its own", client.query(f"plain {secret}", options()))
    steps.results["messages"] = messages


play(main)
