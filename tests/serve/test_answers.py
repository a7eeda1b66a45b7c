"""What a well-behaved client gets: files, their headers, conditions, ranges, metrics."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import time
from email.utils import formatdate
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from lxdocker import __version__
from lxdocker.serve.certs import Certificate
from lxdocker.tree import last_sync
from lxdocker.tree.last_sync import LastSync
from tests.serve.rig import METADATA, ROOTFS, SIDECAR, VERSION, Served, make_tree, serve
from tests.waiting import wait_until

IMAGES = "/streams/v1/images.json"


@pytest.fixture(scope="module")
def content(tree: Path) -> bytes:
    return (tree / ROOTFS[1:]).read_bytes()


def test_an_image_file_may_be_kept_forever(served: Served, tree: Path, content: bytes) -> None:
    answer = served.get(ROOTFS)
    assert (answer.status, answer.body) == (200, content)
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Length"] == str(len(content))
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Python" not in str(answer.headers)
    recorded = json.loads((tree / SIDECAR[1:]).read_text())["files"]["rootfs.squashfs"]["sha256"]
    assert answer.headers["ETag"] == f'"{recorded}"'
    assert served.get(METADATA).headers["Content-Type"] == "application/x-xz"


@pytest.mark.parametrize("path", [IMAGES, "/streams/v1/index.json", SIDECAR, "/", "/index.html"])
def test_what_changes_is_asked_for_every_time(served: Served, path: str) -> None:
    answer = served.get(path)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["ETag"]
    expected = "application/json" if path.endswith(".json") else "text/html; charset=utf-8"
    assert answer.headers["Content-Type"] == expected


def test_the_page_can_load_nothing_from_elsewhere(served: Served, tree: Path) -> None:
    answer = served.get("/")
    assert answer.body == (tree / "index.html").read_bytes()
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none';")
    assert "Content-Security-Policy" not in served.get(IMAGES).headers


def test_a_base_url_may_end_in_a_slash(served: Served) -> None:
    assert served.get(f"/{IMAGES}").status == 200
    assert served.get("//").status == 200


def test_queries_are_ignored(served: Served) -> None:
    assert served.get(f"{IMAGES}?x=/../..").status == 200


@pytest.mark.parametrize("path", [IMAGES, ROOTFS])
def test_head_is_get_without_the_body(served: Served, path: str) -> None:
    get, head = served.get(path), served.request("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    for name in ("Content-Length", "Content-Type", "ETag", "Cache-Control", "Last-Modified"):
        assert head.headers[name] == get.headers[name]
    with served.connection() as connection:  # and nothing follows that would be taken for the next answer
        for method in ("HEAD", "GET"):
            connection.request(method, path)
            assert connection.getresponse().read() == (get.body if method == "GET" else b"")


@pytest.mark.parametrize("path", [IMAGES, ROOTFS])
def test_who_has_it_already_gets_304(served: Served, path: str) -> None:
    etag = served.get(path).headers["ETag"]
    for given in (etag, f'"other", {etag}', "*", f"W/{etag}"):
        answer = served.get(path, If_None_Match=given)
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["ETag"] == etag
        assert answer.headers["Cache-Control"]
    assert served.get(path, If_None_Match='"other"').status == 200


def test_the_time_counts_where_there_is_no_tag(served: Served) -> None:
    changed = served.get(IMAGES).headers["Last-Modified"]
    assert served.get(IMAGES, If_Modified_Since=changed).status == 304
    assert served.get(IMAGES, If_Modified_Since=formatdate(0, usegmt=True)).status == 200
    assert served.get(IMAGES, If_Modified_Since="yesterday").status == 200
    assert served.get(IMAGES, If_None_Match='"other"', If_Modified_Since=changed).status == 200


def test_json_that_is_replaced_has_another_tag(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    images = tree / IMAGES[1:]
    with serve(tmp_path, tree) as served:
        etag = served.get(IMAGES).headers["ETag"]
        for _ in range(20):  # same size, and as quickly after one another as can be
            (tree / ".staging/new").write_bytes(images.read_bytes())
            (tree / ".staging/new").rename(images)
            answer = served.get(IMAGES, If_None_Match=etag)
            assert answer.status == 200
            etag = answer.headers["ETag"]


def test_an_update_in_place_is_not_called_immutable_by_its_old_hash(tmp_path: Path) -> None:
    """A file that is not as long as its sidecar says is damaged: its tag must not be that of the whole one."""
    tree = make_tree(tmp_path)
    with serve(tmp_path, tree) as served:
        whole = served.get(ROOTFS).headers["ETag"]
        os.truncate(tree / ROOTFS[1:], 1000)
        assert served.get(ROOTFS).headers["ETag"] != whole
        (tree / SIDECAR[1:]).write_text('{"files": []}')
        assert served.get(ROOTFS).status == 200
        (tree / SIDECAR[1:]).unlink()
        assert served.get(ROOTFS).status == 200


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-", 0, 299_999),
        ("bytes=100-199", 100, 199),
        ("bytes=299999-", 299_999, 299_999),
        ("bytes=299000-999999", 299_000, 299_999),
        ("bytes=-1", 299_999, 299_999),
        ("bytes=-500", 299_500, 299_999),
        ("bytes=-999999", 0, 299_999),
    ],
)
def test_ranges(served: Served, content: bytes, asked: str, first: int, last: int) -> None:
    answer = served.get(ROOTFS, Range=asked)
    assert answer.status == 206
    assert answer.body == content[first : last + 1]
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/300000"
    assert answer.headers["Content-Length"] == str(last - first + 1)


@pytest.mark.parametrize("asked", ["bytes=300000-", "bytes=300000-300001", "bytes=-0", "bytes=999999999999-"])
def test_ranges_that_are_not_there(served: Served, asked: str) -> None:
    answer = served.get(ROOTFS, Range=asked)
    assert answer.status == 416
    assert answer.headers["Content-Range"] == "bytes */300000"


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,3-4", "bytes=", "bytes=-", "bytes=5-3", "lines=0-1", "0-1", "bytes=a-b", f"bytes={'9' * 99}-"]
)
def test_ranges_that_mean_nothing_are_ignored(served: Served, content: bytes, asked: str) -> None:
    answer = served.get(ROOTFS, Range=asked)
    assert (answer.status, answer.body) == (200, content)


def test_a_download_that_was_cut_is_taken_up_only_of_the_same_file(served: Served, content: bytes) -> None:
    whole = served.request("HEAD", ROOTFS).headers
    for condition in (whole["ETag"], whole["Last-Modified"]):
        answer = served.get(ROOTFS, Range="bytes=1000-", If_Range=condition)
        assert (answer.status, answer.body) == (206, content[1000:])
    for condition in ('"other"', f"W/{whole['ETag']}", formatdate(0, usegmt=True)):
        assert served.get(ROOTFS, Range="bytes=1000-", If_Range=condition).status == 200
    assert served.get(ROOTFS, If_Match=whole["ETag"]).status == 200
    assert served.get(ROOTFS, If_Match='"other"').status == 412
    assert served.get(ROOTFS, If_Unmodified_Since=whole["Last-Modified"]).status == 200
    assert served.get(ROOTFS, If_Unmodified_Since=formatdate(0, usegmt=True)).status == 412


def test_documents_are_sent_packed_to_who_takes_that(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    images = tree / IMAGES[1:]
    images.write_text(json.dumps({"products": {f"image-{number}": {"versions": {}} for number in range(1000)}}))
    with serve(tmp_path, tree) as served:
        plain = served.get(IMAGES)
        assert plain.body == images.read_bytes()
        assert plain.headers["Vary"] == "Accept-Encoding"
        for accepted in ("gzip", "deflate, GZIP;q=0.5", "br, gzip"):
            packed = served.get(IMAGES, Accept_Encoding=accepted)
            assert packed.headers["Content-Encoding"] == "gzip"
            assert packed.headers["Vary"] == "Accept-Encoding"
            assert gzip.decompress(packed.body) == plain.body
            assert len(packed.body) < len(plain.body) / 4
        head = served.request("HEAD", IMAGES, {"Accept-Encoding": "gzip"})
        assert head.headers["Content-Length"] == str(len(packed.body))
        # Another body is another tag.
        etag = packed.headers["ETag"]
        assert etag != plain.headers["ETag"]
        assert served.get(IMAGES, Accept_Encoding="gzip", If_None_Match=etag).status == 304
        assert served.get(IMAGES, If_None_Match=etag).status == 200
        for accepted in ("identity", "gzip;q=0", "gzip; q=0.00", "xgzip", "*"):
            assert "Content-Encoding" not in served.get(IMAGES, Accept_Encoding=accepted).headers
        ranged = served.get(IMAGES, Accept_Encoding="gzip", Range="bytes=0-9")
        assert (ranged.status, ranged.body) == (206, plain.body[:10])
        assert "Content-Encoding" not in served.get(ROOTFS, Accept_Encoding="gzip").headers
        for number in range(10):  # a new version is packed anew
            text = json.dumps({"products": {f"other-{number}-{entry}": {"versions": {}} for entry in range(100)}})
            (tree / ".staging/new").write_text(text)
            (tree / ".staging/new").rename(images)
            assert gzip.decompress(served.get(IMAGES, Accept_Encoding="gzip").body).decode() == text


def test_an_empty_file(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    (tree / "empty.txt").touch()
    with serve(tmp_path, tree) as served:
        answer = served.get("/empty.txt")
        assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "0")
        assert served.get("/empty.txt", Range="bytes=0-").status == 416


def test_one_connection_serves_many_requests(served: Served) -> None:
    with served.connection() as connection:
        sockets = set()
        for path in (IMAGES, "/missing", ROOTFS, IMAGES):
            connection.request("GET", path)
            connection.getresponse().read()
            sockets.add(id(connection.sock))
        assert len(sockets) == 1


def test_http_1_0(served: Served) -> None:
    answer = served.raw(f"GET {IMAGES} HTTP/1.0\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert answer.endswith(b"}")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_other_methods(served: Served, method: str) -> None:
    answer = served.raw(f"{method} {IMAGES} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    status = answer.split(b" ", 2)[1]
    if method in {"CONNECT", "BREW"}:  # which the parser may not let through
        assert status in {b"400", b"405"}
    else:
        assert status == b"405"
        assert b"\r\nAllow: GET, HEAD\r\n" in answer


def test_missing(served: Served) -> None:
    for path in ("/missing", "/images", "/images/", f"/{VERSION}", f"/{VERSION}/", f"{IMAGES}/", f"{IMAGES}/x"):
        answer = served.get(path)
        assert (answer.status, answer.body) == (404, b"404 Not Found\n")
        assert answer.headers["Cache-Control"] == "no-store"


def test_two_servers_can_not_share_a_port(served: Served, tmp_path: Path, tree: Path) -> None:
    with (
        pytest.raises(AssertionError, match="Address already in use"),
        serve(tmp_path, tree, "--listen", f"127.0.0.1:{served.port}"),
    ):
        pass


def test_health(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    with serve(tmp_path, tree) as served:
        assert served.get("/healthz").body == b"ok\n"
        tree.rename(tmp_path / "away")
        assert served.get("/healthz").status == 503
        assert served.get(IMAGES).status == 404
        (tmp_path / "away").rename(tree)
        assert served.get("/healthz").status == 200


def test_metrics(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    with serve(tmp_path, tree) as served:
        for path in (IMAGES, ROOTFS, ROOTFS, "/missing"):
            served.get(path)
        size = (tree / IMAGES[1:]).stat().st_size
        found = served.metrics()
        assert found['lxdocker_requests_total{status="200"}'] == 3
        assert found['lxdocker_requests_total{status="404"}'] == 1
        assert found["lxdocker_sent_bytes_total"] == 600_000 + size
        assert found["lxdocker_images"] == 1
        assert found["lxdocker_versions"] == 1
        assert found[f'lxdocker_build_info{{version="{__version__}"}}'] == 1
        assert found["lxdocker_last_publish_timestamp_seconds"] == pytest.approx((tree / IMAGES[1:]).stat().st_mtime)
        assert not [name for name in found if "sync" in name or "failed" in name]  # there was none
        last_sync.record(tree, "a" * 16, LastSync(1.8e9, 2.5, 1, frozenset({"db", "web"})))
        last_sync.record(tree, "b" * 16, LastSync(1.9e9, 1.5, 0))
        found = served.metrics()
        assert found["lxdocker_failed_images"] == 2
        assert found["lxdocker_last_sync_success"] == 0
        assert found["lxdocker_last_sync_timestamp_seconds"] == 1.8e9
        assert found["lxdocker_last_sync_duration_seconds"] == 2.5
        assert served.get(f"/.sync.{'a' * 16}.json").status == 404  # clients have no use for it
        assert found["lxdocker_certificate_end_timestamp_seconds"] > time.time() + 9 * 365 * 86400
        wait_until("the closed connections to be gone", lambda: served.metric("lxdocker_connections") == 1)
        assert served.metric("lxdocker_downloads") == 0
        with served.tls():
            assert served.metric("lxdocker_connections") == 2
        (tree / IMAGES[1:]).write_text("{")
        assert served.metric("lxdocker_images") == 0


def test_the_log_has_what_was_asked_and_nothing_that_could_deceive(served: Served) -> None:
    served.get(f"{IMAGES}?token=secret", User_Agent="test agent/1.0", Referer='http://x/" 200')
    assert served.get(IMAGES, Referer="\x1b[31m").status == 400
    served.raw_status("/a%0a%1b[31m", "User-Agent: \udcff\udc9b31m\u202e\\")
    log = wait_until("the log", lambda: served.log if "%0a" in served.log else "")
    line = next(line for line in log.splitlines() if "test agent" in line)
    fields = r"127\.0\.0\.1 - - \[.*\+0000\] " + r'"GET /streams/v1/images\.json HTTP/1\.1" 200 \d+ '
    assert re.match(fields, line)
    assert '"http://x/\\x22 200" "test agent/1.0"' in line
    assert "secret" not in log
    assert '"GET /a%0a%1b[31m HTTP/1.1" 404 14 "-" "\\xff\\x9b31m\\xe2\\x80\\xae\\x5c"' in log
    assert not [one for one in log if not one.isprintable() and one != "\n"]


def test_it_says_what_to_type_elsewhere(tmp_path: Path, tree: Path) -> None:
    with serve(tmp_path, tree, "--name", "images.lan") as served:
        said = served.said
        url = f"https://images.lan:{served.port}"
        assert said.startswith(f"serving {tree} (1 image) at {url}\n")
        assert f"lxdocker remote add {url} lxdocker --fingerprint" in said
        for program in ("lxc", "incus"):
            assert f"{program} remote add lxdocker {url} --protocol simplestreams" in said
        for folder in ("~/.config/lxc", "~/snap/lxd/common/config", "~/.config/incus"):
            assert f"{folder}/servercerts/lxdocker.crt" in said
        assert "https://images.lan" in said


def test_it_starts_with_three_lines(tmp_path: Path, tree: Path) -> None:
    with serve(tmp_path, tree, verbose=False) as served:
        certificate = Certificate.parse(served.certificate.read_bytes())
        assert served.said.splitlines() == [
            f"serving {tree} (1 image) at {served.url}",
            f"certificate SHA-256 {certificate.shown_fingerprint}, valid until {certificate.ends:%Y-%m-%d}",
            f"on this host only: lxdocker remote add {served.url} lxdocker --fingerprint {certificate.fingerprint}",
        ]
        assert served.log == ""


def test_an_empty_tree_is_served_and_said_to_be_empty(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with serve(tmp_path / "served", empty, verbose=False) as served:
        hint = f"no images yet: run lxdocker sync --tree {empty}"
        assert served.said.splitlines()[0] == f"serving {empty} ({hint}) at {served.url}"
        assert served.get("/healthz").status == 200


@pytest.mark.parametrize(("name", "why"), [("missing", "no such folder"), ("file", "not a folder")])
def test_a_tree_that_is_no_folder_is_refused(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "lxdocker", "serve", "--listen", "127.0.0.1:0"]
    done = subprocess.run(
        [*command, "--tree", str(tmp_path / name), "--tls-dir", str(tmp_path / "tls")],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[:2] == [f"error: no published images at {tmp_path / name}", f"  {why}"]
    assert "--tree DIR" in done.stderr
    assert not (tmp_path / "tls").exists()


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this host has no IPv6")
def test_ipv6(tmp_path: Path, tree: Path) -> None:
    with serve(tmp_path, tree, "--listen", "[::1]:0") as served:
        connection = HTTPSConnection("::1", served.port, context=served.context(), timeout=10)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
        assert f"https://[::1]:{served.port}" in served.said
