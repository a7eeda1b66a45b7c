"""The catalogue page in a real browser: it lists, searches, copies, can be read without a script, and by everybody."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from lxdocker.tree import page

pytestmark = pytest.mark.browser

HOSTILE = '<img src=x onerror="document.title=1"> & "quotes" \' </li></ul><script>document.title=1</script>'
SYNCED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ENTRY = page.Entry(
    name="nginx",
    aliases=("web",),
    description="",
    source="docker.io/library/nginx:latest",
    digest="sha256:" + "ab" * 32,
    version="20260102_0304",
    label="1.27.1",
    built_at="2026-01-02T03:04:05+00:00",
    sizes=(("amd64", 68_300_000), ("arm64", 64_100_000)),
    ports="80/tcp 443/tcp",
    volumes="/var/cache/nginx /etc/nginx/conf.d",
    user="nginx:nginx",
    working_dir="/srv",
    entrypoint="/docker-entrypoint.sh nginx -g 'daemon off;'",
    stop_signal="SIGQUIT",
    healthcheck="curl -f http://localhost/ every 30 s",
    environment=(("NGINX_VERSION", "1.27.1"), ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")),
    homepage="https://nginx.org/",
    source_code="https://git.example.org/nginx",
    licenses="BSD-2-Clause",
    older=(page.Older("20251224_0000", "1.26.2", (("amd64", 67_000_000),)),),
)
ENTRIES = [
    ENTRY,
    replace(ENTRY, name="redis", aliases=(), description="Keeps things in memory", ports="6379/tcp"),
    replace(ENTRY, name="hostile", aliases=(), description=HOSTILE, ports=HOSTILE, environment=((HOSTILE, HOSTILE),),
            label=HOSTILE, homepage="javascript:document.title=1", source_code="https://x/" + HOSTILE),
]  # fmt: skip
NAMES = ["nginx", "redis", "hostile"]
APPLICATIONS = ["caddy", "grafana", "home-assistant", "an-image-whose-name-is-longer-than-most-are"]
HUNDRED = [
    replace(ENTRY, name=f"{APPLICATIONS[number % 4]}-{number}", label=f"{number}.27.1",
            description="A server that answers, forwards and keeps what comes " * (number % 3))
    for number in range(100)
]  # fmt: skip


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page is served, by the plainest of web servers."""
    folder = tmp_path_factory.mktemp("page")
    (folder / page.PAGE_FILE).write_text(page.render(ENTRIES, SYNCED), encoding="utf-8")
    (folder / "hundred.html").write_text(page.render(HUNDRED, SYNCED), encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def _browser(folder: Path, *, script: bool = True) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in (
        "--headless=new",
        "--no-sandbox",  # the tests run as root
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder}",
        "--window-size=1280,900",
    ):
        options.add_argument(argument)
    if not script:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A browser with scripts on."""
    driver = _browser(tmp_path_factory.mktemp("browser"))
    yield driver
    driver.quit()


def _shown(browser: webdriver.Chrome) -> list[str]:
    items = browser.find_elements(By.CSS_SELECTOR, "ul.images > li")
    return [item.find_element(By.TAG_NAME, "h2").text for item in items if item.is_displayed()]


def _open(browser: webdriver.Chrome, number: int) -> str:
    """Opens an image of the list; gives what is seen of it then."""
    item = browser.find_elements(By.CSS_SELECTOR, "ul.images > li")[number]
    item.find_element(By.TAG_NAME, "summary").click()
    return item.text


@contextmanager
def _window(browser: webdriver.Chrome, width: int, height: int, *, dark: bool = False) -> Iterator[None]:
    """The browser has another window for a while; a narrow one is a phone's."""
    phone = width < 500
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def _axe(browser: webdriver.Chrome) -> list[str]:
    """What axe finds wrong, by WCAG 2.2 A and AA and its own best practices."""
    spec = importlib.util.find_spec("axe_core_python")
    assert spec is not None
    assert spec.origin is not None
    browser.execute_script((Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8"))
    browser.set_script_timeout(120)
    found: dict[str, Any] = browser.execute_async_script(
        "axe.run({resultTypes: ['violations'], preload: false}).then(arguments[arguments.length - 1])"
    )
    assert found["passes"], "axe looked at nothing"
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found["violations"]]


def test_it_lists_every_image_on_a_line_of_its_own(browser: webdriver.Chrome, address: str) -> None:
    browser.get(address)
    assert _shown(browser) == NAMES
    first, second, _ = browser.find_elements(By.CSS_SELECTOR, "ul.images > li")
    shown = ["nginx", "docker.io/library/nginx:latest", "1.27.1", "68.3 MB", "amd64, arm64"]
    assert first.text.splitlines() == shown
    assert "Keeps things in memory" in second.text
    assert "3 images" in browser.find_element(By.TAG_NAME, "header").text
    assert "Last synced 2026-01-02 03:04 UTC" in browser.find_element(By.TAG_NAME, "header").text


def test_a_click_shows_the_details(browser: webdriver.Chrome, address: str) -> None:
    browser.get(address)
    text = _open(browser, 0)
    for part in (
        "lxc launch lxdocker:nginx",
        "/var/cache/nginx",
        "NGINX_VERSION=1.27.1",
        "nginx:nginx",
        "curl -f http://localhost/ every 30 s",
        "443/tcp",
        "/docker-entrypoint.sh",
        "SIGQUIT",
        "sha256:abab",
        "20260102_0304 (1.27.1)",
        "2026-01-02 03:04:05 UTC",
        "68.3 MB for amd64, 64.1 MB for arm64",
        "20251224_0000 (1.26.2), 67.0 MB for amd64",
        "BSD-2-Clause",
    ):
        assert part in text
    links = browser.find_elements(By.CSS_SELECTOR, "ul.images > li:first-child a")
    assert [link.get_attribute("href") for link in links] == ["https://nginx.org/", "https://git.example.org/nginx"]


def test_what_images_say_is_text_and_nothing_else(browser: webdriver.Chrome, address: str) -> None:
    browser.get(address)
    text = _open(browser, 2)
    assert browser.title == "LXD images · lxdocker"
    assert browser.find_elements(By.TAG_NAME, "img") == []
    assert len(browser.find_elements(By.TAG_NAME, "script")) == 1
    assert HOSTILE in text
    assert "javascript:document.title=1" in text
    assert browser.find_elements(By.CSS_SELECTOR, "ul.images > li:nth-child(3) a") == []


def test_a_hundred_images(browser: webdriver.Chrome, address: str) -> None:
    """Fifteen of them are seen at once, without scrolling."""
    with _window(browser, 1280, 800):
        browser.get(f"{address}hundred.html")
        assert len(_shown(browser)) == 100
        whole = browser.execute_script(
            "return [...document.querySelectorAll('ul.images > li')].filter("
            "(item) => item.getBoundingClientRect().bottom <= innerHeight).length"
        )
        assert whole >= 15


def test_it_searches_and_says_what_it_found(browser: webdriver.Chrome, address: str) -> None:
    browser.get(address)
    field = browser.find_element(By.ID, "search")
    field.send_keys("Memory redis")
    assert _shown(browser) == ["redis"]
    assert browser.find_element(By.ID, "found").text == "1 of 3 images"
    field.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
    assert _shown(browser) == NAMES


def test_it_copies_the_launch_line_by_keyboard(browser: webdriver.Chrome, address: str) -> None:
    browser.get(address)
    browser.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"origin": address, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    _open(browser, 0)
    button = browser.find_element(By.CSS_SELECTOR, "button[data-copy]")
    browser.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    WebDriverWait(browser, 10).until(lambda _: button.text == "Copied")
    assert browser.find_element(By.ID, "found").text == "Copied: lxc launch lxdocker:nginx"
    copied = browser.execute_async_script("navigator.clipboard.readText().then(arguments[arguments.length - 1])")
    assert copied == "lxc launch lxdocker:nginx"


def test_it_says_how_to_join_with_this_servers_own_address(browser: webdriver.Chrome, address: str) -> None:
    browser.get(address)
    browser.find_element(By.TAG_NAME, "summary").click()
    origin = address.rstrip("/")
    text = browser.find_element(By.TAG_NAME, "details").text
    assert f"lxc remote add lxdocker {origin} --protocol simplestreams" in text
    assert f"lxc image registry create lxdocker --protocol simplestreams url={origin}" in text
    assert f"openssl s_client -connect {origin.removeprefix('http://')} " in text


@pytest.mark.parametrize(
    ("path", "dark", "width"),
    [("hundred.html", False, 1280), ("", False, 1280), ("", True, 1280), ("", False, 360)],
)
def test_axe_finds_nothing_wrong(browser: webdriver.Chrome, address: str, path: str, dark: bool, width: int) -> None:
    with _window(browser, width, 800, dark=dark):
        browser.get(address + path)
        assert browser.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches") is dark
        browser.find_element(By.TAG_NAME, "summary").click()
        for number in range(3):
            _open(browser, number)
        assert _axe(browser) == []


def test_nothing_is_wider_than_a_phone(browser: webdriver.Chrome, address: str) -> None:
    with _window(browser, 360, 740):
        for path in ("", "hundred.html"):
            browser.get(address + path)
            browser.find_element(By.TAG_NAME, "summary").click()
            for number in range(3):
                _open(browser, number)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 360


def test_it_can_be_read_without_a_script(address: str, tmp_path: Path) -> None:
    browser = _browser(tmp_path, script=False)
    try:
        browser.get(address)
        assert _shown(browser) == NAMES
        text = _open(browser, 0)
        assert "lxc launch lxdocker:nginx" in text
        assert "NGINX_VERSION=1.27.1" in text
        # What would need a script is not offered.
        assert not browser.find_element(By.ID, "search").is_displayed()
        assert not any(one.is_displayed() for one in browser.find_elements(By.TAG_NAME, "button"))
    finally:
        browser.quit()
