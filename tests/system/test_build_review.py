# SPDX-License-Identifier: GPL-2.0-or-later
"""What a reviewer does with a patch file: makes it again, and reads its page."""
import html.parser
import os
import re
import signal
import stat
import subprocess

import pytest

from harness import care, program, wait_until
from patchfile import seal
from programs import Program

SOURCE = r"""
#include <stdio.h>
#include <string.h>
int calls;
__attribute__((noinline)) static int twice(int x)
{
	return 2 * x + x % 7;
}
__attribute__((noinline)) int weigh(const char *text)
{
	int sum = 0;

	for (const char *c = text; *c; c++)
		sum += twice(*c);
	return sum;
}
void say(char question)
{
	calls++;
	printf("%d\n", weigh(question == 'a' ? "<a>" : "b"));
}
"""
CHANGES = {"\treturn 2 * x + x % 7;": "\treturn 2 * x + x % 7 + calls;",
           "\treturn sum;": "\tif (sum < 0)\n\t\tputs(\"less than <nothing> & more\");\n"
                            "\treturn sum;"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    program = Program(tmp_path_factory.mktemp("review"), SOURCE)
    return program, program.patch("weight", CHANGES, "--cve", "CVE-2026-1", "--cvss", "7.5",
                                  "--description", "Weighs <less>")


def verify(program, path, expect=0):
    return care("care-build", "verify", path, "--json", env=program.env, expect=expect).json


def section(path, name):
    """Offset and size of a section in the file."""
    text = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True,
                          check=True).stdout
    found = re.search(rf"\s{re.escape(name)}\s+\S+\s+\S+\s+([0-9a-f]+)\s+([0-9a-f]+)", text)
    return int(found.group(1), 16), int(found.group(2), 16)


def damaged(path, name, at):
    """A copy with another byte in that section."""
    offset, size = section(path, name)
    with open(path, "rb") as file:
        data = bytearray(file.read())
    data[offset + at % size] ^= 1
    copy = path.replace(".cpatch", "-damaged.cpatch")
    with open(copy, "wb") as file:
        file.write(seal(data))
    return copy


def test_output_goes_through_links_and_to_devices_and_replaces_neither(made, tmp_path):
    program, path = made
    device, link, file = tmp_path / "device", tmp_path / "link", tmp_path / "page.html"
    os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))  # as /dev/null
    link.symlink_to(file)
    for command in (["report", path], ["patch", "--target", program.name, "--name", "weight",
                                       "--diff", os.path.join(program.folder, "weight.diff")]):
        for out in (device, link):
            care("care-build", *command, "-o", out, env=program.env)
        assert stat.S_ISCHR(os.lstat(device).st_mode) and link.is_symlink()
        assert file.stat().st_size > 1000
    assert "Is a directory" in care("care-build", "report", path, "-o", tmp_path, env=program.env,
                                    expect=1).text


@pytest.mark.parametrize("options", [["--cve", "CVE-2026"], ["--cve", "fix"],
                                     ["--cve", "CVE-2026-1", "--cvss", "11"],
                                     ["--cve", "CVE-2026-1", "--cvss", "high"]])
def test_what_is_no_cve_and_no_score_is_refused(made, options, tmp_path):
    done = care("care-build", "patch", "--target", made[0].name, "--name", "x", "--diff",
                os.path.join(made[0].folder, "weight.diff"), *options, "-o", tmp_path / "x.cpatch",
                env=made[0].env, expect=1)
    assert options[-1] in done.err and not (tmp_path / "x.cpatch").exists()


def test_a_patch_made_again_from_its_own_diff_is_the_same_byte_by_byte(made):
    result = verify(*made)
    assert result["verified"] and result["differs"] == []
    assert result["functions"] >= 2 and result["ranges"] >= 2 and result["original_bytes"] > 10


def test_two_diffs_make_one_patch_that_is_verified(made, tmp_path):
    program, _ = made
    for i, old in enumerate(CHANGES):
        program.patch(f"part{i}", {old: CHANGES[old]})
    first = os.path.join(program.folder, "part0.diff")
    second = os.path.join(program.folder, "part1.diff")
    both = str(tmp_path / "both.cpatch")
    care("care-build", "patch", "--target", program.name, "--name", "both", "--diff", first,
         "--diff", second, "-o", both, env=program.env)
    assert verify(program, both)["verified"]


@pytest.mark.parametrize("script, told", [
    ("kill -9 $$", "could not do its work (signal 9"),
    ("GCC_EXEC_PREFIX=/nowhere/ exec /usr/bin/cc \"$@\"", "cannot execute"),
    ("exec /usr/bin/cc \"$@\" -o /dev/full", "No space left on device")])
