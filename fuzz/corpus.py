"""Packs the inputs that a fuzz target has found into one file each, and unpacks them again.

python3 corpus.py unpack TARGET FOLDER     python3 corpus.py pack TARGET FOLDER
"""

import pathlib
import sys
import zipfile

command, target, folder = sys.argv[1:]
packed = pathlib.Path(__file__).parent / "corpus" / f"{target}.zip"
folder = pathlib.Path(folder)
if command == "unpack":
    folder.mkdir(parents=True, exist_ok=True)
    if packed.exists():
        zipfile.ZipFile(packed).extractall(folder)
else:
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        for file in sorted(folder.iterdir()):
            # A fixed time: the same inputs are the same bytes.
            out.writestr(zipfile.ZipInfo(file.name), file.read_bytes(), zipfile.ZIP_DEFLATED)
