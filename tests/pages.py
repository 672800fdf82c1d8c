"""The documentation as the tests read it: its links, headings, commands, files and snippets."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The commands of these are run; those of the benchmarks take minutes to hours.
GUIDES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "experiments" / "README.md",
    ROOT / "mlruns" / "README.md",
]
PAGES = [
    *GUIDES,
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "benchmarks").rglob("*.md")),
]
PROGRAM = "python -m mnist_sweep"


@dataclass
class Block:
    """A fenced block: its language, and its lines without the fence's indentation."""

    language: str
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


@dataclass(frozen=True)
class Command:
    """A shell command, and the output that the page shows."""

    page: str
    text: str
    output: str = ""

    @property
    def words(self) -> list[str]:
        """Its arguments, without variables that are set before them and without a comment."""
        words = shlex.split(self.text, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        return words


def split(page: Path) -> tuple[str, list[Block]]:
    """A page's prose, and its fenced blocks."""
    prose: list[str] = []
    blocks: list[Block] = []
    indent: str | None = None
    for line in page.read_text().splitlines():
        fence = re.match(r"( *)```(\w*)$", line)
        if fence and indent is None:
            indent = fence.group(1)
            blocks.append(Block(fence.group(2)))
        elif fence:
            indent = None
        elif indent is not None:
            # In the README, the program is called as `make sweep` leaves it: in an environment that is not active.
            blocks[-1].lines.append(line.removeprefix(indent).replace(f".venv/bin/{PROGRAM}", PROGRAM))
        else:
            prose.append(line)
    assert indent is None, f"{page}: a block is not closed"
    return "\n".join(prose), blocks


def commands(page: Path) -> Iterator[Command]:
    """All commands that a page shows: in blocks of shell, in the output of others, and inside its prose."""
    name = str(page.relative_to(ROOT))
    prose, blocks = split(page)
    for block in blocks:
        if block.language == "console":
            for shown in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
                command, _, output = shown.partition("\n")
                yield Command(name, command, output)
        elif block.language == "sh":
            yield from (Command(name, line) for line in block.lines if line.strip())
        if block.language in ("", "console"):
            printed = (line for line in block.lines if not line.startswith("$"))
            yield from (Command(name, PROGRAM + rest) for line in printed for rest in line.split(PROGRAM)[1:])
    for code in re.findall(r"`([^`\n]+)`", prose):
        if code.startswith((PROGRAM, "pip ", "make ")):
            yield Command(name, code)


def overrides(page: Path) -> list[str]:
    """The `key=value` that a page's prose names."""
    prose, _ = split(page)
    override = re.compile(r"\+?[a-z][\w.]*=[^\s…].*")
    code = [shlex.split(text) for text in re.findall(r"`([^`\n]+)`", prose) if re.match(r"'?\+?[a-z][\w.]*=", text)]
    return [word for words in code for word in words if override.fullmatch(word)]


def files(page: Path) -> dict[str, str]:
    """What a page tells its reader to write: blocks that name their path in a comment on the first or second line."""
    found = {}
    for block in split(page)[1]:
        named = re.search(r"^# ([\w./]+\.(?:py|yaml))$", "\n".join(block.lines[:2]), re.M)
        if named and block.language in ("python", "yaml"):
            found[named.group(1)] = block.text
    return found


def snippets(page: Path) -> str:
    """A page's Python that is not a file, one after another as in a notebook."""
    written = files(page).values()
    return "".join(b.text for b in split(page)[1] if b.language == "python" and b.text not in written)


def links(page: Path) -> list[str]:
    """Where a page's links and images lead."""
    prose, _ = split(page)
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose))


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    prose, _ = split(page)
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose, re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found
