"""The harness runs the missing measurements in turns, and keeps the results."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import machine, records
from benchmarks.harness.benchmark import SHARED, Benchmark, Case, alternated, rotated
from benchmarks.harness.records import Record, Spread, Store, of
from benchmarks.harness.sweeps import ROOT


def benchmark(measured: list[str], **more) -> Benchmark:
    def cases(options: argparse.Namespace, folder: Path):
        (folder / SHARED).mkdir(parents=True)

        def case(variant: str) -> Case:
            def measure(folder: Path) -> dict:
                measured.append(variant)
                return {"seconds": float(len(measured))}

            return Case("part", variant, {"trials": options.trials}, measure)

        return [([case(variant) for variant in "abc"], 2)]

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--trials", type=int, default=9)

    return Benchmark("example", "An example.", add_options, cases, quick={"trials": 1}, **more)


@pytest.mark.parametrize(("order", "turns"), [(rotated, "abcbca"), (alternated, "abccba")])
def test_cases_take_turns(order, turns, tmp_path):
    measured: list[str] = []
    benchmark(measured, order=order).main(["--to", str(tmp_path)])
    assert "".join(measured) == turns
    assert not (tmp_path / "runs" / "example" / SHARED).exists()


def test_a_benchmark_resumes_after_an_interruption_and_measures_again_on_request(tmp_path, capsys):
    measured: list[str] = []
    main = benchmark(measured).main
    main(["--to", str(tmp_path)])
    content = json.loads((tmp_path / "example.json").read_text())
    content["runs"] = content["runs"][:4]
    (tmp_path / "example.json").write_text(json.dumps(content))

    main(["--to", str(tmp_path)])
    assert "".join(measured[6:]) == "ba"
    main(["--to", str(tmp_path), "--show"])
    assert len(measured) == 8
    main(["--to", str(tmp_path), "--again"])
    assert len(measured) == 14
    assert "seconds" in capsys.readouterr().out


def test_a_benchmark_that_does_not_resume_always_measures(tmp_path):
    measured: list[str] = []
    main = benchmark(measured, resumes=False).main
    main(["--to", str(tmp_path)])
    main(["--to", str(tmp_path)])
    assert len(measured) == 12
    assert len(Store(tmp_path / "example.json").records) == 6


def test_quick_changes_only_the_defaults(tmp_path):
    for arguments, trials in ((["--quick"], 1), (["--quick", "--trials", "5"], 5), ([], 9)):
        benchmark([]).main(["--to", str(tmp_path), *arguments])
        assert Store(tmp_path / "example.json").records[-1].work == {"trials": trials}


def test_a_file_of_another_version_is_a_one_line_error(tmp_path, capsys):
    (tmp_path / "example.json").write_text('{"runs": [{"shape": "small"}], "machine": null}')
    with pytest.raises(SystemExit):
        benchmark([]).main(["--to", str(tmp_path)])
    assert capsys.readouterr().err.endswith("is not a file of this version of the benchmark; remove it\n")


def test_only_the_newest_configuration_of_a_variant_is_shown(tmp_path):
    store = Store(tmp_path / "example.json")
    for variant, trials in (("a", 1), ("b", 1), ("a", 2), ("a", 2)):
        store.add("part", variant, 1, {"trials": trials}, {}, machine.describe())
    found = store.newest("part")
    assert {variant: [r.work["trials"] for r in runs] for variant, runs in found.items()} == {"a": [2, 2], "b": [1]}


def test_a_spread_shows_the_median_the_range_and_the_number_that_never_finished():
    assert Spread.of([1.0, 20.0, 300.0]).text() == "20.0 (1.00–300)"
    assert Spread.of([20.0]).text() == "20.0"
    assert Spread.quartiles([1.0, 2.0, 3.0, 4.0, 5.0]).text(decimals=1) == "3.0 (2.0–4.0)"
    assert Spread.quartiles([1.0, 2.0, 3.0, None]).text() == "3.00 (2.00–never) [1/4 never]"
    assert math.isinf(Spread.quartiles([None]).median)


def test_ratios_compare_with_the_largest_value_of_the_same_round():
    seconds = {(1, "us"): 2, (1, "a"): 1, (1, "b"): 4, (2, "us"): 9, (2, "a"): 3, (3, "us"): 1, (3, "b"): 1}
    found: dict[str, list[Record]] = {}
    for (number, variant), value in seconds.items():
        found.setdefault(variant, []).append(Record("part", variant, number, {}, {"s": value}, 0, None))
    assert records.ratios(found, "us", ["a"], of("s")) == [2, 3]
    assert records.ratios(found, "us", ["a", "b"], of("s")) == [0.5]
    assert records.ratio(found, "us", "c", of("s")) is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processor_time_of_processes_that_outlive_the_command_counts(tmp_path):
    # In a process of its own, as it becomes the parent of everything that its children leave behind.
    code = """if True:
        import os, sys
        from pathlib import Path
        from benchmarks.harness import processes
        burn = "import time\\nwhile time.process_time() < 0.4: pass"
        code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}], start_new_session=True)"
        usage = processes.run([sys.executable, "-c", code], Path(sys.argv[1]), os.environ, timeout=20)
        print(usage.cpu_seconds, usage.driver_seconds, usage.left_behind, usage.peak_mib)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    cpu, driver, left, peak = map(float, done.stdout.split())
    assert left == 0
    assert 0.4 <= cpu < 5
    assert 0 < driver < 0.4
    assert peak > 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_command_that_fails_or_takes_too_long_shows_the_end_of_its_output(tmp_path):
    code = """if True:
        import os, sys
        from pathlib import Path
        from benchmarks.harness import processes
        for line in ("print('why'); sys.exit(3)", "print('still', flush=True); time.sleep(60)"):
            try:
                command = [sys.executable, "-c", f"import sys, time; {line}"]
                processes.run(command, Path(sys.argv[1]), os.environ, timeout=2)
            except RuntimeError as error:
                print(str(error).split()[2], str(error).splitlines()[-1])
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "3: why\n-9: still\n"
