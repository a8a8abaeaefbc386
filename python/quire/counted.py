"""Numbers with their nouns, for texts."""


def counted(n: int, noun: str) -> str:
    """ "1 block", "2 blocks"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
