# SPDX-License-Identifier: GPL-2.0-or-later
"""Every folder here is a patch case. In it:

desc         what it is, then `key: value` lines:
               refused: REGEXP    the builder must refuse, naming the reason
               functions: A B     these old functions must be among the replaced ones
               watch: SELECT ...  a client asks this all the time; only the answers of before and
                                  after may appear
               load: no           no sysbench beside it
               at-least: N        so many functions are replaced
               server: own        the thread's memory keeps a word that refers to the patch, and the
                                  patch's memory with it: not for a server that others look at
change.diff  against Debian's source
check.sql    statements, one a line end `;`, whose rows are compared, or
check.py     check(server) -> text; prepare(server) and finish(server) around all, if it has them
before.txt   what the check gives without the patch
after.txt    and with it

Each case: build, check, apply under load, check, revert, check; at the end the code and the mappings
must be what they were.
"""
import concurrent.futures
import importlib.util
import os
import re

import pytest

from harness import LONG, Sysbench, Watch, care

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = sorted(d for d in os.listdir(HERE) if os.path.exists(os.path.join(HERE, d, "desc")))


class Case:
    def __init__(self, name):
        self.name = name
        self.folder = os.path.join(HERE, name)
        self.diff = os.path.join(self.folder, "change.diff")
        self.keys = dict(re.findall(r"^(refused|functions|watch|load|at-least|server): (.*)$", self.read("desc"),
                                    re.M))
        self.description = " ".join(re.sub(r"(?m)^\w+: .*$", "", self.read("desc")).split())

    def read(self, name):
        with open(os.path.join(self.folder, name), errors="surrogateescape") as file:
            return file.read()

    def module(self):
        path = os.path.join(self.folder, "check.py")
        if not os.path.exists(path):
            return None
        spec = importlib.util.spec_from_file_location(f"case_{self.name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def options(self):
        return ["--description", self.description]

    def build(self, target):
        expect = 0 if "refused" not in self.keys else (1, 2, 3, 4, 5, 6)
        return target.patch(self.diff, "case-" + self.name.replace("_", "-"), *self.options(),
                            expect=expect)


@pytest.fixture(scope="session")
def builds(target, request):
    """All selected cases are built in the background, two at a time, while the first ones run."""
    selected = {item.callspec.params["name"] for item in request.session.items
                if "name" in getattr(getattr(item, "callspec", None), "params", {})}
    pool = concurrent.futures.ThreadPoolExecutor(2)
    futures = {name: pool.submit(Case(name).build, target) for name in NAMES if name in selected}
    yield futures
    pool.shutdown(cancel_futures=True)


def check(case, module, server):
    text = module.check(server) if module else server.script(case.read("check.sql"))
    return text.strip()


@pytest.mark.parametrize("name", NAMES)
def test_case(name, builds, request):
    case = Case(name)
    built = builds[name].result()
    if "refused" in case.keys:
        assert re.search(case.keys["refused"], built.text), built
        return
    shown = care("care-build", "show", built).out
    for function in case.keys.get("functions", "").split():
        assert function in shown
    least = int(case.keys.get("at-least", 0))
    assert len(care("care-build", "show", built, "--json").json["functions"]) >= least

    own = case.keys.get("server") == "own"
    server = request.getfixturevalue("new_server")() if own else request.getfixturevalue("server")
    before, after = case.read("before.txt").strip(), case.read("after.txt").strip()
    assert before != after
    module = case.module()
    if module and hasattr(module, "prepare"):
        module.prepare(server)
    assert check(case, module, server) == before
    untouched = server.snapshot()
    patch = "case-" + name.replace("_", "-")

    def switch_and_check():
        applied = care("dbcarectl", "apply", built, server.pid, "--json").json
        try:
            assert check(case, module, server) == after
            again = care("dbcarectl", "apply", built, server.pid, expect=(0, 2))
            assert re.search("already", again.text), again
        finally:
            care("dbcarectl", "revert", patch, server.pid)
        assert check(case, module, server) == before
        return applied

    rounds = 10 if "watch" in case.keys and not LONG else 50 if "watch" in case.keys else 1
    if case.keys.get("load") == "no":
        switch_and_check()
    else:
        with Sysbench(server, threads=8, options=["--rate=100"]) as load:
            if "watch" in case.keys:
                with Watch(server, case.keys["watch"]) as watch:
                    for _ in range(rounds):
                        switch_and_check()
                assert set(watch.changes) == {before, after}
                assert len(watch.changes) >= rounds
            else:
                switch_and_check()
            load.check()
        assert (load.errors, load.reconnects) == (0, 0)
    if module and hasattr(module, "finish"):
        module.finish(server)
    # A thread that was inside the new code kept its memory past the revert.
    care("care-patch", "recover", "--pid", server.pid, expect=(0, 2))
    assert server.snapshot()["code"] == untouched["code"]
    assert own or server.snapshot() == untouched
    assert server.alive()
