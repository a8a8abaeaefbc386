"""The interpreter ends while daemon threads are inside calls, and nobody aborts."""

from __future__ import annotations

import subprocess
import sys

import pytest

# What a thread does for ever; `told` is a callback that takes its time.
LIVES = {
    "attend": "quire.attend(q, [table])",
    "plain arrays": "quire.paged_attention(q, pool.k_cache(), pool.v_cache(), tables, lengths)",
    "append": "other = table.fork(); other.append(k, v); del other",
    "match": "cache.match(range(40)).free()",
    "listen": "pool.release(pool.allocate(3))",
}

PROGRAM = """
import sys, threading, time
import numpy as np, quire
pool = quire.BlockPool(256, num_kv_heads=2, head_dim=32, dtype="float32")
table = quire.BlockTable(pool)
k, v = np.ones((2, 700, 2, 32), np.float32)
table.append(k, v)
k, v = k[:9], v[:9]
q = np.ones((1, 4, 32), np.float32)
tables, lengths = quire.pack_tables([table])
cache = quire.PrefixCache(pool)
cache.insert(range(30), table)
if "told" in sys.argv:
    pool.on_event(lambda kind, ids: sum(range(200)))
begun = []

def live():
    begun.append(True)
    while True:
        %s

for i in range(4):
    threading.Thread(target=live, daemon=True).start()
while len(begun) < 4:
    time.sleep(0.001)
time.sleep(0.01)
"""


# Without the GIL Python may stop a thread that has just been given a lock of pybind11's, see
# docs/decisions/0016-free-threaded-python.md.
@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="hangs now and then without the GIL"
)
@pytest.mark.parametrize("life", LIVES)
def test_daemon_threads_are_left_behind(life: str) -> None:
    for _ in range(4):
        command = [sys.executable, "-c", PROGRAM % LIVES[life], *["told"] * (life == "listen")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")
