"""`python -m benchmarks.search_quality`: simulates, prints the tables, writes the results and the plot."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

# An algorithm's processor time is to be what it takes on one core; read before numpy is imported.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

from rich.console import Console  # noqa: E402

from benchmarks.search_quality import report  # noqa: E402
from benchmarks.search_quality.curves import DATASETS  # noqa: E402
from benchmarks.search_quality.players import DEFAULT, FIELD, VARIANTS  # noqa: E402
from benchmarks.search_quality.simulate import WORKERS, Run, simulate_all  # noqa: E402

_HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulates, or takes results that are there, and shows them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_quality", description=__doc__)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--workers", nargs="+", type=int, default=WORKERS)
    parser.add_argument("--seeds", type=int, default=12, help="of random draws four times as many, of GPs fewer")
    parser.add_argument("--only", nargs="+", default=[""], help="algorithms whose name holds one of these")
    parser.add_argument("--variants", action="store_true", help="our rules with other settings instead")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--epoch-scale", type=float, default=1.0, help="let epochs take so many times as long")
    parser.add_argument("--results", type=Path, default=_HERE / "results.json", help="where to write all runs")
    parser.add_argument("--markdown", type=Path, default=_HERE / "results.md", help="where to write the tables")
    parser.add_argument("--plot", type=Path, default=_HERE.parents[1] / "docs" / "search_quality.png")
    parser.add_argument("--show", action="store_true", help="take the results that are there")
    options = parser.parse_args(arguments)
    console = Console(width=None if os.isatty(1) else 200)
    if options.show:
        runs = [Run(**raw) for raw in json.loads(options.results.read_text())]
    else:
        entries = [
            e
            for e in (VARIANTS if options.variants else FIELD)
            if any(text in f"{e.family}: {e.name}" for text in options.only)
        ]
        simulated = simulate_all(
            options.datasets,
            entries,
            options.workers,
            seeds=options.seeds,
            processes=options.processes,
            epoch_scale=options.epoch_scale,
            say=console.print,
        )
        runs = report.Results(simulated).runs
        lines = ",\n".join(json.dumps(run.to_json()) for run in runs)
        options.results.write_text(f"[\n{lines}\n]\n")
    results = report.Results(runs)
    report.tables(results, console)
    rows = report.ratios(results, DEFAULT)
    report.show_ratios(rows, console)
    options.markdown.write_text(report.markdown(results) + "\n" + report.markdown_table(rows) + "\n")
    report.plot(results, options.plot, [(e.family, e.name) for e in FIELD])
    console.print(f"{options.results}, {options.markdown}, {options.plot}")


if __name__ == "__main__":
    main()