def test_a_compiler_that_cannot_work_says_nothing_of_the_patch(made, script, told, tmp_path):
    program, path = made
    (tmp_path / "cc").write_text("#!/bin/sh\n" + script + "\n")
    (tmp_path / "cc").chmod(0o755)
    env = {**program.env, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = care("care-build", "verify", path, env=env, expect=1)
    assert told in done.err and "differs" not in done.text, done.text


def test_a_tool_that_is_missing_is_not_the_diffs_fault(made, tmp_path):
    reviewed, _ = made
    done = care("care-build", "patch", "--target", reviewed.name, "--name", "x", "--diff",
                os.path.join(reviewed.folder, "weight.diff"), "-o", tmp_path / "x.cpatch",
                env={**reviewed.env, "PATH": str(tmp_path)}, expect=1)
    assert "cannot run patch: No such file or directory: is it installed" in done.err


def test_a_source_that_is_compiled_otherwise_than_it_was_is_told(tmp_path):
    source = SOURCE.replace("void say(", "int limit(void)\n{\n\treturn LIMIT;\n}\nvoid say(")
    made = Program(tmp_path, source, flags=("-O2", "-fPIE", "-DLIMIT=1"))
    change = {"\treturn sum;": "\treturn sum + 1;"}
    assert care("care-build", "show", made.patch("same", change), "--json").json["notes"] == []
    with open(made.database) as file:
        commands = file.read()
    with open(made.database, "w") as file:
        file.write(commands.replace("-DLIMIT=1", "-DLIMIT=2"))
    care("care-build", "target", "add", "program", "--name", "other",
         "--compile-commands", made.database, "--binary", made.binary, env=made.env)
    made.name = "other"
    [note] = care("care-build", "show", made.patch("other", change), "--json").json["notes"]
    assert note.startswith("1 function of case.c that this patch leaves alone") and "(limit)" in note
    made.patch("limit", {"LIMIT;": "LIMIT + 1;"}, expect=5)


def test_what_a_killed_builder_left_is_removed_by_the_next_but_not_what_is_in_use(made, tmp_path):
    reviewed, path = made
    (tmp_path / "cc").write_text("#!/bin/sh\nsleep 60\n")
    (tmp_path / "cc").chmod(0o755)
    (tmp_path / "temp").mkdir()
    env = {**reviewed.env, "TMPDIR": str(tmp_path / "temp")}
    waits = {**os.environ, **env, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [program("care-build"), "verify", path]
    builders, folders = [], []
    for _ in range(2):
        builders.append(subprocess.Popen(command, env=waits, stderr=subprocess.DEVNULL))
        wait_until(lambda: len(os.listdir(tmp_path / "temp")) == len(builders), 20, "its folder")
        folders += set(os.listdir(tmp_path / "temp")) - set(folders)
    dead, alive = (tmp_path / "temp" / folder for folder in folders)
    (tmp_path / "temp" / "care-build-mine").symlink_to(reviewed.folder)
    builders[0].kill()
    builders[0].wait()
    for folder in (dead, alive):
        os.utime(folder, (0, 0))  # long ago, as far as anybody can tell
    care("care-build", "verify", path, env=env)
    assert not dead.exists() and alive.exists() and os.path.exists(reviewed.folder)
    builders[1].send_signal(signal.SIGTERM)
    builders[1].wait()
    assert os.listdir(tmp_path / "temp") == ["care-build-mine"]


@pytest.mark.parametrize("force", ["--dependent", "--independent"])
def test_what_the_maker_decided_is_made_again(made, force):
    program, _ = made
    path = program.patch("forced", {"\treturn sum;": "\treturn sum + 1;"}, force)
    assert verify(program, path)["verified"]


def test_other_code_in_the_file_is_named(made):
    program, path = made
    wrong = damaged(path, ".text.weigh", -1)
    result = verify(program, wrong, expect=5)
    assert not result["verified"]
    assert any(".text.weigh is not what the source gives" in line for line in result["differs"])


def test_other_original_bytes_are_named(made):
    program, path = made
    # Header and two records of 24 bytes, then the ranges: 16 bytes in front of the hash.
    functions = len(care("care-build", "show", path, "--json").json["functions"])
    wrong = damaged(path, ".care.functions", 8 + 24 * functions + 20)
    result = verify(program, wrong, expect=5)
    assert any("of the shipped program are others" in line for line in result["differs"])


def test_another_diff_in_the_file_is_found_out(made):
    program, path = made
    with open(path, "rb") as file:
        data = file.read()
    assert data.count(b"2 * x + x % 7 + calls") == 1
    wrong = path.replace(".cpatch", "-other.cpatch")
    with open(wrong, "wb") as file:
        file.write(seal(data.replace(b"2 * x + x % 7 + calls", b"2 * x + x % 7 - calls")))
    result = verify(program, wrong, expect=5)
    assert any("hash of the source" in line for line in result["differs"])
    assert any("is not what the source gives" in line for line in result["differs"])


def test_a_diff_in_the_file_that_does_not_apply_is_found_out(made):
    program, path = made
    with open(path, "rb") as file:
        data = file.read()
    wrong = path.replace(".cpatch", "-broken.cpatch")
    with open(wrong, "wb") as file:
        file.write(seal(data.replace(b"-\treturn 2 * x + x % 7;", b"-\treturn 3 * x + x % 7;")))
    result = verify(program, wrong, expect=5)
    assert any("makes no patch" in line for line in result["differs"])


def test_a_program_that_is_no_target_is_named(made, tmp_path):
    _, path = made
    done = care("care-build", "verify", path, "--json", expect=3,
                env={"CARE_BUILD_CACHE": str(tmp_path)})
    assert "no target with build-id" in done.json["error"]["message"]


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.text, self.tags, self.links, self.open = [], set(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for key, value in attrs if key in ("href", "src")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_shows_source_and_code_and_nothing_is_fetched_or_run(made, tmp_path):
    program, path = made
    out = str(tmp_path / "page.html")
    care("care-build", "report", path, "-o", out, env=program.env)
    page = Page()
    with open(out) as file:
        page.feed(file.read())
    assert page.open == []
    text = "".join(page.text)
    for wanted in ("CVE-2026-1", "CVSS 7.5", "Weighs <less>", "weigh", "twice",
                   "+\treturn 2 * x + x % 7 + calls;", "less than <nothing> & more", "calls"):
        assert wanted in text, wanted
    assert "script" not in page.tags and "less" not in page.tags and "nothing" not in page.tags
    assert all(link.startswith("#") for link in page.links), page.links
    # The instruction that reads the counter stands in the new code, by its name.
    assert re.search(r"add\w*\s+\S+.*# calls", text), text


def test_what_the_diff_says_and_the_patch_lacks_is_on_the_page(made, tmp_path):
    program, _ = made
    with open(os.path.join(program.folder, "README"), "w") as file:
        file.write("one\n")
    with open(os.path.join(program.folder, "weight.diff")) as file:
        diff = file.read() + "--- a/README\n+++ b/README\n@@ -1 +1 @@\n-one\n+two\n"
    with open(tmp_path / "x.diff", "w") as file:
        file.write(diff)
    path, out = str(tmp_path / "x.cpatch"), str(tmp_path / "x.html")
    care("care-build", "patch", "--target", program.name, "--name", "x", "--diff",
         str(tmp_path / "x.diff"), "-o", path, env=program.env)
    care("care-build", "report", path, "-o", out, env=program.env)
    with open(out) as file:
        assert "<li>README is no part of the program</li>" in file.read()
    assert verify(program, path)["verified"]


def test_a_refused_patch_has_a_page_that_says_what_and_why(made, tmp_path):
    program, _ = made
    page_path = str(tmp_path / "refused.html")
    done = program.patch("wrong", {"int calls;": "int calls = 3;", "\treturn sum;":
                                   "\treturn sum < 0 ? -1 : sum; /* <b> */"},
                         "--cve", "CVE-2026-2", "--report", page_path, "--json", expect=5)
    message = done.json["error"]["message"]
    page = Page()
    with open(page_path) as file:
        page.feed(file.read())
    assert page.open == [] and "b" not in page.tags and page.links == []
    text = "".join(page.text)
    for wanted in ("CVE-2026-2", "refused", "initial value", message, "+int calls = 3;",
                   "return sum < 0 ? -1 : sum; /* <b> */"):
        assert wanted in text, wanted


def test_a_patch_that_is_made_has_the_same_page_at_once(made, tmp_path):
    program, _ = made
    once, later = str(tmp_path / "once.html"), str(tmp_path / "later.html")
    path = program.patch("paged", {"\treturn sum;": "\treturn sum + 2;"}, "--report", once)
    care("care-build", "report", path, "-o", later, env=program.env)
    with open(once) as a, open(later) as b:
        assert a.read() == b.read()
