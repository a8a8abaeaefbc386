"""Writes numbers.gguf with the package gguf: blocks of random bytes, and what it makes of them.

    pip install gguf numpy
    python make_numbers.py

For each quantised type T a tensor "T" [2, 512] and a tensor "T.numbers", float32 [2, 512], by
gguf.quants.dequantize. What reads one and computes the other agrees with the package in every bit.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

ROWS, COLUMNS = 2, 512
# Where in a block its float16 scales are.
SCALES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
}


def blocks_of(name: str, rng: np.random.Generator) -> np.ndarray:
    numbers, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    count = ROWS * COLUMNS // numbers
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in SCALES[name]:
        # also subnormal ones, and of either sign
        scales = rng.normal(size=count) * 2.0 ** rng.integers(-22, 4, count)
        blocks[:, at : at + 2] = scales.astype("<f2")[:, None].view(np.uint8)
    return blocks.reshape(ROWS, -1)


def main() -> None:
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(Path(__file__).with_name("numbers.gguf"), "none")
    writer.add_array("test.texts", ["a", "", "b\u00e9"])
    writer.add_array("test.floats", [0.5, -1.25])
    writer.add_custom_alignment(64)
    for name in SCALES:
        blocks = blocks_of(name, rng)
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(name, blocks, raw_dtype=kind)
        writer.add_tensor(f"{name}.numbers", gguf.dequantize(blocks, kind).astype(np.float32))
    plain = rng.normal(size=(2, 3, 4)).astype(np.float32)
    writer.add_tensor("plain", plain)
    writer.add_tensor("plain.half", plain.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
