# SPDX-License-Identifier: GPL-2.0-or-later
"""Every folder here is a patch case. In it:

desc         what it is, then `key: value` lines:
               also: 11.8.6       on that build in every run; the long form has all cases on both
               long: yes          only in the long form
               refused: REGEXP    the builder must refuse, naming the reason
               functions: A B     these old functions must be among the replaced ones
               watch: SELECT ...  a client asks this all the time; only the answers of before and
                                  after may appear
               load: no           no sysbench beside it
               at-least: N        so many functions are replaced
               shares: NAME       new code uses this of the server, and brings none of its own
               image: FILE        what is patched instead of the program: refused as not loaded
                                  until the check's prepare() has loaded it
               server: own        the thread's memory keeps a word that refers to the patch, and the
                                  patch's memory with it: not for a server that others look at
change.diff  against Debian's source. A file of this name with the version in it, as in
             change.11.8.6.diff, takes its place on that build; likewise of the files below.
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

import containers
import cve
from harness import LONG, Sysbench, Watch, care

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = sorted(d for d in os.listdir(HERE) if os.path.exists(os.path.join(HERE, d, "desc")))
KEYS = "refused|functions|watch|load|at-least|shares|image|server|also|long"
# gcc 12 at -O2, and gcc 14 at -O3 with -fcf-protection.
DEBIAN_12, DEBIAN_13 = BUILDS = "10.11.18", "11.8.6"


class Case:
    def __init__(self, name, build):
        self.name, self.build_name = name, build
        self.patch = "case-" + name.replace("_", "-")
        self.folder = os.path.join(HERE, name)
        self.diff = self.path("change.diff")
        self.keys = dict(re.findall(rf"^({KEYS}): (.*)$", self.read("desc"), re.M))
        self.description = " ".join(re.sub(r"(?m)^[\w-]+: .*$", "", self.read("desc")).split())

    def path(self, name):
        stem, suffix = os.path.splitext(name)
        own = os.path.join(self.folder, f"{stem}.{self.build_name}{suffix}")
        return own if os.path.exists(own) else os.path.join(self.folder, name)

    def read(self, name):
        with open(self.path(name), errors="surrogateescape") as file:
            return file.read()

    def selected(self):
        """Whether this run has the case on this build."""
        short = self.build_name == DEBIAN_12 and "long" not in self.keys
        return LONG or short or self.keys.get("also") == self.build_name

    def module(self):
        path = self.path("check.py")
        if not os.path.exists(path):
            return None
        spec = importlib.util.spec_from_file_location(f"case_{self.name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def options(self):
        options = ["--description", self.description]
        if "image" in self.keys:
            options += ["--image", self.keys["image"]]
        return options

    def build(self, target):
        expect = 0 if "refused" not in self.keys else (1, 2, 3, 4, 5, 6)
        return target.patch(self.diff, self.patch, *self.options(), expect=expect)


CASES = [case for build in BUILDS for name in NAMES
         for case in [Case(name, build)] if case.selected()]
# Of Debian 13's server and compiler.
IMPOSSIBLE = containers.impossible()


class Debian13:
    """One server in a container for all cases, and one more for each that wants its own."""

    def __init__(self):
        self.target = cve.targets()[0]
        self.tree = cve.tree()
        self.shared = None

    def start(self):
        server = containers.Alone(self.tree)
        server.fill()
        return server.start()

    def server(self):
        if not self.shared or not self.shared.alive():
            self.shared = self.start()
        care("dbcarectl", "revert", "--all", self.shared.pid, expect=None)
        return self.shared


@pytest.fixture(scope="session")
def debian_13():
    debian = Debian13()
    yield debian
    if debian.shared:
        debian.shared.stop()
        debian.shared.remove()


@pytest.fixture(scope="session")
def builds(target, request):
    """All selected cases are built in the background, two at a time, while the first ones run."""
    cases = [item.callspec.params["case"] for item in request.session.items
             if "case" in getattr(getattr(item, "callspec", None), "params", {})]
    pool = concurrent.futures.ThreadPoolExecutor(2)
    futures = {}
    for case in cases:
        if case.build_name == DEBIAN_13 and IMPOSSIBLE:
            continue
        of = target if case.build_name == DEBIAN_12 else request.getfixturevalue("debian_13").target
        futures[case] = pool.submit(case.build, of)
    yield futures
    pool.shutdown(cancel_futures=True)


@pytest.fixture
def case_server(case, request):
    """Where the case runs."""
    own = case.keys.get("server") == "own"
    if case.build_name == DEBIAN_12:
        yield (request.getfixturevalue("new_server")() if own
               else request.getfixturevalue("server"))
        return
    debian = request.getfixturevalue("debian_13")
    server = debian.start() if own else debian.server()
    yield server
    if own:
        server.stop()
        server.remove()


def check(case, module, server):
    text = module.check(server) if module else server.script(case.read("check.sql"))
    return text.strip()


def check_contents(case, built):
    """What the description says of the patch."""
    shown = care("care-build", "show", built).out
    for function in case.keys.get("functions", "").split():
        assert function in shown
    patch = care("care-build", "show", built, "--json").json
    assert len(patch["functions"]) >= int(case.keys.get("at-least", 0))
    if "shares" in case.keys:
        assert [s["kind"] for s in patch["symbols"]
                if s["name"] == case.keys["shares"]] == ["target"], patch["symbols"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.build_name}")
def test_case(case, builds, request):
    if case not in builds:
        pytest.skip(IMPOSSIBLE)
    built = builds[case].result()
    if "refused" in case.keys:
        assert re.search(case.keys["refused"], built.text), built
        return
    check_contents(case, built)

    own = case.keys.get("server") == "own"
    server = request.getfixturevalue("case_server")
    before, after = case.read("before.txt").strip(), case.read("after.txt").strip()
    assert before != after
    module = case.module()
    if "image" in case.keys:
        early = care("dbcarectl", "apply", built, server.pid, expect=None)
        assert early.status and "not loaded" in early.text, early
    if module and hasattr(module, "prepare"):
        module.prepare(server)
    assert check(case, module, server) == before
    untouched = server.snapshot()
    patch = case.patch

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
