"""Makes the files of a release out of one built program: a tarball, a wheel, packages for npm and Debian, and their checksums.

    python3 packaging/pack.py PROGRAM [FOLDER]

Needs Python 3.8, and cargo for the licences of the crates. The same program gives the same bytes: files have the time SOURCE_DATE_EPOCH, or 1980, belong to
root and come in one order. Name, version, licence and description are those of Cargo.toml; what a package says of the
machine it is for is read from the program.
"""

import base64
import hashlib
import io
import gzip
import json
import os
import re
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import elf
import licences

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
#: The names of processors, as npm and Debian have them.
ARCHES = {"x86_64": ("x64", "amd64"), "aarch64": ("arm64", "arm64")}
#: Wheels are not marked for older systems than these; pip has no shorter names for them either.
OLDEST_GLIBC = (2, 17)
#: What the standard for wheels lets a program expect of every system, as far as ours may come to need it.
SYSTEM_LIBRARIES = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libgcc_s.so.1"}
EARLIEST = 315532800
LEVEL = int(os.environ.get("PACK_LEVEL", "9"))


def manifest():
    """The plain strings of [package] in Cargo.toml."""
    package = (ROOT / "Cargo.toml").read_text().split("[package]")[1].split("\n[")[0]
    return dict(re.findall(r'^([a-z-]+) = "(.*)"$', package, re.M))


class Release:
    """A program and what is said of it."""

    def __init__(self, program: Path, out: Path):
        self.program = program.read_bytes()
        self.needs = elf.needs(self.program)
        if self.needs.glibc is None:
            raise ValueError("does not use glibc: packages for it are not made here")
        strange = {name for name in self.needs.libraries if name not in SYSTEM_LIBRARIES and not name.startswith("ld-linux")}
        if strange:
            raise ValueError(f"needs {', '.join(sorted(strange))}, which not every system has")
        cargo = manifest()
        self.version, self.licence, self.summary = cargo["version"], cargo["license"], cargo["description"]
        self.time = max(int(os.environ.get("SOURCE_DATE_EPOCH", EARLIEST)), EARLIEST)
        self.npm_arch, self.debian_arch = ARCHES[self.needs.arch]
        self.out = out
        third_party = licences.third_party(ROOT, f"{self.needs.arch}-unknown-linux-gnu").encode()
        self.licences = {name: (ROOT / name).read_bytes() for name in ["LICENSE-APACHE", "LICENSE-MIT"]}
        self.licences["THIRD-PARTY.txt"] = third_party

    def documents(self):
        return {**self.licences, "README.md": (ROOT / "README.md").read_bytes()}

    def handlers(self):
        """The example handlers and the page on handlers; the bridges are in the program."""
        names = sorted(path.name for path in (ROOT / "handlers").iterdir() if path.is_file())
        return {f"handlers/{name}": (ROOT / "handlers" / name).read_bytes() for name in names}

    def write(self, name: str, content: bytes):
        (self.out / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        (self.out / f"{name}.sha256").write_text(f"{digest}  {name}\n")
        print(f"{len(content) / 1e6:6.2f} MB  {name}")

    def tar(self, files: dict, executable=()) -> bytes:
        """A tar.gz of `files`; folders have entries of their own, which Debian asks for."""
        packed = io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=LEVEL, mtime=self.time) as squeezed:
            with tarfile.open(fileobj=squeezed, mode="w", format=tarfile.GNU_FORMAT) as archive:
                made = set()
                for name, content in files.items():
                    for folder in reversed(Path(name).parents):
                        if str(folder) != "." and folder not in made:
                            made.add(folder)
                            archive.addfile(self.entry(f"{folder}/", tarfile.DIRTYPE, 0o755))
                    script = content[:2] == b"#!"
                    entry = self.entry(name, tarfile.REGTYPE, 0o755 if script or name in executable else 0o644)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
        return packed.getvalue()

    def entry(self, name, kind, mode):
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.mtime, entry.uname, entry.gname = kind, mode, self.time, "root", "root"
        return entry


def tarball(release: Release):
    """Flat, so that `tar -x turnhost` gets the program whatever the version."""
    files = {"turnhost": release.program, **release.documents(), **release.handlers()}
    name = f"turnhost-{release.version}-{release.needs.arch}-unknown-linux-gnu.tar.gz"
    release.write(name, release.tar(files, {"turnhost"}))


