# SPDX-License-Identifier: Apache-2.0
"""The choice of an instruction set."""

from __future__ import annotations

import pytest

from pliant.cli import main
from pliant.ops import _backends, _instruction_sets, instruction_set, instruction_sets

IMPLS = ["reference", *(["native"] if _backends.native_library() is not None else [])]


@pytest.mark.skipif("native" not in IMPLS, reason="no compiled library")
def test_an_instruction_set_is_chosen_and_given_back() -> None:
    library = _backends.native_library()
    assert library is not None
    known, before = instruction_sets(), library.instruction_set()
    assert known[-1] == "baseline" and before in known
    for name in known:
        with instruction_set(name):
            assert library.instruction_set() == name
        assert library.instruction_set() == before
    with pytest.raises(ZeroDivisionError), instruction_set("baseline"):
        raise ZeroDivisionError
    assert library.instruction_set() == before


@pytest.mark.skipif("native" not in IMPLS, reason="no compiled library")
def test_an_unknown_instruction_set_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="instruction set of this machine") as caught, instruction_set("avx1024"):
        pass
    names = ", ".join(map(repr, instruction_sets()))
    assert str(caught.value).startswith(
        f"name: must be an instruction set of this machine; got 'avx1024'; use {names}."
    )


def test_without_the_library_there_is_no_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backends, "native_library", lambda: None)
    monkeypatch.setattr(_backends, "why_no_native", lambda: "this installation holds no compiled library")
    assert instruction_sets() == ()
    with pytest.raises(ValueError, match="compiled library") as caught, instruction_set("avx2"):
        pass
    assert str(caught.value) == (
        "name: must be an instruction set of the compiled library; this installation holds no compiled library; "
        "reinstall pliant with a C++17 compiler and PLIANT_NO_NATIVE unset"
    )


@pytest.mark.skipif("native" not in IMPLS, reason="no compiled library")
def test_env_compares_the_instruction_sets(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    library = _backends.native_library()
    assert library is not None
    in_use = library.instruction_set()
    assert main(["env", "--instruction-sets"]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(said) == ["avx512", "avx2", "baseline"]
    for name, verdict in said.items():
        here = (
            "agrees with the reference"
            if name in instruction_sets()
            else "not on this processor, or not in this library"
        )
        assert verdict == ("in use, " if name == in_use else "") + here
    assert library.instruction_set() == in_use

    right = _instruction_sets.deform_roi_pool
    monkeypatch.setattr(
        _instruction_sets, "deform_roi_pool", lambda *a, impl: right(*a, impl=impl) * (2 if impl == "native" else 1)
    )
    assert main(["env", "--instruction-sets"]) == 1
    assert "baseline    differs from the reference: please report it" in capsys.readouterr().out.replace("in use, ", "")
