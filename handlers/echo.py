"""A complete turnhost handler in Python: says the prompt back, and counts the turns of a session in its state.

Try it: turnhost --handler echo.py. Copy it and put your agent where the echo is; README.md tells what else there is.
"""


async def run(invocation, sender):
    sender.send_assistant_message([f"You said: {invocation.user_prompt}"])

    # The state is whatever this handler returned last in this session; None in the first turn.
    turns = (invocation.state or {}).get("turns", 0) + 1
    return {"type": "text", "text": invocation.user_prompt, "state": {"turns": turns}}
