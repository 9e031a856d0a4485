"""Claude through Anthropic's own SDK. Carries the conversation, streams, can be cancelled and steered. To copy and change.

    python3 -m venv venv && venv/bin/pip install claude-agent-sdk==0.2.186
    ANTHROPIC_API_KEY=… turnhost --handler handlers/claude_agent_sdk.py --python venv/bin/python
"""

import sys

# Only because this file is called as the SDK is: the import would find the file.
sys.path.pop(0)
sys.modules.pop(__name__, None)

import claude_agent_sdk as sdk  # noqa: E402


async def run(invocation, sender):
    options = sdk.ClaudeAgentOptions(
        resume=(invocation.state or {}).get("session_id"),
        system_prompt=invocation.system_prompt,
        model=invocation.model,
        output_format=invocation.output_format,
        env={"IS_SANDBOX": "1", **(invocation.env or {})},  # allows what follows to root, too
        permission_mode="bypassPermissions",
        setting_sources=[],
        include_partial_messages=True,
    )
    result = None
    async with sdk.ClaudeSDKClient(options) as client:
        invocation.signal.add_callback(client.interrupt)
        invocation.on_input(client.query)
        await client.query(invocation.user_prompt)
        async for message in client.receive_response():
            if isinstance(message, sdk.StreamEvent) and message.event.get("delta", {}).get("type") == "text_delta":
                sender.send_text_delta(message.event["delta"]["text"])
            elif isinstance(message, sdk.AssistantMessage) and not message.error:
                for block in message.content:
                    if isinstance(block, sdk.TextBlock):
                        sender.send_assistant_message(block.text)
                    elif isinstance(block, sdk.ThinkingBlock):
                        sender.send_thinking(block.thinking)
                    elif isinstance(block, sdk.ToolUseBlock):
                        sender.send_tool_use(block.id, block.name, block.input)
            elif isinstance(message, sdk.UserMessage) and isinstance(message.content, list):
                for block in (block for block in message.content if isinstance(block, sdk.ToolResultBlock)):
                    parts = [{"text": block.content}] if isinstance(block.content, str) else block.content or []
                    output = "\n".join(part.get("text", "[image]") for part in parts)
                    sender.send_tool_result(block.tool_use_id, output, bool(block.is_error))
            elif isinstance(message, sdk.ResultMessage):
                result = message
    if result is None:
        raise RuntimeError("Claude Code ended in the middle of the turn")
    metadata = {"session_id": result.session_id, "total_cost_usd": result.total_cost_usd, "usage": result.usage}
    if result.is_error:
        return sender.send_error_message(result.result or f"Agent ended with {result.subtype}", metadata)
    structured = {"type": "structured_output", "structured_output": result.structured_output}
    answer = structured if invocation.output_format else {"type": "text", "text": result.result or ""}
    return {**answer, "metadata": metadata, "state": {"session_id": result.session_id}}
