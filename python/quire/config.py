"""What this build of Quire is and runs on."""

from quire import _core


def show_config() -> None:
    """Print version, compiler, instruction sets built and chosen, and threads.

    Raises:
        ValueError: QUIRE_CPU names an instruction set that this machine lacks.

    Example:
        >>> quire.show_config()
    """
    info = _core.build_info()
    print(f"quire {info['version']}, compiled by {info['compiler']}")
    for name, key in (
        ("instruction sets built", "instruction_sets_built"),
        ("of these on this machine", "instruction_sets_available"),
    ):
        print(f"  {name + ':':27}{', '.join(info[key])}")
    for name, reason in info["instruction_sets_missing"].items():
        print(f"  {f'not {name}:':27}{reason}")
    print(f"  {'in use:':27}{info['instruction_set']}")
    print(f"  {'for quantised caches:':27}{info['instruction_set_of_quantised']}")
    print(f"  {'bits of chunks:':27}{'invariant' if info['chunk_invariant'] else 'not invariant'}")
    print(f"  {'threads:':27}{info['num_threads']}")
