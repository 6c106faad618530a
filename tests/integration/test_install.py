# SPDX-License-Identifier: Apache-2.0
"""The launcher works however the wheel was installed: pip, editable, uv, pipx, through symbolic links, and isolated."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def run(*argv: object, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, env={**os.environ, **(env or {})}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", out, TOP)
    (found,) = out.glob("wharfie-*.whl")
    return found


def programs(bin_dir: Path, tmp_path: Path) -> None:
    for name in ("wharfie", "wharfied", "wharfie-oci"):
        assert run(bin_dir / name, "--version").startswith(name)
    link = tmp_path / "linked"
    link.symlink_to(bin_dir / "wharfie")
    (tmp_path / "again").symlink_to("linked")
    assert run(tmp_path / "again", "--version")
    (tmp_path / "socket.py").write_text("raise SystemExit('code of the working directory was run')")
    planted = {"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "socket.py")}
    assert run("sh", "-c", f"cd {tmp_path} && exec {bin_dir / 'wharfie'} --version", env=planted)
    assert run("sh", "-c", f"PATH={bin_dir}:$PATH; exec wharfie --version")


def test_pip(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "v", with_pip=True)
    run(tmp_path / "v/bin/python", "-m", "pip", "install", "-q", wheel)
    programs(tmp_path / "v/bin", tmp_path)
    assert (tmp_path / "v/lib/systemd/system/wharfie.service").exists()


def test_editable() -> None:
    assert run(TOP / ".venv/bin/wharfie", "--version").startswith("wharfie")


def test_uv(wheel: Path, tmp_path: Path) -> None:
    env = {"UV_CACHE_DIR": str(tmp_path / "cache")}
    uv = Path(sys.executable).parent / "uv"
    run(uv, "venv", "-q", "--python", sys.executable, tmp_path / "v", env=env)
    run(uv, "pip", "install", "-q", "--python", tmp_path / "v/bin/python", wheel, env=env)
    programs(tmp_path / "v/bin", tmp_path)


def test_pipx(wheel: Path, tmp_path: Path) -> None:
    env = {
        "PIPX_HOME": str(tmp_path / "home"),
        "PIPX_BIN_DIR": str(tmp_path / "bin"),
        "PIPX_MAN_DIR": str(tmp_path / "man"),
    }
    run(sys.executable, "-m", "pipx", "install", "--python", sys.executable, wheel, env=env)
    programs(tmp_path / "bin", tmp_path)
