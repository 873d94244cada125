"""The docs are true: examples run, settings and files are named, the tree matches the disk."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx

from bench.server import ROOT, Server
from settings import Settings

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_every_setting_is_in_the_readme_and_every_name_there_exists() -> None:
    table = README.split("| setting | default | |")[1].split("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])}
    assert named == set(Settings.model_fields)


def test_the_tree_in_the_readme_is_the_tree_on_disk() -> None:
    tree = README.split("## The tree")[1].split("```")[1]
    named = {
        word.rstrip("/")
        for line in tree.splitlines()
        for word in re.findall(r"^(\S+)|  (\S+/)$", line)[:1]
        for word in word
        if word
    }
    named |= {"tests"}
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
    top = {Path(f).parts[0] for f in tracked}
    code = {t for t in top if t.endswith(".py") or (ROOT / t).is_dir()} - {".ci"}
    assert code <= named, code - named
    assert named <= top, named - top


def test_linked_files_exist() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_python_example_runs(smollm_server: Server, tmp_path: Path) -> None:
    (code,) = blocks("python")
    script = tmp_path / "example.py"
    script.write_text(code.replace("http://127.0.0.1:8000", smollm_server.url))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Paris" in done.stdout, done.stderr


def test_the_terminal_examples_run(smollm_server: Server) -> None:
    shell = "".join(b for b in blocks("sh") if "bin/slowwave " in b)
    environment = {**os.environ, "SLOWWAVE_URL": smollm_server.url}
    for line in shell.splitlines():
        command = [sys.executable, "-m", "cli", *re.findall(r'"[^"]*"|\S+', line)[1:]]
        command = [part.strip('"') for part in command]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=environment, input="Hi there", timeout=120
        )  # fmt: skip
        assert done.returncode == 0 and done.stdout.strip(), (line, done.stderr)
    for night in httpx.get(f"{smollm_server.url}/v1/sleep/cycles").json()["data"]:  # its own test is test_smollm.py
        httpx.post(f"{smollm_server.url}/v1/sleep/cycles/{night['id']}/cancel", timeout=60)


def test_every_command_takes_json() -> None:
    from cli import app

    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    assert len(groups) == 10
    for group in groups:
        assert group is not None
        for command in group.registered_commands:
            assert command.callback is not None
            assert "json_output" in command.callback.__annotations__, command.callback.__name__
