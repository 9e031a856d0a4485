"""Commands: alone, before and after a query, failing, aborted, with secrets."""

import asyncio

from stage import RuntimeUseClient, options, play
from runtimeuse_client import CommandInterface, ExecuteCommandsOptions


def commands(*texts):
    return [CommandInterface(command=text) for text in texts]


async def results(call):
    return [item.model_dump() for item in (await call).results]


async def main(steps, url, folder):
    heard = []

    async def on_command_output(message):
        heard.append([message.stream, message.text, message.command])

    def execution(**given):
        return ExecuteCommandsOptions(on_command_output=on_command_output, **given)

    client = RuntimeUseClient(ws_url=url)
    hello = commands("echo hello; echo warned >&2", "true")
    await steps.take("one shot", results(client.execute_commands(hello, execution())))
    steps.results["heard"] = sorted(heard)
    await steps.take("failing", results(client.execute_commands(commands("echo a", "exit 2", "echo c"), execution())))
    there = [CommandInterface(command="pwd; echo $GIVEN", cwd=folder + "/made", env={"GIVEN": "yes"})]
    await steps.take("there", results(client.execute_commands(there, execution())))
    heard.clear()
    secret = execution(secrets_to_redact=["s3cr3t-value"])
    await steps.take("secret", results(client.execute_commands(commands("echo is s3cr3t-value"), secret)))
    steps.results["secret heard"] = list(heard)
    large = commands("head -c 3000000 /dev/zero | tr '\\0' x")
    heard.clear()
    large = await client.execute_commands(large, execution())
    steps.results["large"] = [len(large.results[0].stdout), sum(len(text) for _, text, _ in heard)]
    around = options(
        pre_agent_invocation_commands=commands("echo before"),
        post_agent_invocation_commands=commands("echo after"),
        on_command_output=on_command_output,
    )
    heard.clear()
    await steps.take("around", client.query("in between", around))
    steps.results["around heard"] = [text for _, text, _ in heard]
    await steps.take("pre fails", client.query("no", options(pre_agent_invocation_commands=commands("exit 3"))))
    post = options(post_agent_invocation_commands=commands("echo told >&2; exit 4"))
    await steps.take("post fails", client.query("kept", post))
    async with client.session() as session:
        await steps.take("session command", results(session.execute_commands(commands("echo 1"), execution())))
        await steps.take("session query", session.query("2", options()))
        asyncio.get_running_loop().call_later(0.2, session.abort)
        await steps.take("session abort", session.execute_commands(commands("sleep 60"), execution()))
        await steps.take("after the abort", results(session.execute_commands(commands("echo 3"), execution())))
        await steps.take("last query", session.query("4", options()))
        steps.begin("end of the session")


play(main)