def wheel(release: Release):
    """maturin builds what it packs; this packs what is built, the same program as everywhere, and adds the module."""
    version = re.sub(r"-(alpha|beta|rc)\.?(\d+)$", lambda found: {"alpha": "a", "beta": "b", "rc": "rc"}[found[1]] + found[2], release.version)
    major, minor = max(release.needs.glibc, OLDEST_GLIBC)
    platform = f"manylinux_{major}_{minor}_{release.needs.arch}"
    if (major, minor) == (2, 17):
        # The name that pip knew before versions of glibc were names.
        platform += f".manylinux2014_{release.needs.arch}"
    info = f"turnhost-{version}.dist-info"
    readme = (ROOT / "README.md").read_text()
    head = [
        "Metadata-Version: 2.4",
        "Name: turnhost",
        f"Version: {version}",
        f"Summary: {release.summary}",
        f"License-Expression: {release.licence}",
        *(f"License-File: {name}" for name in release.licences),
        "Requires-Python: >=3.8",
        "Description-Content-Type: text/markdown",
    ]
    tags = [f"Tag: py3-none-{one}" for one in platform.split(".")]
    about = ["Wheel-Version: 1.0", "Generator: turnhost", "Root-Is-Purelib: false", *tags]
    module = HERE / "python" / "turnhost"
    files = {f"turnhost/{path.name}": path.read_bytes() for path in sorted(module.iterdir()) if path.is_file()}
    script = f"turnhost-{version}.data/scripts/turnhost"
    files[script] = release.program
    for name, content in release.licences.items():
        files[f"{info}/licenses/{name}"] = content
    files[f"{info}/METADATA"] = ("\n".join(head) + "\n\n" + readme).encode()
    files[f"{info}/WHEEL"] = ("\n".join(about) + "\n").encode()
    record = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(content)}\n")
    files[f"{info}/RECORD"] = ("".join(record) + f"{info}/RECORD,,\n").encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, time.gmtime(release.time)[:6])
            entry.create_system = 3
            entry.external_attr = (0o100755 if name == script else 0o100644) << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, LEVEL)
    release.write(f"turnhost-{version}-py3-none-{platform}.whl", packed.getvalue())


def npm(release: Release):
    """The command, and beside it the program: npm installs the one package of many that is for its machine."""
    platform = f"linux-{release.npm_arch}"
    about = {"version": release.version, "license": release.licence}
    program = {"name": f"@turnhost/{platform}", **about, "description": f"The program turnhost for {platform}.",
               "os": ["linux"], "cpu": [release.npm_arch], "libc": ["glibc"], "files": ["turnhost"], "preferUnplugged": True}
    command = {"name": "turnhost", **about, "description": release.summary, "os": ["linux"], "bin": {"turnhost": "turnhost.sh"},
               "files": ["turnhost.sh"], "preferUnplugged": True,
               "optionalDependencies": {program["name"]: release.version}}
    own = {name: content for name, content in release.documents().items() if name != "THIRD-PARTY.txt"}
    for package, content, documents in [
        (command, {"turnhost.sh": (HERE / "npm" / "turnhost.sh").read_bytes()}, own),
        (program, {"turnhost": release.program}, release.documents()),
    ]:
        files = {"package.json": (json.dumps(package, indent=2) + "\n").encode(), **content, **documents}
        packed = release.tar({f"package/{name}": content for name, content in files.items()}, {"package/turnhost"})
        release.write(f"{package['name'].replace('@', '').replace('/', '-')}-{release.version}.tgz", packed)


def debian(release: Release):
    version = release.version.replace("-", "~")
    documents = release.documents()
    copyright = f"turnhost is free software under {release.licence}.\n\n".encode()
    copyright += b"\n".join(release.licences[name] for name in ["LICENSE-MIT", "LICENSE-APACHE", "THIRD-PARTY.txt"])
    files = {"usr/bin/turnhost": release.program, "usr/share/doc/turnhost/copyright": copyright,
             "usr/share/doc/turnhost/README.md": documents["README.md"]}
    files.update({f"usr/share/turnhost/{name}": content for name, content in release.handlers().items()})
    needs = "libc6 (>= {}.{})".format(*release.needs.glibc)
    if "libgcc_s.so.1" in release.needs.libraries:
        needs += ", libgcc-s1 | libgcc1"
    control = [
        "Package: turnhost",
        f"Version: {version}",
        f"Architecture: {release.debian_arch}",
        "Maintainer: the authors of turnhost",
        f"Installed-Size: {sum(map(len, files.values())) // 1024 + 1}",
        f"Depends: {needs}",
        "Section: net",
        "Priority: optional",
        f"Description: {release.summary.rstrip('.')}",
    ]
    sums = "".join(f"{hashlib.md5(content).hexdigest()}  {name}\n" for name, content in files.items())
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": release.tar({"control": ("\n".join(control) + "\n").encode(), "md5sums": sums.encode()}),
        "data.tar.gz": release.tar(files, {"usr/bin/turnhost"}),
    }
    packed = b"!<arch>\n"
    for name, content in parts.items():
        packed += f"{name:<16}{release.time:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        packed += content + b"\n" * (len(content) % 2)
    release.write(f"turnhost_{version}_{release.debian_arch}.deb", packed)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python3 packaging/pack.py PROGRAM [FOLDER]")
    program, out = Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) == 3 else ROOT / "dist")
    try:
        release = Release(program, out)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        sys.exit(f"pack: {program}: {reason}")
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("turnhost*"):
        old.unlink()
    print("pack: {} for glibc {}.{}, {:.1f} MB".format(release.needs.arch, *release.needs.glibc, len(release.program) / 1e6))
    for make in (tarball, wheel, npm, debian):
        make(release)


if __name__ == "__main__":
    main()
