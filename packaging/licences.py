"""The licences of the crates that are part of the program, in one text: who passes the program on passes these on, too."""

import json
import re
import subprocess
from pathlib import Path

_LICENCE = re.compile(r"^(licen[cs]e|copying|copyright|notice|unlicense)([-._].*)?$", re.I)


def third_party(root: Path, target: str) -> str:
    """Asks cargo, which has the sources since it built them. Raises OSError or ValueError with one sentence."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    asked = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if asked.returncode:
        raise ValueError("cannot be packed, cargo does not tell its crates: " + asked.stderr.strip().splitlines()[-1])
    metadata = json.loads(asked.stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    own = metadata["resolve"]["root"]
    needs = {node["id"]: _in_the_program(node) for node in metadata["resolve"]["nodes"]}
    found, left = set(), [own]
    while left:
        one = left.pop()
        # Macros run in the compiler.
        if one in found or any("proc-macro" in target["kind"] for target in packages[one]["targets"]):
            continue
        found.add(one)
        left += needs[one]
    crates = sorted((packages[one] for one in found if one != own), key=lambda crate: (crate["name"], crate["version"]))
    return _text(crates)


def _in_the_program(node):
    return [other["pkg"] for other in node["deps"] if any(kind["kind"] is None for kind in other["dep_kinds"])]


def _text(crates):
    lines = ["turnhost contains these crates of others, under these licences. Their texts follow.", ""]
    texts = {}
    for crate in crates:
        name = f"{crate['name']} {crate['version']}"
        lines.append(f"{name}: {crate['license'] or 'see its text'}" + (f" ({crate['repository']})" if crate["repository"] else ""))
        for path in sorted(Path(crate["manifest_path"]).parent.iterdir()):
            if path.is_file() and _LICENCE.match(path.name):
                text = path.read_text(errors="replace").replace("\r\n", "\n").strip("\n")
                # The same words in other lines are the same text.
                texts.setdefault(" ".join(text.split()), (text, []))[1].append(name)
    for text, names in texts.values():
        lines += ["", "=" * 100, ", ".join(names), "=" * 100, "", text]
    return "\n".join(lines) + "\n"
