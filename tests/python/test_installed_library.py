"""The C++ library as its users meet it: configured without tests or network, installed, found by
CMake, or a folder of another project."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from compiled_code import BUILD, CMAKE, ROOT, check_that_it_compiles, cmake, run
from documented_code import code_blocks, only_block
from headers import public_headers

pytestmark = [
    pytest.mark.skipif("QUIRE_SANITIZED" in os.environ, reason="builds anew what it runs"),
    pytest.mark.skipif(CMAKE is None, reason="no CMake"),
]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (BUILD / "CMakeCache.txt").exists():
        pytest.skip(f"nothing built in {BUILD}: scripts/test builds it")
    prefix = tmp_path_factory.mktemp("prefix")
    cmake("--install", BUILD, "--prefix", prefix)
    return prefix


def build_against(prefix: Path, source: Path, build: Path) -> None:
    options = (f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_BUILD_TYPE=Release")
    cmake("-S", source, "-B", build, *options)
    cmake("--build", build)


def test_minimal_cpp(prefix: Path, tmp_path: Path) -> None:
    build_against(prefix, ROOT / "examples", tmp_path)
    assert run(tmp_path / "minimal") == "40 tokens in 3 blocks, attention 19.500\n"


def build_consumer(prefix: Path, code: str, folder: Path) -> Path:
    """The README's project with this app.cpp, built: the program."""
    source = folder / "source"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(only_block(ROOT / "README.md", "cmake"))
    (source / "app.cpp").write_text(code)
    build_against(prefix, source, folder / "build")
    return folder / "build" / "app"


def test_the_consumer_of_the_readme(prefix: Path, tmp_path: Path) -> None:
    app = build_consumer(prefix, only_block(ROOT / "README.md", "cpp"), tmp_path)
    assert run(app, tmp_path / "table") == "20 tokens, 20 tokens\n"
    assert (tmp_path / "table").exists()


def test_the_program_of_the_guide(prefix: Path, tmp_path: Path) -> None:
    (block,) = code_blocks(ROOT / "docs" / "guides" / "cpp.md", "cpp")
    assert run(build_consumer(prefix, block.code, tmp_path)) == block.shown


def installed_headers(prefix: Path) -> set[str]:
    include = prefix / "include"
    return {path.relative_to(include).as_posix() for path in include.rglob("*") if path.is_file()}


def test_what_is_installed_is_reached_from_quire_h(prefix: Path) -> None:
    reached = set(public_headers(ROOT / "cpp"))
    assert installed_headers(prefix) == reached
    assert {"quire/io/table_file.h", "quire/io/cache_file.h"} <= reached
    assert not any("simd" in header or "kernel_list" in header for header in reached)


def test_beside_headers_and_libraries_only_the_licence_is_installed(prefix: Path) -> None:
    assert {path.name for path in prefix.iterdir()} <= {"include", "lib", "lib64", "share"}
    shared = [path for path in (prefix / "share").rglob("*") if path.is_file()]
    assert [path.name for path in shared] == ["LICENSE"]


def test_each_installed_header_compiles_alone(prefix: Path, tmp_path: Path) -> None:
    def compile_alone(header: str) -> None:
        source = tmp_path / (header.replace("/", "_") + ".cpp")
        source.write_text(f'#include "{header}"\n')
        check_that_it_compiles(source, prefix / "include")

    headers = installed_headers(prefix)
    assert len(headers) > 20
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(compile_alone, headers))


# Configuring can then neither fetch nor find what the tests need.
OFFLINE = (
    "-DFETCHCONTENT_FULLY_DISCONNECTED=ON",
    "-DCMAKE_DISABLE_FIND_PACKAGE_GTest=ON",
    "-DCMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON",
    "-DGTEST_SOURCE_DIR=none",
)


def test_it_is_configured_without_network_or_googletest(tmp_path: Path) -> None:
    assert CMAKE is not None
    cmake("-S", ROOT, "-B", tmp_path / "plain", *OFFLINE)
    with_tests = (CMAKE, "-S", ROOT, "-B", tmp_path / "tests", "-DQUIRE_BUILD_TESTS=ON", *OFFLINE)
    assert subprocess.run(with_tests, capture_output=True, check=False).returncode != 0


SUBDIRECTORY = f"""
cmake_minimum_required(VERSION 3.21)
project(owner LANGUAGES CXX)
include(FetchContent)
FetchContent_Declare(quire SOURCE_DIR "{ROOT}")
FetchContent_MakeAvailable(quire)
# Only objects are made, for which the library need not be built: that takes minutes.
set(CMAKE_OPTIMIZE_DEPENDENCIES ON)
add_library(part OBJECT part.cpp)
target_link_libraries(part PRIVATE quire::quire)
install(FILES part.cpp DESTINATION share)
"""


def test_it_is_a_folder_of_another_project(tmp_path: Path) -> None:
    source, build, prefix = tmp_path / "source", tmp_path / "build", tmp_path / "prefix"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(SUBDIRECTORY)
    (source / "part.cpp").write_text(
        '#include "quire/quire.h"\nint threads() { return quire::default_num_threads(); }\n'
    )
    cmake("-S", source, "-B", build, *OFFLINE)
    cmake("--build", build, "--target", "part")
    cmake("--install", build, "--prefix", prefix)
    installed = {path.name for path in prefix.rglob("*") if path.is_file()}
    assert installed == {"part.cpp"}
