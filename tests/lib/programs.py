# SPDX-License-Identifier: GPL-2.0-or-later
"""Small C programs to patch: compiled, registered with care-build, started, asked, looked at."""
import difflib
import hashlib
import json
import os
import re
import select
import subprocess
import time

from harness import care, die_with_parent, run, wait_until

MAIN = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
void say(char question);
void prepare(void) __attribute__((weak));
int main(void)
{
	char question;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (prepare)
		prepare();
	puts("ready");
	while (read(0, &question, 1) == 1)
		say(question);
	return 0;
}
"""


def _patch(of, target, name, changes, *options, expect):
    """A patch that replaces texts in the source: changes is {old: new}."""
    new = of.source
    for old, text in changes.items():
        assert new.count(old) == 1, f"{old!r} is not there once"
        new = new.replace(old, text)
    diff = os.path.join(of.folder, name + ".diff")
    with open(diff, "w") as out:
        out.writelines(difflib.unified_diff(of.source.splitlines(True), new.splitlines(True),
                                            "a/" + of.case, "b/" + of.case))
    path = os.path.join(of.folder, name + ".cpatch")
    done = care("care-build", "patch", "--target", target, "--name", name, "--diff", diff,
                *options, "-o", path, env=of.env, expect=expect)
    return path if expect == 0 else done


class Program:
    """case.c, which answers questions in say(char), with a main that reads them."""

    def __init__(self, folder, source, flags=("-O2", "-fPIE"), link=("-pie",), name="prog",
                 case="case.c", main=MAIN, others=()):
        """@case is the name of the source file: case.cc makes it C++. @main: text of main.c.
        @others: {name: text} of more C files, and of headers."""
        self.folder, self.name, self.source, self.case = str(folder), name, source, case
        self.env = {"CARE_BUILD_CACHE": os.path.join(self.folder, "cache")}
        self.binary = os.path.join(self.folder, name)
        os.makedirs(self.folder, exist_ok=True)
        files = {case: source, "main.c": main, **dict(others)}
        for file, text in files.items():
            with open(os.path.join(self.folder, file), "w") as out:
                out.write(text)
        commands, objects = [], []
        for file in files:
            if file.endswith(".h"):
                continue
            objects.append(os.path.splitext(file)[0] + ".o")
            command = ["c++" if file.endswith(".cc") else "cc", "-g", *flags, "-c", file, "-o",
                       objects[-1]]
            subprocess.run(command, cwd=self.folder, check=True)
            commands.append({"directory": self.folder, "command": " ".join(command),
                             "file": os.path.join(self.folder, file)})
        linker = "c++" if case.endswith(".cc") else "cc"
        subprocess.run([linker, *link, *objects, "-o", self.binary, "-lpthread"],
                       cwd=self.folder, check=True)
        self.database = os.path.join(self.folder, "compile_commands.json")
        with open(self.database, "w") as out:
            json.dump(commands, out)
        care("care-build", "target", "add", "program", "--name", name, "--compile-commands",
             self.database, "--binary", self.binary, env=self.env)

    def patch(self, name, changes, *options, expect=0):
        return _patch(self, self.name, name, changes, *options, expect=expect)

    def start(self, **kwargs):
        return Running(self, **kwargs)


class Library:
    """libcase.so beside the program, from lib.cc or lib.c, known to care-build."""

    def __init__(self, program, source, case="lib.cc", link=""):
        self.folder, self.env = program.folder, program.env
        self.source, self.case = source, case
        with open(f"{self.folder}/{case}", "w") as out:
            out.write(source)
        # Unique symbols would keep it loaded for ever.
        command = f"c++ -x {'c++' if case.endswith('.cc') else 'c'} -g -O2 -fPIC " \
                  f"-fno-gnu-unique -c {case} -o lib.o"
        subprocess.run(command.split(), cwd=self.folder, check=True)
        subprocess.run(f"c++ -shared {link} -Wl,-soname,libcase.so lib.o -o libcase.so".split(),
                       cwd=self.folder, check=True)
        with open(f"{self.folder}/lib.json", "w") as out:
            json.dump([{"directory": self.folder, "command": command,
                        "file": f"{self.folder}/{case}"}], out)
        care("care-build", "target", "add", "program", "--name", "libcase", "--compile-commands",
             f"{self.folder}/lib.json", "--binary", f"{self.folder}/libcase.so", env=self.env)

    def patch(self, name, changes, *options, expect=0):
        return _patch(self, "libcase", name, changes, *options, expect=expect)


class Running:
    """The program at work; killed at the end of its context."""

    def __init__(self, program, before=None, env=None, ready=True):
        """@ready: wait until it says so."""
        self.program = program
        self.process = subprocess.Popen(
            [program.binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=program.folder,
            text=True, bufsize=1, env=env and {**os.environ, **env},
            preexec_fn=before or die_with_parent)
        self.pid = self.process.pid
        # A large one takes its time on a busy machine.
        assert not ready or self.line(60) == "ready"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()

    def line(self, seconds=10):
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        assert ready, "the program does not answer"
        return self.process.stdout.readline().rstrip("\n")

    def tell(self, question):
        self.process.stdin.write(question)
        self.process.stdin.flush()

    def ask(self, question="a"):
        self.tell(question)
        return self.line()

    def alive(self):
        return self.process.poll() is None

    def maps(self):
        with open(f"/proc/{self.pid}/maps") as maps:
            return maps.read()

    def ours(self):
        """Mappings of patches."""
        return [line for line in self.maps().splitlines() if "care:" in line]

    def code(self):
        """Hash of all executable bytes of files and their protections."""
        digest = hashlib.sha256()
        with open(f"/proc/{self.pid}/mem", "rb", 0) as memory:
            for line in self.maps().splitlines():
                fields = line.split()
                if "x" not in fields[1] or len(fields) < 6 or not fields[5].startswith("/") \
                        or "care:" in line:
                    continue
                start, end = (int(x, 16) for x in fields[0].split("-"))
                memory.seek(start)
                digest.update(f"{fields[0]} {fields[1]}".encode() + memory.read(end - start))
        return digest.hexdigest()

    def snapshot(self):
        """All that must be the same when nothing of ours is left."""
        heap = re.compile(r"^.*\[heap\]$", re.M)
        files = sorted(os.listdir(f"/proc/{self.pid}/fd"))
        return heap.sub("", self.maps()), self.code(), files

    # ---- care-patch

    def apply(self, patch, *options, expect=0):
        return care("care-patch", "apply", patch, "--pid", self.pid, "--json", *options,
                    expect=expect).json

    def revert(self, name, *options, expect=0):
        return care("care-patch", "revert", name, "--pid", self.pid, "--json", *options,
                    expect=expect).json

    def released(self):
        if self.ours():
            care("care-patch", "recover", "--pid", self.pid, expect=(0, 2))
        return not self.ours()

    def info(self):
        return care("care-patch", "info", "--pid", self.pid, "--json").json["patches"]


def flip(program, changes, questions="a"):
    """Answers before, with and after a patch that makes these changes (each question a letter);
    the process must be as before in the end."""
    patch = program.patch("flip", changes)
    with program.start() as p:
        old = [p.ask(q) for q in questions]
        before = p.snapshot()
        p.apply(patch)
        new = [p.ask(q) for q in questions]
        p.revert("flip")
        after = [p.ask(q) for q in questions]
        # A thread that computes in new code for now keeps its memory until a later look.
        wait_until(p.released, 20, "the memory of the reverted patch is released")
        assert p.snapshot() == before
    return old, new, after


def refusal(result):
    """The message of a refused command's JSON."""
    return result["error"]["message"]
