"""The documents are right: examples run, links lead somewhere, variables are listed."""

import re
from pathlib import Path

import pytest

import sodeep_fast

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

# The wheel job copies only a part of a clone next to the tests.
in_a_clone = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="the sources are not next to the tests"
)


def test_the_examples_of_the_readme_run_and_learn(capsys):
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert examples
    names: dict[str, object] = {}
    for example in examples:  # each continues the one before
        exec(example, names)
    assert "tensor([1.9975, 1.0025, 3.0000]" in capsys.readouterr().out
    assert float(names["value"].detach()) < 0.05
    assert names["embeddings"].grad.abs().sum() > 0


def test_the_readme_names_the_commands_and_existing_functions():
    for command in ("make demo", "make test", "sodeep-fast doctor", "sodeep-fast bench"):
        assert command in README
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    named = {
        name for row in rows for name in re.findall(r"`([A-Za-z_]+)[`(.]", row.split(" | ")[0])
    }
    assert named <= set(dir(sodeep_fast))
    # What others return, and the version.
    assert set(sodeep_fast.__all__) - named <= {"RankCounts", "__version__"}


@in_a_clone
@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", (ROOT / document).read_text())
    for link in links:
        assert (ROOT / link).exists(), link


@in_a_clone
def test_every_environment_variable_is_in_the_table():
    folders = ("sodeep_fast", "csrc", "kernels", "bench", "demo", "tests")
    files = [ROOT / "setup.py", *(file for name in folders for file in (ROOT / name).rglob("*"))]
    read = re.compile(  # as Python and C++ read them
        r"(?:environ(?:\.(?:get|setdefault)\(|\[)|getenv\()\s*[\"'](\w+)[\"']"
    )
    used = {
        name
        for file in files
        if file.suffix in {".py", ".cpp", ".h", ".cu", ".cuh"}
        for name in read.findall(file.read_text())
    }
    table = set(re.findall(r"^\| `(\w+)`", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.M))
    assert used - {"PATH", "PYTHONPATH", "RANK"} <= table  # the system's, Python's and torchrun's
    assert {"SODEEP_FAST_CUDA", "SODEEP_FAST_CUDA_ARCHS", "SODEEP_FAST_CPU"} <= table


@in_a_clone
def test_the_changelog_has_the_version_or_an_unreleased_part():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text or f"## [{sodeep_fast.__version__}]" in text


@in_a_clone
def test_the_lock_and_the_commit_hooks_pin_the_same_versions():
    lock = dict(
        line.split("==")
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if "==" in line
    )
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    for name, version in re.findall(r'"([\w-]+)==([\d.]+)"', hooks):
        assert lock[name] == version


@in_a_clone
def test_every_package_is_installed():
    (listed,) = re.findall(
        r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for file in (ROOT / "sodeep_fast").rglob("__init__.py")
    }
    assert set(re.findall(r'"(.+?)"', listed)) == found | {"sodeep_fast.kernels"}


@in_a_clone
def test_what_is_compiled_by_instruction_set_includes_no_standard_header():
    headers = sorted((ROOT / "csrc/cpu/isa").glob("*.h"))
    assert headers
    for header in headers:
        # Code compiled for a newer processor could also run on an older one.
        assert "#include <" not in header.read_text(), header
