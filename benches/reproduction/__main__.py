"""Run what is missing, one figure after the other, and make the page."""

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

from benches import machine
from benches.reproduction import data, page, protocol
from thalweg import __version__

ROOT = Path(__file__).parent.parent.parent


def seeds(text):
    """``"1-5"`` or ``"1,2,7"`` as a list."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(s) for s in text.split(",")]


def some_of(known):
    def parse(text):
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return names

    return parse


def arguments():
    parser = argparse.ArgumentParser(prog="make reproduce", description=__doc__)
    parser.add_argument("--data", default="fashion", help='path, "fashion" or "download"')
    parser.add_argument("--name", help="of the data set, by default from --data")
    known = protocol.PROTOCOLS
    parser.add_argument("--protocols", type=some_of(known), default=list(known))
    methods = {name: None for each in known.values() for name in each.methods}
    parser.add_argument("--methods", type=some_of(methods), default=list(methods))
    kinds = ("task", "domain", "class", "class_all")
    parser.add_argument("--scenarios", type=some_of(kinds), default=kinds)
    parser.add_argument("--seeds", type=seeds, default=list(protocol.SEEDS))
    parser.add_argument("--steps", type=int, help="per task, for a trial [the protocol's]")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "continual")
    parser.add_argument("--page", action="store_true", help="only regenerate the page")
    return parser.parse_args()


def main():
    args = arguments()
    if args.page:
        page.write(args.out)
        return
    path, name = args.data, "MNIST"
    if args.data == "fashion":
        path, name = data.FASHION, "Fashion-MNIST"
        if not path.exists():
            raise SystemExit(
                f"{path} does not exist: apt install dataset-fashion-mnist, or pass DATA=PATH with "
                "the path to MNIST"
            )
    elif args.data == "download":
        path = data.download(Path(__file__).parent / "mnist")
    arrays = data.load(path)
    args.out.mkdir(parents=True, exist_ok=True)
    version = f"{__version__} {machine.commit()}"  # of the code that was loaded, not at a run's end
    for which in args.protocols:
        for seed in args.seeds:  # a figure for every method first, then better ones
            for method in protocol.PROTOCOLS[which].methods:
                for kind in protocol.PROTOCOLS[which].kinds:
                    asked = method in args.methods and kind in args.scenarios
                    if asked and kind not in protocol.PROTOCOLS[which].methods[method].without:
                        case = Case(which, args.name or name, kind, method, seed, args.steps)
                        run(case, arrays, args.out, version)


class Case(NamedTuple):
    """What tells a row of results.csv from the others; `steps` is that of a trial."""

    protocol: str
    data: str
    scenario: str
    method: str
    seed: int
    steps: int | None

    def key(self):
        return {name: "" if v is None else str(v) for name, v in self._asdict().items()}


def run(case, arrays, out, version):
    """Run what is asked for, unless there is a figure already."""
    results, key = out / "results.csv", case.key()
    if any(key.items() <= row.items() for row in page.read(results)):
        return
    # The name of an unfinished run is part of its file's, so that none is mistaken.
    unfinished = out / f"unfinished-{'-'.join(key.values())}.safetensors"
    result = protocol.run(
        arrays, case.protocol, case.scenario, case.method, case.seed, case.steps,
        checkpoint=unfinished, resume=True,
    )  # fmt: skip
    figures = result.metrics()
    row = key | {
        "accuracy": f"{figures['average_accuracy']:.6f}",
        "forgetting": f"{figures['forgetting_max']:.6f}",
        "seconds": f"{result.seconds:.1f}",
        "version": version,
    }
    append(results, row)
    unfinished.unlink(missing_ok=True)
    print(
        f"{' '.join(key.values())}: {float(row['accuracy']):.2%} in {row['seconds']} s", flush=True
    )
    page.write(out)


def append(path, row):
    """Add a row to a CSV file."""
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, page.FIELDS)
        if is_new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
