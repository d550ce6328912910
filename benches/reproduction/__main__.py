"""Run what is missing, one figure after the other, and make the page."""

import argparse
import csv
from pathlib import Path

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
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def arguments():
    parser = argparse.ArgumentParser(prog="make reproduce", description=__doc__)
    parser.add_argument("--data", default="fashion", help='path, "fashion" or "download"')
    parser.add_argument("--name", help="of the data set; by default by what --data is")
    parser.add_argument("--methods", type=some_of(protocol.METHODS), default=list(protocol.METHODS))
    parser.add_argument(
        "--scenarios", type=some_of(protocol.SCENARIOS), default=list(protocol.SCENARIOS)
    )
    parser.add_argument("--seeds", type=seeds, default=list(protocol.SEEDS))
    parser.add_argument("--steps", type=int, default=protocol.STEPS, help="per task")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "continual")
    parser.add_argument("--page", action="store_true", help="only make the page anew")
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
                f"{path} is not there: apt install dataset-fashion-mnist, or say DATA=path to MNIST"
            )
    elif args.data == "download":
        path = data.download(Path(__file__).parent / "mnist")
    name = args.name or name
    arrays = data.load(path)
    args.out.mkdir(parents=True, exist_ok=True)
    results, checkpoint = args.out / "results.csv", args.out / "unfinished.safetensors"
    keys = ("data", "scenario", "method", "seed", "steps")
    done = {tuple(row[key] for key in keys) for row in page.read(results)}
    for seed in args.seeds:  # a figure for every method first, then better ones
        for method in args.methods:
            if not protocol.available(method):
                print(f"{method}: not in this version")
                continue
            for kind in args.scenarios:
                key = (name, kind, method, str(seed), str(args.steps))
                if key in done:
                    continue
                # The name of an unfinished run is part of its file's, so that none is mistaken.
                unfinished = checkpoint.with_stem(f"unfinished-{'-'.join(key)}")
                result = protocol.run(
                    arrays, method, kind, seed, args.steps, checkpoint=unfinished, resume=True
                )
                figures = result.metrics()
                row = dict(zip(keys, key, strict=True))
                row["accuracy"] = f"{figures['average_accuracy']:.6f}"
                row["forgetting"] = f"{figures['forgetting_max']:.6f}"
                row["seconds"], row["version"] = f"{result.seconds:.1f}", __version__
                append(results, row)
                unfinished.unlink(missing_ok=True)
                print(f"{' '.join(key)}: {float(row['accuracy']):.2%} in {row['seconds']} s")
                page.write(args.out)


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
