"""The command `watch`."""

from __future__ import annotations

import re
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest
from programs import command, environment
from watching import Story

from mnist_sweep.cli.commands import COMMANDS
from mnist_sweep.common import ports
from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import TOKEN_VARIABLE
from mnist_sweep.journal.journal import Journal


def sweep(folder: Path, config: dict) -> None:
    folder.mkdir(parents=True)
    with Journal(folder) as journal:
        Story(journal, config=config).starts(0)


def test_it_prints_a_link_and_serves_until_ctrl_c(compose_config, tmp_path: Path) -> None:
    sweep(tmp_path / "experiments/mlp/2025-01-01_10-00-00", compose_config())
    process = subprocess.Popen(
        command("watch", "mlp", "--port", "0"),
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = r"(http://127\.0\.0\.1:\d+)/\?sweep=mlp/2025-01-01_10-00-00#token=[\w-]{32}"
        found = re.fullmatch(rf"Watch at {address} \(Ctrl-C stops it\)\n", line)
        assert found, line
        with urllib.request.urlopen(f"{found[1]}/", timeout=10) as page:
            assert b"<title>Sweeps</title>" in page.read()
        # A page that stays open does not keep it from ending.
        stream = urllib.request.urlopen(f"{found[1]}/sweep?name=mlp/2025-01-01_10-00-00", timeout=10)
        assert stream.readline().startswith(b"data: ")
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0
        stream.close()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nosuch",), "watch nosuch: no such sweep in experiments/"),
        (("model.units",), "watch: model.units: write KEY=VALUE"),
        (("--port", "many"), "watch: --port=many: must be a whole number"),
        (("--host", "a..b"), "--host=a..b: is not an address of this machine"),
        (("--token", "short"), "a token must have at least 16 characters"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        COMMANDS["watch"](list(arguments))


def test_a_port_that_is_taken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TOKEN_VARIABLE, "sixteen-characters-or-more")
    with ports.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port={port}: cannot listen on 127.0.0.1"):
            COMMANDS["watch"](["--port", str(port)])
