"""Behaviours of commands, downloads, artifacts, redaction and sessions, one step each, named after the specification."""

import asyncio

from stage import RuntimeUseClient, options, play
from runtimeuse_client import ArtifactUploadResult, CommandInterface, ExecuteCommandsOptions
from runtimeuse_client import RuntimeEnvironmentDownloadableInterface as Downloadable


async def main(steps, url, files, folder):
    client = RuntimeUseClient(ws_url=url)
    heard, asked = [], []

    async def on_command_output(message):
        heard.append(message)

    def uploads(treatment):
        async def on_artifact_upload_request(message):
            asked.append(message.filepath.removeprefix(folder + "/"))
            to = f"{files}/{treatment}/{message.filepath.removeprefix(folder + '/')}"
            return ArtifactUploadResult(presigned_url=to, content_type="text/plain")

        return on_artifact_upload_request

    async def run(session, text, **given):
        heard.clear()
        command = CommandInterface(command=text)
        asking = ExecuteCommandsOptions(on_command_output=on_command_output, **given)
        result = (await session.execute_commands([command], asking)).results[0]
        return [result.exit_code, result.stdout]

    async def fetch(treatment, then, name="fetched.txt"):
        given = ExecuteCommandsOptions(
            pre_execution_downloadables=[
                Downloadable(download_url=f"{files}/{treatment}/{name}", working_dir=f"{folder}/{treatment}")
            ]
        )
        result = await client.execute_commands([CommandInterface(command=then, cwd=f"{folder}/{treatment}")], given)
        return result.results[0].stdout

    async with client.session() as session:
        # Commands: 10 and 17.3, 17.4.
        await steps.take("P4 stdin is empty", run(session, "cat; echo done"))
        await steps.take("exit code of the shell", run(session, "exit 3"))
        await steps.take("a signal", run(session, "kill -KILL $$"))
        await steps.take("not found", run(session, "no-such-program-at-all"))
        await steps.take("P7 a server is spared", run(session, "sleep 30 >/dev/null 2>&1 & echo $!"))
        pid = steps.results["P7 a server is spared"][1].strip()
        await steps.take("P7 and lives", run(session, f"kill -0 {pid} && kill {pid}"))
        await steps.take("P6 an open pipe", run(session, "sleep 30 & echo held"))
        await steps.take("O1 any size", run(session, "head -c 5000000 /dev/zero | tr '\\0' y"))
        steps.results["O1 any size"][1] = len(steps.results["O1 any size"][1])
        steps.results["O1 streamed"] = sum(len(message.text) for message in heard)
        steps.results["O3 longest frame"] = max(len(message.text) for message in heard)
        await steps.take("characters", run(session, "printf 'gr\\303'; sleep 0.1; printf '\\274\\303\\237e'"))
        # Cancel: P1.
        asyncio.get_running_loop().call_later(0.3, session.abort)
        stubborn = "trap '' TERM; sleep 600 & setsid sleep 600 & wait; sleep 600"
        await steps.take("P1 a stubborn tree", run(session, stubborn))
        await steps.take("after it", run(session, "echo works"))
        # Redaction: X1 to X4.
        secret = "s3cr3t-value"
        split = "printf s3cr3t; sleep 0.2; printf -- '-value and the rest'"
        await steps.take("X1 split", run(session, split, secrets_to_redact=[secret]))
        steps.results["X1 heard"] = "".join(message.text for message in heard)
        await steps.take("X2 overlap", run(session, f"echo {secret}", secrets_to_redact=["s3cr3t", secret, "t-value"]))
        await steps.take("X3 words", run(session, "echo stdout message", secrets_to_redact=["stdout", "message"]))
        keys = options(secrets_to_redact=[secret])
        await steps.take("X4 keys", session.query('@json {"%s": ["%s"]}' % (secret, secret), keys))
        await steps.take("X5 another list", run(session, f"echo {secret}"))
        # Artifacts: A1 to A11.
        together = dict(artifacts_dirs=[folder + "/x", folder + "/y"], on_artifact_upload_request=uploads("files"))
        write = f"echo 1 > {folder}/x/same; echo 2 > {folder}/y/same; mkdir {folder}/y/deep; echo 3 > {folder}/y/deep/er"
        await steps.take("A4 same name", run(session, write, **together))
        steps.results["A4 asked"] = sorted(asked)
        asked.clear()
        await steps.take("A1 again", run(session, f"echo 4 >> {folder}/x/same", **together))
        steps.results["A1 asked"] = list(asked)
        asked.clear()
        await steps.take("nothing new", run(session, "true", **together))
        steps.results["nothing asked"] = list(asked)
        twice = dict(artifacts_dirs=[folder + "/z"], on_artifact_upload_request=uploads("twice"))
        await steps.take("A7 tried again", run(session, f"echo 5 > {folder}/z/retried", **twice))
        steps.results["A7 asked once"] = list(asked)
        asked.clear()
        steps.begin("end of the session")
    # A second session on the same directory announces what is there already.
    async with client.session() as session:
        await steps.take("16.5 a second session", run(session, f"echo 6 > {folder}/x/new", **together))
        steps.results["16.5 asked"] = sorted(asked)
    # Downloads: 11 and 17.7.
    for treatment in ["files", "slow", "twice", "nolength", "redirect", "forbidden", "cut"]:
        await steps.take(f"download {treatment}", fetch(treatment, "cat fetched.txt"))
    await steps.take("download then zip", fetch("files", "cat inner", "bundle.zip"))
    await steps.take("download an attack", fetch("files", "true", "attack.zip"))


play(main)
