# SPDX-License-Identifier: Apache-2.0
"""The choice of an instruction set."""

from __future__ import annotations

import pytest

from pliant.ops import (
    _backends,
    instruction_set,
    instruction_sets,
)

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
