"""One-shot calls: a text, a structured answer, everything a request carries, an error."""

from stage import RuntimeUseClient, options, play


async def main(steps, url):
    client = RuntimeUseClient(ws_url=url)
    await steps.take("text", client.query("hello", options()))
    await steps.take("unicode", client.query("Grüße \U0001f44b\n\tline \"two\" \\ end\u2028", options()))
    await steps.take("empty", client.query("", options()))
    await steps.take("structured", client.query('@json {"answer": 42, "list": ["\u00e4", null]}', options()))
    asked = options(
        system_prompt="You are helpful.",
        model="gpt-test",
        source_id="run-1",
        agent_env={"REGION": "eu", "EMPTY": ""},
        output_format_json_schema_str='{"type":"json_schema","schema":{"type":"object","required":["a"]}}',
    )
    await steps.take("shown", client.query("@show", asked))
    await steps.take("error", client.query("@fail disk is full", options()))
    await steps.take("after the error", client.query("still there", options()))


play(main)
