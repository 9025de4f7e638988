# SPDX-License-Identifier: GPL-2.0-or-later
"""OpenSSL's libraries below a running mariadbd: a fix from the next release, taken from the sources
of both. A client that resumes a TLS session without the extended master secret which that session
had is refused by both; RFC 7627 wants the alert of the newer one."""
import difflib
import os
import re
import socket
import ssl
import struct
import subprocess

import pytest

from harness import CACHE, Target, care, run, versions
from patches import write

SOURCE = "ssl/ssl_sess.c"
FUNCTION = "ssl_get_prev_session"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
NO_EXTENDED_MASTER_SECRET = 1  # SSL_OP_NO_EXTENDED_MASTER_SECRET
OLD_ALERT, NEW_ALERT = "ILLEGAL_PARAMETER", "HANDSHAKE_FAILURE"


@pytest.fixture(scope="module")
def openssl():
    return Target(versions()["OPENSSL_VERSION"], source="openssl")


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """The source of the release with the fix."""
    folder = tmp_path_factory.mktemp("newer")
    version = versions()["OPENSSL_NEWER_VERSION"]
    apt = ["apt-get", f"-oDir::Etc::sourcelist={CACHE}/apt/sources.list",
           "-oDir::Etc::sourceparts=/nonexistent", f"-oDir::State::lists={CACHE}/apt/lists",
           "-oAPT::Sandbox::User=root", "-oDir::Cache::pkgcache=", "-oDir::Cache::srcpkgcache="]
    source = ["source", "--download-only", "--only-source", f"openssl={version}"]
    # The lists may be older than the release.
    if run(*apt, *source, cwd=folder).status != 0:
        done = run(*apt, "update", cwd=folder)
        assert done.status == 0, done
        done = run(*apt, *source, cwd=folder)
        assert done.status == 0, done
    done = run("dpkg-source", "--no-check", "-x", f"openssl_{version}.dsc", "src", cwd=folder)
    assert done.status == 0, done
    return folder / "src"


@pytest.fixture(scope="module")
def fix(openssl, newer, tmp_path_factory):
    """The newer release's change of the one alert; the release re-indents the whole file besides."""
    with open(os.path.join(openssl.folder, "src", SOURCE)) as file:
        before = file.read().splitlines(True)
    after = (newer / SOURCE).read_text().splitlines(True)
    changes = [c for c in difflib.SequenceMatcher(None, before, after, False).get_opcodes()
               if c[0] == "replace" and "SSL_R_INCONSISTENT_EXTMS" in "".join(after[c[3]:c[4]])]
    assert len(changes) == 1, changes
    _, start, end, new_start, new_end = changes[0]
    fixed = before[:start] + after[new_start:new_end] + before[end:]
    diff = difflib.unified_diff(before, fixed, f"a/{SOURCE}", f"b/{SOURCE}")
    return write(str(tmp_path_factory.mktemp("fix")), "fix.diff", "".join(diff))


@pytest.fixture
def server(openssl, new_server, tmp_path, monkeypatch):
    done = run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
               "/CN=server", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem")
    assert done.status == 0, done
    with monkeypatch.context() as patch:
        patch.setenv("LD_LIBRARY_PATH", os.path.join(openssl.root, LIBRARIES))
        return new_server(options=[f"--ssl-cert={tmp_path}/cert.pem",
                                   f"--ssl-key={tmp_path}/key.pem"])


def client_command(server, text):
    return [os.path.join(server.root, "usr/bin/mariadb"), "--no-defaults", "--ssl", "-BN",
            "-S", server.socket, "-u", "tests", "-e", text]


# An interpreter that answers each line with what libcrypto says is the size of its RSA key.
ASKED = """
import ctypes, sys
crypto = ctypes.CDLL("libcrypto.so.3")
crypto.EVP_PKEY_Q_keygen.restype = ctypes.c_void_p
key = ctypes.c_void_p(crypto.EVP_PKEY_Q_keygen(None, None, b"RSA", ctypes.c_size_t(2048)))
print("ready", flush=True)
for line in sys.stdin:
    print(crypto.EVP_PKEY_get_size(key), flush=True)
"""


def tls_cipher(server):
    done = run(*client_command(server, "SHOW STATUS LIKE 'Ssl_cipher'"))
    assert done.status == 0, done
    return done.out.split()[1]


