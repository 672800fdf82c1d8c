"""`python -m benchmarks.gpu`: everything that a GPU shows about this program, within nine minutes.

It needs no network and no installation: `make gpu-wheels` has put the packages that the machine lacks, and MNIST, into
`.gpu/`. Each part has a budget of time. A part that no longer fits is skipped and named; `--parts` measures it later.
The results of each part are written to `gpu.json` when it has ended, and at the end they are printed as tables.
`python -m benchmarks.gpu.report FILE…` prints them again. Without a GPU, the same parts run on CPU, which only shows
that they work: use `--tiny`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.gpu import wheels

_RESULTS = wheels.ROOT / "benchmarks" / "results" / "gpu"


def main() -> None:
    """Runs the parts, and writes `gpu.json`."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=_RESULTS, help="the folder for gpu.json")
    parser.add_argument("--data", help=f"an mnist.npz as Keras has it (default: {wheels.FOLDER.name}/{wheels.DATA})")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything (default: 9)")
    parser.add_argument(
        "--parts", nargs="+", metavar="PART", help="only these, such as fused:large sweep:cnn,4; others are kept"
    )
    parser.add_argument("--tiny", action="store_true", help="few trials and images, to see whether everything works")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        wheels.use(wheels.FOLDER, Path(temporary) / "site")
        _run(parser, options, Path(temporary), started)


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace, folder: Path, started: float) -> None:
    # Not earlier: these need the packages in the wheels.
    from benchmarks.gpu import parts, plan, report
    from benchmarks.harness import machine, sweeps
    from benchmarks.harness.records import Store

    size = parts.TINY if options.tiny else parts.REAL
    packed = wheels.FOLDER / wheels.DATA
    data = options.data or (str(packed) if packed.exists() else None)
    arrays = sweeps.prepare(data, {"images": size.images}, folder)["images"]
    every = parts.Setup(size, arrays, folder).parts()
    if unknown := set(options.parts or ()) - {part.name for part in every}:
        parser.error(f"--parts {' '.join(sorted(unknown))}: must be of {' '.join(part.name for part in every)}")
    chosen = [part for part in every if options.parts is None or part.name in options.parts]
    store = Store(options.to.absolute() / "gpu.json")
    if options.parts is None:
        store.forget({record.part for record in store.records})
    left = 60 * options.minutes - (time.monotonic() - started)
    plan.run(chosen, store, machine.describe(), left, lambda line: print(line, flush=True))
    print(report.text([store]))


if __name__ == "__main__":
    main()
