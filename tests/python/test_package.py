"""The distribution as it is installed: its name, who made it, the notices that it carries, and its
description."""

from __future__ import annotations

import importlib.metadata
import re

import pytest

import quire

DISTRIBUTION = importlib.metadata.distribution("quire-kv")


def test_its_name_is_its_own() -> None:
    assert DISTRIBUTION.metadata["Name"] == "quire-kv"
    assert DISTRIBUTION.version == quire.__version__
    owners = importlib.metadata.packages_distributions()["quire"]
    assert set(owners) == {"quire-kv"}


def test_it_says_who_made_it_and_what_it_is_for() -> None:
    metadata = DISTRIBUTION.metadata
    assert metadata["Author"] == "The Quire authors"
    assert {"paged attention", "kv cache"} <= set(metadata["Keywords"].lower().split(","))
    classifiers = metadata.get_all("Classifier") or []
    for minor in range(10, 15):
        assert f"Programming Language :: Python :: 3.{minor}" in classifiers
    assert any(line.startswith("Programming Language :: Python :: Free Th") for line in classifiers)


def licence_file(distribution: importlib.metadata.Distribution, name: str) -> str:
    (path,) = [p for p in distribution.files or [] if p.name == name and "licenses" in p.parts]
    return path.read_text()


def test_it_carries_the_notices_of_what_is_compiled_into_it() -> None:
    assert "Apache License" in licence_file(DISTRIBUTION, "LICENSE")
    notices = licence_file(DISTRIBUTION, "THIRD_PARTY_NOTICES.md")
    assert "Wenzel Jakob" in notices
    assert DISTRIBUTION.metadata["License-Expression"] == "Apache-2.0 AND BSD-3-Clause"


def test_the_notice_of_pybind11_is_that_of_the_version_here() -> None:
    try:
        pybind11 = importlib.metadata.distribution("pybind11")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pybind11 was elsewhere when Quire was built")
    licence = licence_file(pybind11, "LICENSE").partition("Please also refer to")[0].strip()
    assert licence in licence_file(DISTRIBUTION, "THIRD_PARTY_NOTICES.md")


def test_the_description_has_no_link_that_only_a_repository_could_follow() -> None:
    description = DISTRIBUTION.metadata.get_payload()
    assert isinstance(description, str)
    assert description.startswith("# Quire")
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", description, flags=re.DOTALL)
    links = re.findall(r"\]\(([^)]*)\)|^\[[^]]+\]: *(\S+)|(?:href|src)=\"([^\"]*)\"", prose, re.M)
    targets = [target for found in links for target in found if target]
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
