"""Install a wheel beside NumPy alone, train there, and weigh it: ``check_wheel.py dist/*.whl``.

Before that, look inside: at the licences of what is compiled in, and for the builder's folders.

What a user of the wheel gets must not lean on this checkout, on a compiler, or on a package that
only developers have. So the wheel goes into an empty environment in a temporary directory, and all
that is run there is run from that directory.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: Today 3.2, and 111 modules: what is much more has something in it that should not be.
MAX_WHEEL_MB = 3.5
MAX_MODULES = 115
IMPORT_RUNS = 15

# NumPy first, so that what is timed is what thalweg adds to it.
IMPORT_TIMER = """
import time
import numpy
start = time.perf_counter()
import thalweg
print(1e3 * (time.perf_counter() - start))
"""

# Other packages, such as those for plots, are imported only when they are needed.
IMPORTED = """
import sys
import numpy
before = set(sys.modules)
import thalweg
print(*sorted(set(sys.modules) - before))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Give what the command prints; stop, showing it, if the command fails."""
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def look_inside(wheel: Path) -> None:
    """Stop if a licence is missing, or if a file tells where it was built."""
    import third_party  # beside this script; pytest, which looks for doctests, would not find it

    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    texts = "".join(t.decode() for n, t in files.items() if n.endswith("/LICENSES-THIRD-PARTY"))
    missing = [crate for crate in third_party.crates() if f"\n{crate}: " not in texts]
    if missing:
        sys.exit(f"the wheel has no licence of {', '.join(missing)}; make licenses writes them")

    # Such paths differ between machines, and with them the wheels.
    private = {Path.home(), third_party.ROOT, Path(os.environ.get("CARGO_HOME", Path.home()))}
    for folder in private - {Path("/")}:
        named = [name for name, data in files.items() if f"{folder}{os.sep}".encode() in data]
        if named:
            sys.exit(f"the folder {folder} of this machine is named in {', '.join(named)}")


def run_with_oldest_numpy(python: Path, present: str, wheel: Path, folder: Path) -> None:
    """Train with the oldest NumPy that the wheel accepts, then go back to the present one."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    oldest = re.findall(r"^Requires-Dist: numpy>=([\d.]+)$", metadata, re.MULTILINE)[0]
    if sys.version_info >= (3, 13):
        print(f"NumPy {oldest} is not for this Python: not tried")
        return
    for version in (oldest, present):
        run(python, "-m", "pip", "install", "--quiet", f"numpy=={version}", cwd=folder)
        if version == oldest:
            print(f"NumPy {oldest}, {run(python, HERE / 'xor.py', cwd=folder)}", end="")


def main(wheel: Path) -> None:
    look_inside(wheel)
    megabytes = wheel.stat().st_size / 1e6
    platform = wheel.stem.split("-")[-1]
    print(f"{wheel.name}: {megabytes:.2f} MB, for {platform}")
    if megabytes > MAX_WHEEL_MB:
        sys.exit(f"the wheel is larger than {MAX_WHEEL_MB} MB")
    if "-abi3-" not in wheel.name:
        sys.exit("the wheel is not built for the stable ABI (abi3): it would serve one Python only")
    if sys.platform == "linux" and not platform.startswith("manylinux_"):
        sys.exit(f"the wheel is for {platform}: only manylinux ones can be installed elsewhere")

    with tempfile.TemporaryDirectory() as directory:
        empty = Path(directory).resolve()
        venv.create(empty / "env", with_pip=True)
        python = empty / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
        run(python, "-m", "pip", "install", "--quiet", wheel.resolve(), cwd=empty)

        listed = run(python, "-m", "pip", "list", "--format=json", cwd=empty)
        packages = {p["name"]: p["version"] for p in json.loads(listed)}
        print("installed:", ", ".join(f"{name} {version}" for name, version in packages.items()))
        extra = set(packages) - {"numpy", "pip", "setuptools", "thalweg"}
        if extra:
            sys.exit(f"thalweg needs NumPy only, yet brought {sorted(extra)}")

        origin = run(python, "-c", "import thalweg; print(thalweg.__file__)", cwd=empty).strip()
        if not Path(origin).resolve().is_relative_to(empty):
            sys.exit(f"the wheel was not what was imported, but {origin}")

        print(run(python, HERE / "xor.py", cwd=empty), end="")
        modules = run(python, "-c", IMPORTED, cwd=empty).split()
        print(f"import thalweg, above import numpy: {len(modules)} modules")
        if len(modules) > MAX_MODULES:
            sys.exit(f"these are more than {MAX_MODULES}: {', '.join(modules)}")
        run_with_oldest_numpy(python, packages["numpy"], wheel, empty)
        times = [float(run(python, "-c", IMPORT_TIMER, cwd=empty)) for _ in range(IMPORT_RUNS)]
        print(
            f"import thalweg, above import numpy: median {statistics.median(times):.1f} ms, "
            f"fastest {min(times):.1f} ms of {IMPORT_RUNS} fresh processes"
        )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
