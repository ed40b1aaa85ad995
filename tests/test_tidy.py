"""Rules of the house that no linter knows; a failure names file, line and rule."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600
ARCHITECTURE_LINES_MAX = 150
TEXT_BYTES_MAX = 1_000_000  # larger tracked files are data

SAYS_NOTHING = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}
# In each pattern some [x] keeps this file from matching itself. A leftover may stay with its reason in brackets.
LEFTOVER = re.compile(r"#.*\b([T]ODO|[F]IXME|[X]XX|[H]ACK)\b(?!\([^)]{3,}\))")
MACHINE = r"(?<![\w.~}-])/(?:work|root|home/\w+|tmp/[a-z])/"
REGISTRY = r"[p]ypi\.org|[p]ythonhosted\.org|[n]pmjs\.(?:org|com)|\b(?:[d]eb|[f]tp)\.debian\.org"
NOT_OURS = re.compile(f"{MACHINE}|{REGISTRY}", re.I)
SIGNED_FLOW = re.compile(r"(?:^|_)net_(?:power_|energy_)?[kmg]?wh?(?:_|$)")


def tracked() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files belong to the project is unknown")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert paths, "git lists no file"
    return [path for path in paths if path.is_file()]


def modules(*folders: str) -> Iterator[tuple[Path, str, ast.Module]]:
    for path in tracked():
        if path.suffix == ".py" and (not folders or path.relative_to(ROOT).parts[0] in folders):
            yield path.relative_to(ROOT), (text := path.read_text()), ast.parse(text)


def nodes(*folders: str) -> Iterator[tuple[Path, ast.AST]]:
    yield from ((path, node) for path, _, tree in modules(*folders) for node in ast.walk(tree))


def clean(findings: Iterator[str]) -> None:
    assert not (found := list(findings)), "\n" + "\n".join(found)


def test_every_folder_and_module_is_named_after_what_it_holds() -> None:
    parts = ((path, {path.stem, *path.parts[:-1]}) for path, _, _ in modules())
    clean(f"{path}: a name that says nothing" for path, names in parts if names & SAYS_NOTHING)


def test_a_function_can_be_read_in_one_go() -> None:
    functions = ((p, n) for p, n in nodes() if isinstance(n, FUNCTION))
    sizes = ((p, n, (n.end_lineno or n.lineno) - n.lineno + 1) for p, n in functions)
    long = (
        (f"{p}:{n.lineno}: {n.name}", size) for p, n, size in sizes if size > FUNCTION_LINES_MAX
    )
    clean(f"{name}: {size} lines, need <= {FUNCTION_LINES_MAX}" for name, size in long)


def test_a_file_can_be_read_in_one_sitting() -> None:
    sizes = ((path, text.count("\n")) for path, text, _ in modules())
    most = FILE_LINES_MAX
    clean(f"{path}: {size} lines, need <= {most}" for path, size in sizes if size > most)


def test_modules_open_with_a_docstring() -> None:
    trees = ((path, tree) for path, _, tree in modules("src", "benchmarks", "scripts"))
    clean(
        f"{path}: say what is here, what is not"
        for path, tree in trees
        if not ast.get_docstring(tree)
    )


def test_no_leftovers() -> None:
    lines = ((p, i, s) for p, text, _ in modules() for i, s in enumerate(text.splitlines(), 1))
    clean(f"{p}:{i}: {s.strip()}" for p, i, s in lines if LEFTOVER.search(s))


def test_no_text_names_a_machine_or_a_package_registry() -> None:
    small = (path for path in tracked() if path.stat().st_size <= TEXT_BYTES_MAX)
    texts = (
        (path, raw.decode(errors="replace"))
        for path in small
        if b"\0" not in (raw := path.read_bytes())
    )
    lines = ((p, i, s) for p, text in texts for i, s in enumerate(text.splitlines(), 1))
    clean(
        f"{p.relative_to(ROOT)}:{i}: {m.group()}" for p, i, s in lines if (m := NOT_OURS.search(s))
    )


def test_only_units_converts_hours() -> None:
    constants = (
        (p, n) for p, n in nodes("src") if isinstance(n, ast.Constant) and p.name != "units.py"
    )
    clean(f"{p}:{n.lineno}: a bare 3600; use hanse.units" for p, n in constants if n.value == 3600)


def test_flows_are_never_signed() -> None:
    fields = (
        (p, n, str(getattr(n, f, ""))) for p, n in nodes("src") for f in ("id", "arg", "attr")
    )
    signed = (found for found in fields if SIGNED_FLOW.search(found[2]))
    clean(
        f"{p}:{getattr(n, 'lineno', 0)}: {name}; need import_ and export_" for p, n, name in signed
    )


def test_the_architecture_fits_on_three_pages() -> None:
    page = ROOT / "ARCHITECTURE.md"
    if not page.exists():
        pytest.skip("there is no ARCHITECTURE.md")
    assert page.read_text().count("\n") <= ARCHITECTURE_LINES_MAX
