"""`python -m benchmarks.search_quality`: simulates searches, prints the tables, writes the results and the plot."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

# One core for an algorithm's processor time; read before NumPy is imported.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

from benchmarks.harness import show  # noqa: E402
from benchmarks.harness.benchmark import RESULTS, command_line, parse  # noqa: E402
from benchmarks.search_quality import report  # noqa: E402
from benchmarks.search_quality.curves import DATASETS  # noqa: E402
from benchmarks.search_quality.players import DEFAULT, FIELD, VARIANTS  # noqa: E402
from benchmarks.search_quality.simulate import WORKERS, Run, simulate_all  # noqa: E402

_HERE = Path(__file__).parent
_QUICK_RESULTS = RESULTS / "runs" / "quick"
_QUICK = {
    "seeds": 1,
    "workers": [16],
    "results": _QUICK_RESULTS / "search_quality.json",
    "markdown": _QUICK_RESULTS / "search_quality.md",
    "plot": _QUICK_RESULTS / "search_quality.png",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulates, or reads the results that exist, and shows them."""
    parser = command_line("search_quality", __doc__ or "")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--workers", nargs="+", type=int, default=WORKERS)
    parser.add_argument("--seeds", type=int, default=12, help="four times as many for random draws, fewer for GPs")
    parser.add_argument("--only", nargs="+", default=[""], help="algorithms whose name contains one of these")
    parser.add_argument("--variants", action="store_true", help="this program's stopping rules with other settings")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--epoch-scale", type=float, default=1.0, help="how many times as long epochs take")
    parser.add_argument("--results", type=Path, default=_HERE / "results.json", help="the file for all runs")
    parser.add_argument("--markdown", type=Path, default=_HERE / "results.md", help="the file for the tables")
    parser.add_argument("--plot", type=Path, default=_HERE.parents[1] / "docs" / "search_quality.png")
    parser.add_argument("--show", action="store_true", help="simulate nothing, and show the results that exist")
    options = parse(parser, arguments, _QUICK)
    console = show.console(200)
    if options.show:
        results = report.Results(Run(**raw) for raw in json.loads(options.results.read_text()))
    else:
        entries = [
            entry
            for entry in (VARIANTS if options.variants else FIELD)
            if any(text in f"{entry.family}: {entry.name}" for text in options.only)
        ]
        results = report.Results(
            simulate_all(
                options.datasets,
                entries,
                options.workers,
                seeds=options.seeds,
                processes=options.processes,
                epoch_scale=options.epoch_scale,
                say=console.print,
            )
        )
        options.results.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(asdict(run)) for run in results.runs)
        options.results.write_text(f"[\n{lines}\n]\n")
    tables = [*report.tables(results), report.ratios(results, DEFAULT)]
    for table in tables:
        table.print(console)
    options.markdown.write_text("\n\n".join(table.markdown() for table in tables) + "\n")
    report.plot(results, options.plot, [(entry.family, entry.name) for entry in FIELD])
    console.print(f"{options.results}, {options.markdown}, {options.plot}")


if __name__ == "__main__":
    main()