class Client:
    """Speaks MariaDB's protocol as far as the TLS handshake."""

    def __init__(self, server):
        self.server, self.session = server, None
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.context.maximum_version = ssl.TLSVersion.TLSv1_2

    def handshake(self):
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(30)
            plain.connect(self.server.socket)
            plain.recv(4096)
            # SSLRequest: 4.1 protocol, TLS, secure connection.
            body = struct.pack("<IIB23x", 0x200 | 0x800 | 0x8000, 1 << 24, 45)
            plain.sendall(struct.pack("<I", len(body) | 1 << 24) + body)
            with self.context.wrap_socket(plain, session=self.session) as tls:
                self.session = tls.session
                return tls.session_reused

    def alert(self):
        """The alert by which a resumption without the extended master secret is refused."""
        self.context.options |= NO_EXTENDED_MASTER_SECRET
        try:
            with pytest.raises(ssl.SSLError) as error:
                self.handshake()
        finally:
            self.context.options &= ~NO_EXTENDED_MASTER_SECRET
        return re.search(r"ALERT_(\w+)", error.value.reason).group(1)


def test_functions_of_both_libraries_are_what_the_source_gives(openssl):
    for image, source in (("libssl.so.3", "ssl/statem/extensions.c"),
                          ("libcrypto.so.3", "crypto/x509/x509_vfy.c")):
        match = care("care-build", "match", "--target", openssl.name, "--image",
                     f"{LIBRARIES}/{image}", source, "--json", timeout=1200).json
        assert match["total"] > 30
        assert match["identical"] == match["total"], match


def test_a_fix_of_the_next_release_is_applied_to_libssl_below_a_running_server(openssl, fix, server):
    libraries = os.path.join(openssl.root, LIBRARIES)
    assert {f"{libraries}/libssl.so.3", f"{libraries}/libcrypto.so.3"} <= \
        {row[4] for row in server.maps()}
    patch = openssl.patch(fix, "libssl-alert", "--image", f"{LIBRARIES}/libssl.so.3")
    shown = care("care-build", "show", patch, "--json").json
    assert [f["name"] for f in shown["functions"]] == [FUNCTION]
    # The library is found by the build-id in the file.
    verified = care("care-build", "verify", patch, "--json").json
    assert verified["verified"] and verified["ranges"] >= 1

    client = Client(server)
    client.handshake()
    assert client.handshake(), "the server resumes no session"
    assert client.alert() == OLD_ALERT and tls_cipher(server)
    # A connection from before to after.
    through = subprocess.Popen(client_command(server, "SELECT SLEEP(8), 'through'"),
                            stdout=subprocess.PIPE, text=True)
    care("care-patch", "apply", patch, "--pid", server.pid)
    assert client.alert() == NEW_ALERT
    assert client.handshake() and tls_cipher(server)
    care("care-patch", "revert", "libssl-alert", "--pid", server.pid)
    assert client.alert() == OLD_ALERT
    assert client.handshake() and tls_cipher(server)
    assert through.communicate(timeout=60)[0].split() == ["0", "through"]


def test_new_code_calls_a_function_that_the_stripped_library_has_without_its_name(openssl, tmp_path):
    source, hidden = "crypto/evp/p_lib.c", "evp_keymgmt_util_query_operation_name"
    with open(os.path.join(openssl.folder, "src", source)) as file:
        before = file.read()
    assert hidden not in before
    old = "size = pkey->ameth->pkey_size(pkey);\n#endif\n    }\n    return size < 0 ? 0 : size;\n"
    assert before.count(old) == 1
    after = before.replace(old, old.replace(
        "size < 0 ? 0 : size", f"strlen({hidden}(pkey->keymgmt, OSSL_OP_SIGNATURE))"))
    diff = write(str(tmp_path), "name.diff", "".join(difflib.unified_diff(
        before.splitlines(True), after.splitlines(True), f"a/{source}", f"b/{source}")))
    patch = openssl.patch(diff, "hidden-name")
    # Where it lies is what the unit that defines it tells.
    match = care("care-build", "match", "--target", openssl.name, "crypto/evp/keymgmt_lib.c",
                 "--json", timeout=1200).json
    [defined] = [f for f in match["units"][0]["functions"] if f["symbol"] == hidden]
    [used] = [s for s in care("care-build", "show", patch, "--json").json["symbols"]
              if s["name"] == hidden]
    assert used["kind"] == "target" and used["address"] == defined["vaddr"], (used, defined)
    assert care("care-build", "verify", patch, "--json").json["verified"]

    environment = dict(os.environ, LD_LIBRARY_PATH=os.path.join(openssl.root, LIBRARIES))
    with subprocess.Popen(["/usr/bin/python3", "-c", ASKED], env=environment, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        def ask():
            process.stdin.write("\n")
            process.stdin.flush()
            return process.stdout.readline()

        assert process.stdout.readline() == "ready\n"
        assert ask() == "256\n"
        care("care-patch", "apply", patch, "--pid", process.pid)
        assert ask() == f"{len('RSA')}\n"
        care("care-patch", "revert", "hidden-name", "--pid", process.pid)
        assert ask() == "256\n"
        process.stdin.close()
        assert process.wait(30) == 0
