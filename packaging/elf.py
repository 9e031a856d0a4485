"""What a Linux program needs of the machine it is to run on, read from its own headers. Linux programs of 64 bits only."""

import struct
from dataclasses import dataclass

_MACHINES = {0x3E: "x86_64", 0xB7: "aarch64"}
_DYNAMIC, _VERNEED = 6, 0x6FFFFFFE
_DT_NEEDED = 1


@dataclass(frozen=True)
class Needs:
    arch: str
    #: The newest version of glibc that is asked for, as (2, 17); None for a program that asks for none.
    glibc: "tuple[int, int] | None"
    libraries: "tuple[str, ...]"


def needs(program: bytes) -> Needs:
    """Raises ValueError with one sentence for what is no such program."""
    if program[:6] != b"\x7fELF\x02\x01":
        raise ValueError("is not a Linux program of 64 bits")
    (machine,) = struct.unpack_from("<H", program, 18)
    if machine not in _MACHINES:
        raise ValueError(f"is for a processor that is not known here ({machine:#x})")
    libraries, versions = [], []
    for kind, offset, size, link in (sections := list(_sections(program))):
        if kind == _DYNAMIC:
            names = sections[link][1]
            entries = struct.iter_unpack("<qQ", program[offset : offset + size])
            libraries += [_text(program, names + value) for tag, value in entries if tag == _DT_NEEDED]
        elif kind == _VERNEED:
            versions += _versions(program, offset, sections[link][1])
    found = [tuple(map(int, name[6:].split(".")[:2])) for name in versions if name.startswith("GLIBC_2.")]
    return Needs(_MACHINES[machine], max(found, default=None), tuple(libraries))


def _sections(program):
    """The kind, the place, the size and the section of the names of each section."""
    (table,) = struct.unpack_from("<Q", program, 40)
    size, count = struct.unpack_from("<HH", program, 58)
    for number in range(count):
        _, kind, _, _, offset, length, link = struct.unpack_from("<IIQQQQI", program, table + number * size)
        yield kind, offset, length, link


def _versions(program, at, names):
    """A list of libraries, each with a list of the versions that are asked for of it."""
    while True:
        _, count, _, first, following = struct.unpack_from("<HHIII", program, at)
        version = at + first
        for _ in range(count):
            _, _, _, name, step = struct.unpack_from("<IHHII", program, version)
            yield _text(program, names + name)
            version += step
        if not following:
            return
        at += following


def _text(program, at):
    return program[at : program.index(b"\0", at)].decode()
