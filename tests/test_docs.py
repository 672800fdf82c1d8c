"""The documentation: its links lead somewhere, and the configs and keys that it shows are right."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pages import GUIDES, PAGES, PROGRAM, ROOT, Command, anchors, commands, files, links, overrides, split

from mnist_sweep.cli.commands import COMMANDS
from mnist_sweep.config import compose, hypermodel
from mnist_sweep.config.grammar import quote_sweeps, read_sweep, values_of
from mnist_sweep.config.settings import check_settings
from mnist_sweep.driver import plan
from mnist_sweep.search import Answer, Result, choose


def sweeps() -> dict[str, list[str]]:
    """The arguments of each command that starts a sweep."""
    shown = [command for page in GUIDES for command in commands(page)]
    program = [c for c in shown if c.words[:3] == PROGRAM.split()]
    # tests/e2e/test_docs_commands.py compares the errors.
    program = [c for c in program if not c.output.startswith("mnist_sweep: ")]
    started = [c for c in program if c.words[3:4] and c.words[3] not in {*COMMANDS, "--help"}]
    return {" ".join(c.words[3:]): c.words[3:] for c in started}


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no such file"
        assert target.is_relative_to(ROOT), f"{link}: leads out of the repository"
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"


def test_every_page_is_in_the_table_of_contents_and_every_image_is_on_a_page() -> None:
    docs = ROOT / "docs"
    contents = {(docs / link.partition("#")[0]).resolve() for link in links(docs / "index.md")}
    assert {page for page in docs.rglob("*.md") if page.name != "index.md"} <= contents
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert set(docs.rglob("*.png")) <= shown


def test_the_readme_is_short_and_starts_with_the_two_commands() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    first = [" ".join(c.words) for c in commands(ROOT / "README.md")][:2]
    assert first == ["make sweep", "make test"]


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("page", GUIDES, ids=ids)
def test_every_make_target_is_in_the_makefile(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    assert {c.words[1] for c in commands(page) if c.words[0] == "make"} <= targets


@pytest.mark.parametrize("page", GUIDES, ids=ids)
def test_every_code_block_is_in_a_language_that_is_tested(page: Path) -> None:
    _, blocks = split(page)
    tested, for_developers = {"", "console", "sh", "python", "yaml"}, {"mermaid", "py", "text"}
    kinds = {block.language for block in blocks}
    assert kinds <= (tested | for_developers if page.stem in ("architecture", "contributing") else tested)
    for block in blocks:
        if block.language == "py":
            # Parts of modules, which a reader adds to those that are there.
            ast.parse(block.text)
    written = files(page)
    assert all(block.text in written.values() for block in blocks if block.language == "yaml")


def test_every_config_that_a_page_shows_is_used_by_a_command() -> None:
    typed = " ".join(sweeps())
    configs = [Path(name) for page in GUIDES for name in files(page) if name.endswith(".yaml")]
    assert configs
    assert all(f"{config.parent.name}={config.stem}" in typed for config in configs)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all files that the pages tell their readers to write."""
    for page in GUIDES:
        for name, text in files(page).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.mark.parametrize("arguments", sweeps().values(), ids=sweeps())
def test_every_sweep_that_a_page_shows_has_a_config_that_can_run(work: Path, arguments: list[str]) -> None:
    """Checks the config as before a start, but without workers and data."""
    several = "-m" in arguments
    given = [argument for argument in arguments if argument not in ("-m", "--cfg", "job")]
    for each in expanded(given) if several else [given]:
        config = compose.defaults(quote_sweeps(each))
        if hypermodel.named(config) is not None:
            check_settings(config)
            continue
        settings, space, corners = plan.prepare(config)
        assert corners
        if settings.search.algorithm == "own":
            own = choose.create_search(settings, space)
            for number in range(20):
                assert not isinstance(own.ask(number), Answer)
                own.tell(number, Result((0.5 + number / 100,)))


def expanded(given: list[str]) -> Iterator[list[str]]:
    """The sweeps that `-m` runs, one for each value of its only list."""
    (swept,) = [argument for argument in given if "," in argument]
    key = swept.partition("=")[0]
    for value in values_of(swept) or swept.partition("=")[2].split(","):
        yield [f"{key}={value}" if argument == swept else argument for argument in given]


def keys(tree: object, prefix: str = "") -> Iterator[str]:
    for name, value in tree.items() if isinstance(tree, dict) else ():
        yield f"{prefix}{name}"
        yield from keys(value, f"{prefix}{name}.")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Every key of the shipped configs, and every group."""
    conf = ROOT / "conf"
    found = set(keys(yaml.safe_load((conf / "config.yaml").read_text())))
    for file in conf.glob("*/**/*.yaml"):
        group = file.relative_to(conf).parts[0]
        prefix = "" if group == "experiment" else f"{group}."
        if file.parent.name == "columns":
            # What data=table adds to the group model.
            prefix += f"{file.stem}."
        found |= {group, *keys(yaml.safe_load(file.read_text()), prefix)}
    return found


@pytest.mark.parametrize("page", GUIDES, ids=ids)
def test_every_key_that_a_page_names_exists(page: Path, known: set[str]) -> None:
    for override in overrides(page):
        key, _, value = override.partition("=")
        if key.startswith("+"):
            continue
        assert key.removeprefix("conditions.") in known, override
        if re.search(r"\w\(", value):
            assert read_sweep(value, key) is not None, override


def test_every_field_in_a_table_of_fields_exists(known: set[str]) -> None:
    text = "".join(page.read_text() for page in GUIDES)
    named = re.findall(
        r"`((?:model|optimizer|training|task|augment|search|workers|tracking|data|limits)\.[\w.]+\w)`", text
    )
    own = {"model.values.NAME"}
    assert named
    assert {name for name in named if name not in known} <= own


def test_commands_are_found_in_blocks_in_output_and_in_prose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests the reader of pages itself: it must not overlook a command."""
    monkeypatch.setattr("pages.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "Run `python -m mnist_sweep ui`, or `x=1`.\n\n```sh\nmake test   # tests\nA=1 make sweep\n```\n\n- list\n\n"
        "  ```console\n  $ python -m mnist_sweep report\n  done; next: python -m mnist_sweep sync\n  ```\n"
    )
    assert {(" ".join(c.words), c.output) for c in commands(page)} == {
        ("make test", ""),
        ("make sweep", ""),
        ("python -m mnist_sweep report", "done; next: python -m mnist_sweep sync\n"),
        ("python -m mnist_sweep sync", ""),
        ("python -m mnist_sweep ui", ""),
    }
    assert overrides(page) == ["x=1"]
    assert isinstance(next(commands(page)), Command)
