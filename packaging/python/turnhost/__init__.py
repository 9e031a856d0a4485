"""turnhost, the program, as a package: `get_binary_path()` says where it is, `python -m turnhost` becomes it."""

import importlib.metadata
import os

__all__ = ["get_binary_path"]


def get_binary_path() -> str:
    """The path of the program that came with this package. Raises FileNotFoundError if it is not where it was put."""
    try:
        files = importlib.metadata.files("turnhost") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    paths = [str(file.locate()) for file in files if file.name == "turnhost" and file.parent.name == "bin"]
    # `pip install --target FOLDER` moves programs to FOLDER/bin and does not write it down.
    paths.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bin", "turnhost"))
    for path in map(os.path.normpath, paths):
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise FileNotFoundError("the program turnhost is not at " + " nor at ".join(map(os.path.normpath, paths)))
