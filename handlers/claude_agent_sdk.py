"""Claude through Anthropic's own SDK. Carries the conversation, streams, can be cancelled and steered. To copy and change.

    python3 -m venv venv && venv/bin/pip install claude-agent-sdk==0.2.186
    ANTHROPIC_API_KEY=… turnhost --handler handlers/claude_agent_sdk.py --python venv/bin/python
"""

import sys

# Not needed under another name: this file is called as the SDK is, and the import would find the file.
sys.path.pop(0)
sys.modules.pop(__name__, None)

from claude_agent_sdk import (  # noqa: E402
    AssistantMessage, ClaudeAgentOptions, ClaudeSDKClient, ResultMessage, StreamEvent, TextBlock, ThinkingBlock,
    ToolResultBlock, ToolUseBlock, UserMessage,
)


async def run(invocation, sender):
    options = ClaudeAgentOptions(
        resume=(invocation.state or {}).get("session_id"),
        system_prompt=invocation.system_prompt,
        model=invocation.model,
        output_format=invocation.output_format,
        env={"IS_SANDBOX": "1", **(invocation.env or {})},  # allows what follows to root, too
        permission_mode="bypassPermissions",
        setting_sources=[],
        include_partial_messages=True,
    )
    async with ClaudeSDKClient(options) as client:
        invocation.signal.add_callback(client.interrupt)
        invocation.on_input(client.query)
        await client.query(invocation.user_prompt)
        async for message in client.receive_response():
            if isinstance(message, StreamEvent) and message.event.get("delta", {}).get("type") == "text_delta":
                sender.send_text_delta(message.event["delta"]["text"])
            elif isinstance(message, AssistantMessage) and not message.error:
                for block in message.content:
                    if isinstance(block, TextBlock):
                        sender.send_assistant_message(block.text)
                    elif isinstance(block, ThinkingBlock):
                        sender.send_thinking(block.thinking)
                    elif isinstance(block, ToolUseBlock):
                        sender.send_tool_use(block.id, block.name, block.input)
            elif isinstance(message, UserMessage) and isinstance(message.content, list):
                for block in message.content:
                    if isinstance(block, ToolResultBlock):
                        sender.send_tool_result(block.tool_use_id, str(block.content), bool(block.is_error))
            elif isinstance(message, ResultMessage):
                result = message
    metadata = {"session_id": result.session_id, "total_cost_usd": result.total_cost_usd, "usage": result.usage}
    if result.is_error:
        return sender.send_error_message(result.result or f"Agent ended with {result.subtype}", metadata)
    answer = {"type": "text", "text": result.result or ""}
    if result.structured_output is not None:
        answer = {"type": "structured_output", "structured_output": result.structured_output}
    return {**answer, "metadata": metadata, "state": {"session_id": result.session_id}}
