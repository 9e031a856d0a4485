"""Files in and out: downloads before commands, artifacts uploaded by the time the answer is there."""

import asyncio

from stage import RuntimeUseClient, options, play
from runtimeuse_client import ArtifactUploadResult, CommandInterface, ExecuteCommandsOptions
from runtimeuse_client import RuntimeEnvironmentDownloadableInterface as Downloadable


async def main(steps, url, files, folder):
    asked = []

    def uploads(treatment):
        async def on_artifact_upload_request(message):
            asked.append(message.filepath)
            name = message.filepath.removeprefix(folder + "/")
            return ArtifactUploadResult(presigned_url=f"{files}/{treatment}/{name}?sig=1", content_type="text/x-test")

        return on_artifact_upload_request

    client = RuntimeUseClient(ws_url=url)
    fetched = options(
        pre_agent_downloadables=[
            Downloadable(download_url=f"{files}/files/plain.txt?sig=1", working_dir=folder + "/in"),
            Downloadable(download_url=f"{files}/files/bundle.zip", working_dir=folder + "/in"),
        ],
        pre_agent_invocation_commands=[CommandInterface(command=f"cat {folder}/in/inner/file >> {folder}/in/plain.txt")],
    )
    await steps.take("downloaded", client.query(f"@read {folder}/in/plain.txt", fetched))
    missing = options(
        pre_agent_downloadables=[Downloadable(download_url=f"{files}/files/missing", working_dir=folder + "/in")]
    )
    await steps.take("missing", client.query("no", missing))

    two = options(
        artifacts_dirs=[folder + "/a", folder + "/b"],
        pre_agent_invocation_commands=[CommandInterface(command=f"mkdir -p {folder}/a; echo pre > {folder}/a/same.txt")],
        on_artifact_upload_request=uploads("files"),
    )
    await steps.take("two directories", client.query(f"@write {folder}/b/same.txt from the handler", two))
    steps.results["asked"] = sorted(asked)
    asked.clear()
    refused = options(artifacts_dirs=[folder + "/c"], on_artifact_upload_request=uploads("forbidden"))
    await steps.take("forbidden", client.query(f"@write {folder}/c/x.txt content", refused))
    steps.results["asked once"] = list(asked)
    asked.clear()
    async with client.session() as session:
        commands = [CommandInterface(command=f"mkdir -p {folder}/d/node_modules; echo 1 > {folder}/d/one; "
                                             f"echo no > {folder}/d/node_modules/x; echo no > {folder}/d/skip.log")]
        execution = ExecuteCommandsOptions(
            artifacts_dirs=[folder + "/d"],
            artifacts_ignore_content="*.log\nnode_modules/\n",
            on_artifact_upload_request=uploads("files"),
        )
        result = await session.execute_commands(commands, execution)
        steps.results["commands"] = [item.exit_code for item in result.results]
        steps.results["session asked"] = sorted(asked)
        # Written between requests: announced by itself after a while, or at the end of the session.
        with open(folder + "/d/late", "w") as late:
            late.write("late")
        steps.begin("end of the session")
    steps.results["all asked"] = sorted(asked)


play(main)
