# SPDX-License-Identifier: Apache-2.0
"""`pliant completion`: what a real shell makes of the script."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pliant.cli import main

pytest.importorskip("shtab")
BASH = shutil.which("bash")


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_bash_completes_commands_options_choices_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "pliant.bash"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    (tmp_path / "photo.jpg").touch()

    def completed(*words: str) -> list[str]:
        """What bash offers for the last of the words."""
        typed = 'shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))'
        code = f'source {script}; {typed}; _shtab_pliant; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(
            [BASH or "", "-c", code, "bash", "-", "pliant", *words], capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert completed("e") == ["eval", "explain", "export", "env"]
    assert completed("export", "--dec") == ["--decompose"]
    assert completed("predict", "--draw", "b") == ["bins"]
    assert completed("predict", str(tmp_path / "ph")) == [str(tmp_path / "photo.jpg")]


def test_zsh_has_a_script_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef pliant\n")
