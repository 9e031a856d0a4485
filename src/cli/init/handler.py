"""The agent of this bundle. Put yours where the echo is."""


async def run(invocation, sender):
    # Said piece by piece, as a model says it.
    sender.send_text_delta("You said: ")
    sender.send_text_delta(invocation.user_prompt)
    answer = f"You said: {invocation.user_prompt}"
    sender.send_assistant_message([answer])

    # The state is whatever was returned last in this session; None in the first turn.
    turns = (invocation.state or {}).get("turns", 0) + 1
    return {"type": "text", "text": answer, "state": {"turns": turns}}
