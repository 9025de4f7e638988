# SPDX-License-Identifier: GPL-2.0-or-later
"""MariaDB's own tests do not notice that their servers are patched all the time."""
import statistics

import regression
from harness import LONG

SHORT = ["main.func_math", "main.join", "main.order_by", "main.group_by", "main.subselect",
         "main.union", "main.func_str", "innodb.innodb"]
# Those that mostly share a server instead of starting their own: it is running code that counts.
SUITES = ["--suite=main,innodb",
          "--do-test=^(func_|group_|join|select|order_|union|subselect|type_|null|insert|update|"
          "delete|view|trigger|having|distinct|derived|cte_|win|range|case|cast|count|bigint|"
          "auto_increment|foreign|partition|sp[-_.]|ps[-_.]|show|multi|query_cache|ctype_|parser|"
          "temp_table|loaddata|limit|like|date|row|string|user|variables|"
          "innodb[-_](autoinc|lock|bug|index|truncate|mysql))"]
# For the run without patches; the same tests take longer with them.
MINUTES = 8


def _suspects(target, plain, patched):
    """Tests that passed once without and did not pass with patches, unless they fail without
    patches too when they are asked again."""
    suspects = plain.passed() - patched.passed()
    if not suspects:
        return suspects
    names = sorted({name.split(" ")[0] for name in suspects})
    for _ in range(3):
        suspects &= regression.Run(target, names).passed()
    return suspects


def test_every_regression_test_that_passes_unpatched_passes_patched(target):
    patches = regression.neutral_patches(target)
    plain = regression.Run(target, SUITES if LONG else SHORT, minutes=MINUTES if LONG else None)
    assert len(plain.passed()) > (60 if LONG else len(SHORT) // 2), plain.text[-4000:]
    names = sorted({name.split(" ")[0] for name in plain.passed()})
    patched = regression.Run(target, names, patches)
    counts = patched.patcher.counts
    print(f"{len(plain.passed())} tests passed unpatched in {plain.seconds:.0f} s, "
          f"{len(plain.passed() & patched.passed())} of them patched in {patched.seconds:.0f} s; "
          f"{counts}, pause p50 {statistics.median(patched.patcher.pauses or [0]):.2f} ms")
    assert not patched.patcher.unexpected, patched.patcher.unexpected[0]
    suspects = _suspects(target, plain, patched)
    assert not suspects, (suspects, patched.text[-8000:])
    # A run without patching would show nothing.
    assert counts["applied"] >= (500 if LONG else 10), counts
    assert counts["reverted"] >= (500 if LONG else 10), counts
