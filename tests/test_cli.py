"""The command line, as a user runs it: output, JSON, exit codes, no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pyrage import x25519

from bench.server import ROOT, Server


def run(*arguments: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLOWWAVE_") or "CACHE" in k}
    command = [sys.executable, "-m", "cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**clean, **environment}, input=stdin, timeout=120
    )


def test_chat_once_by_argument_and_by_pipe(scripted_server: Server) -> None:
    done = run("chat", "hello", "--url", scripted_server.url)
    assert (done.returncode, done.stdout.strip()) == (0, "You said: hello"), done.stderr
    done = run("chat", stdin="from a pipe", SLOWWAVE_URL=scripted_server.url)
    assert done.stdout.strip() == "You said: from a pipe"


def test_chat_goes_on_in_its_session_as_json(scripted_server: Server) -> None:
    first = json.loads(run("chat", "one", "--json", "--url", scripted_server.url).stdout)
    second = json.loads(run("chat", "two", "-c", "--json", "--url", scripted_server.url).stdout)
    assert first["session"] == second["session"] and second["timings"]["cached_tokens"] > 0
    shown = json.loads(run("sessions", "show", first["session"], "--json", "--url", scripted_server.url).stdout)
    assert [e["content"] for e in shown["transcript"]] == ["one", "You said: one", "two", "You said: two"]
    listed = json.loads(run("sessions", "list", "--json", "--url", scripted_server.url).stdout)
    assert first["session"] in [s["id"] for s in listed["data"]]
    assert run("sessions", "delete", first["session"], "--yes", "--url", scripted_server.url).returncode == 0
    gone = run("sessions", "show", first["session"], "--url", scripted_server.url)
    assert gone.returncode == 1 and "no session" in gone.stderr


def test_a_session_is_suspended_and_resumed(scripted_server: Server) -> None:
    session = json.loads(run("chat", "one", "--json", "--url", scripted_server.url).stdout)["session"]
    done = run("checkpoint", "suspend", session, "--url", scripted_server.url)
    assert done.returncode == 0 and done.stdout.startswith("Suspended: "), done.stderr
    listed = json.loads(run("sessions", "list", "--json", "--url", scripted_server.url).stdout)["data"]
    assert [s["state"] for s in listed if s["id"] == session] == ["suspended"]
    back = json.loads(run("checkpoint", "resume", session, "--json", "--url", scripted_server.url).stdout)
    assert back["how"] == "exact" and back["tokens"] > 0
    assert "not suspended" in run("checkpoint", "resume", session, "--url", scripted_server.url).stdout
    missing = run("checkpoint", "suspend", f"sess_{'0' * 26}", "--url", scripted_server.url)
    assert missing.returncode == 1 and "Traceback" not in missing.stderr


def test_a_session_is_carried_in_a_file(scripted_server: Server, tmp_path: Path) -> None:
    url = scripted_server.url
    session = json.loads(run("chat", "one", "--json", "--url", url).stdout)["session"]
    file = tmp_path / "one.slowwave"
    done = run("checkpoint", "export", session, str(file), "--url", url)
    assert done.returncode == 0 and file.exists() and [p.name for p in tmp_path.iterdir()] == [file.name], done.stderr
    assert "--force" in run("checkpoint", "export", session, str(file), "--url", url).stderr
    told = json.loads(run("checkpoint", "inspect", str(file), "--json").stdout)
    assert told["manifest"]["session"] == {**told["manifest"]["session"], "id": session, "messages": 2}
    assert "signed by" in run("checkpoint", "inspect", str(file)).stdout
    assert run("checkpoint", "verify", str(file), "--trusted", told["signer"]).returncode == 0
    assert run("checkpoint", "verify", str(file), "--trusted", "0" * 64).returncode == 1
    came = json.loads(run("checkpoint", "import", str(file), "--json", "--url", url).stdout)
    assert came["how"] == "exact" and came["messages"] == 2 and came["session"] != session
    events = json.loads(run("checkpoint", "log", came["session"], "--json", "--url", url).stdout)
    assert [e["event"] for e in events] == ["imported"]
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    for command in (["verify", str(file)], ["import", str(file), "--url", url]):
        bad = run("checkpoint", *command)
        assert bad.returncode == 1 and "not what was written" in bad.stderr and "Traceback" not in bad.stderr
    assert run("checkpoint", "import", str(tmp_path / "none"), "--url", url).returncode == 1


def test_a_file_is_encrypted_and_goes_to_any_place(scripted_server: Server, tmp_path: Path) -> None:
    url = scripted_server.url
    session = json.loads(run("chat", "one", "--json", "--url", url).stdout)["session"]
    secret, file = tmp_path / "secret", tmp_path / "one.slowwave"
    secret.write_text("seven quiet owls\n")
    opened = ["--passphrase-file", str(secret)]
    done = run("checkpoint", "export", session, str(file), *opened, "--url", url)
    assert (
        done.returncode == 0
        and file.read_bytes().startswith(b"age-encryption.org/v1")
        and b"one" not in file.read_bytes()
    )
    assert "encrypted" in run("checkpoint", "import", str(file), "--url", url).stderr
    assert json.loads(run("checkpoint", "import", str(file), *opened, "--json", "--url", url).stdout)["how"] == "exact"
    secret.write_text("another\n")
    assert "does not open it" in run("checkpoint", "verify", str(file), *opened).stderr
    identity = x25519.Identity.generate()
    (tmp_path / "key").write_text(f"# mine\n{identity}\n")
    place = f"file://{tmp_path}/far/away.slowwave"
    (tmp_path / "far").mkdir()
    pushed = run("checkpoint", "push", session, place, "--recipient", str(identity.to_public()), "--url", url)
    assert pushed.returncode == 0 and [p.name for p in (tmp_path / "far").iterdir()] == ["away.slowwave"], pushed.stderr
    pulled = run("checkpoint", "pull", place, "--identity", str(tmp_path / "key"), "--json", "--url", url)
    assert json.loads(pulled.stdout)["messages"] == 2
    assert run("checkpoint", "pull", f"file://{tmp_path}/nowhere", "--url", url).returncode == 1


def test_separators_of_lines_and_paragraphs_do_not_break_the_stream(scripted_server: Server) -> None:
    done = run("chat", "a\u2028b\u2029c", "--url", scripted_server.url)
    assert (done.returncode, done.stdout) == (0, "You said: a\u2028b\u2029c\n"), done.stderr


def test_brackets_in_what_was_said_are_not_markup(scripted_server: Server) -> None:
    said = json.loads(run("chat", "[bold]x[/nope]", "--json", "--url", scripted_server.url).stdout)
    shown = run("sessions", "show", said["session"], "--url", scripted_server.url)
    assert "[bold]x[/nope]" in shown.stdout, shown.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "said"),
    [
        (["chat", "hi", "--url", "http://127.0.0.1:9"], {}, 3, "slowwave serve"),
        (["serve"], {"SLOWWAVE_PROT": "1"}, 2, "Did you mean SLOWWAVE_PORT"),
        (["serve", "--set", "max_bach=1"], {}, 2, "Did you mean max_batch"),
        (["serve", "--host", "0.0.0.0"], {}, 2, "API key"),
        (["serve", "--prot", "1"], {}, 2, "No such option"),
        (["frobnicate"], {}, 2, "No such command"),
    ],
)
def test_what_goes_wrong_is_said_in_a_line(
    arguments: list[str], environment: dict[str, str], code: int, said: str
) -> None:
    done = run(*arguments, **environment)
    assert done.returncode == code, done.stderr
    assert said in done.stderr.replace("\n", " ") and "Traceback" not in done.stderr


def test_errors_are_json_when_asked(tmp_path: Path) -> None:
    done = run("sessions", "list", "--json", "--url", "http://127.0.0.1:9")
    assert json.loads(done.stderr)["exit_code"] == done.returncode == 3


def test_the_doctor_finds_this_machine_fit(tmp_path: Path) -> None:
    done = run("doctor", "--json", "--data-dir", str(tmp_path / "data"))
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["healthy"], report
    names = {f["name"] for f in report["findings"]}
    assert {"python", "sqlite", "torch", "threads", "model", "data directory", "keys"} <= names
    assert not (tmp_path / "data").exists()


def test_the_doctor_names_faults_and_cures(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    (data / "slowwave.db").write_bytes(b"garbage" * 1000)
    done = run(
        "doctor", "--json", "--data-dir", str(data), "--set", "model=/nowhere/model", "--set", "host=0.0.0.0",
        "--set", "device=cuda", "--set", "threads=999",
    )  # fmt: skip
    found = {f["name"]: f for f in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert {n for n, f in found.items() if f["level"] == "fault"} >= {"model", "database", "keys", "torch"}
    assert found["threads"]["level"] == "warning"
    assert all(f["advice"] for f in found.values() if f["level"] != "ok")


def test_settings_can_be_seen_with_their_origin(tmp_path: Path) -> None:
    done = run("doctor", "--settings", "--json", SLOWWAVE_PORT="8123", SLOWWAVE_API_KEYS="very-secret-key")
    shown = json.loads(done.stdout)
    assert shown["port"] == {"value": 8123, "origin": "the environment"}
    assert "very-secret-key" not in done.stdout


def test_sigterm_lets_a_reply_finish_and_ends_cleanly(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", model="scripted")
    server.start()
    assert server.process is not None
    talking = subprocess.Popen(
        [sys.executable, "-m", "cli", "chat", "x" * 3500, "--max-tokens", "4000", "--json", "--url", server.url],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    import httpx

    while "slowwave_num_requests_running 1.0" not in httpx.get(f"{server.url}/metrics").text:
        assert talking.poll() is None, "the reply was over before it could be interrupted"
    server.process.send_signal(signal.SIGTERM)
    out, _ = talking.communicate(timeout=60)
    assert json.loads(out)["text"] == "You said: " + "x" * 3500
    assert server.process.wait(60) == 0


def test_it_says_its_version() -> None:
    done = run("--version")
    assert done.returncode == 0 and done.stdout.strip().count(".") == 2, done.stderr
