#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints "PASSED FAILED" of a finished run: count.py meson TESTLOG.json | count.py junit FILE.xml"""
import json
import re
import sys
import xml.etree.ElementTree as ElementTree


def meson(path):
    """Each meson test is a program of many cmocka functions; a program that crashed is one more."""
    passed = failed = 0
    with open(path) as log:
        for line in log:
            test = json.loads(line)
            text = (test.get("stdout") or "") + (test.get("stderr") or "")
            ok = re.search(r"\[  PASSED  \] (\d+) test", text)
            bad = re.search(r"\[  FAILED  \] \w*: ?(\d+) test|\[  FAILED  \] (\d+) test", text)
            good = test["result"] in ("OK", "EXPECTEDFAIL", "SKIP")
            passed += int(ok.group(1)) if ok else int(good)
            number = int(next(filter(None, bad.groups()))) if bad else 0
            failed += number if number else int(not good)
    return passed, failed


def junit(path):
    passed = failed = 0
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        bad = int(suite.get("failures")) + int(suite.get("errors"))
        failed += bad
        passed += int(suite.get("tests")) - bad - int(suite.get("skipped"))
    return passed, failed


try:
    print(*{"meson": meson, "junit": junit}[sys.argv[1]](sys.argv[2]))
except (OSError, ValueError, ElementTree.ParseError) as error:
    print("no results:", error, file=sys.stderr)
    print(0, 1)
