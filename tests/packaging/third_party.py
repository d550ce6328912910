"""Write the licences of the crates in a wheel: ``third_party.py > LICENSES-THIRD-PARTY``.

The extension module is linked statically, so every wheel distributes them, and most of their
licences ask that their text goes with each copy. Needs cargo; the texts are read from its registry.
"""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]

INTRODUCTION = """\
The compiled module in thalweg's wheels contains the crates below, some of them on certain platforms
only. Of those that give a choice of licences, it is the MIT license that is followed here.

It also contains the Rust standard library, by The Rust Project Contributors, licensed under MIT or
Apache-2.0 at the user's option. Its text is the Apache License, Version 2.0, in LICENSE-APACHE.
"""


def cargo(*arguments: str) -> str:
    command = ["cargo", *arguments, "--locked"]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def crates() -> list[str]:
    """Name and version of each crate that is linked, on any platform: ``["half 2.7.1", ...]``.

    Procedural macros are not among them, since they only run in the compiler.
    """
    tree = cargo(
        *("tree", "--package", "thalweg-py", "--edges", "normal,no-proc-macro"),
        *("--target", "all", "--prefix", "none", "--format", "{p}"),
    )
    named = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    return sorted(f"{name} {v.removeprefix('v')}" for name, v in named if "thalweg" not in name)


def main() -> None:
    packages = json.loads(cargo("metadata", "--format-version", "1"))["packages"]
    found = {f"{package['name']} {package['version']}": package for package in packages}
    print(INTRODUCTION)
    for crate in crates():
        folder = Path(found[crate]["manifest_path"]).parent
        texts = sorted(folder.glob("LICENSE-MIT*")) or sorted(folder.glob("LICENSE*"))
        if not texts:
            raise FileNotFoundError(f"{crate} has no licence in {folder}: add its text here")
        print("-" * 100, f"{crate}: {found[crate]['license']}\n", sep="\n")
        for path in texts:
            print(path.read_text(encoding="utf-8").strip(), end="\n\n")


if __name__ == "__main__":
    main()
