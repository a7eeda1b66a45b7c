"""The catalogue page in a real browser: it lists, searches, copies, can be read without a script, and by everybody."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
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
ENTRIES = [
    page.Entry(
        name=name,
        aliases=aliases,
        description=description,
        source=f"docker.io/library/{name}:latest",
        digest="sha256:" + "ab" * 32,
        version="20260102_0304",
        built_at="2026-01-02T03:04:05+00:00",
        size=68_300_000,
        architectures=("amd64", "arm64"),
        ports=ports,
        volumes="",
    )
    for name, aliases, description, ports in (
        ("nginx", ("web",), "", "80/tcp 443/tcp"),
        ("redis", (), "Keeps things in memory", "6379/tcp"),
        ("hostile", (), HOSTILE, HOSTILE),
    )
]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page is served, by the plainest of web servers."""
    folder = tmp_path_factory.mktemp("page")
    (folder / page.PAGE_FILE).write_text(page.render(ENTRIES), encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def _browser(folder: Path, *, script: bool = True, dark: bool = False, width: int = 1100) -> webdriver.Chrome:
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
        f"--window-size={width},900",
    ):
        options.add_argument(argument)
    if dark:
        options.add_argument("--blink-settings=preferredColorScheme=0")
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


def _axe(browser: webdriver.Chrome) -> list[str]:
    """What axe finds wrong, by WCAG 2.2 A and AA and its own best practices."""
    spec = importlib.util.find_spec("axe_core_python")
    assert spec is not None
    assert spec.origin is not None
    browser.execute_script((Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8"))
    found: dict[str, Any] = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    assert found["passes"], "axe looked at nothing"
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found["violations"]]


def test_it_lists_every_image_with_what_a_person_needs(browser: webdriver.Chrome, address: str) -> None:
    browser.get(address)
    assert _shown(browser) == ["nginx", "redis", "hostile"]
    first = browser.find_element(By.CSS_SELECTOR, "ul.images > li").text
    for text in (
        "docker.io/library/nginx:latest",
        "sha256:abab",
        "20260102_0304",
        "68.3 MB",
        "amd64, arm64",
        "80/tcp 443/tcp",
        "2026-01-02 03:04:05 UTC",
        "web",
        "lxc launch lxdocker:nginx",
    ):
        assert text in first


def test_what_images_say_is_text_and_nothing_else(browser: webdriver.Chrome, address: str) -> None:
    browser.get(address)
    assert browser.title == "LXD images · lxdocker"
    assert browser.find_elements(By.TAG_NAME, "img") == []
    assert HOSTILE in browser.find_elements(By.CSS_SELECTOR, "ul.images > li")[2].text


def test_it_searches_and_says_what_it_found(browser: webdriver.Chrome, address: str) -> None:
    browser.get(address)
    field = browser.find_element(By.ID, "search")
    field.send_keys("Memory redis")
    assert _shown(browser) == ["redis"]
    assert browser.find_element(By.ID, "found").text == "1 of 3 images"
    field.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
    assert _shown(browser) == ["nginx", "redis", "hostile"]


def test_it_copies_the_launch_line_by_keyboard(browser: webdriver.Chrome, address: str) -> None:
    browser.get(address)
    browser.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"origin": address, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
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
    assert f"openssl s_client -connect {origin.removeprefix('http://')} " in text


@pytest.mark.parametrize(("dark", "width"), [(False, 1100), (True, 1100), (False, 360)])
def test_axe_finds_nothing_wrong(address: str, tmp_path: Path, dark: bool, width: int) -> None:
    browser = _browser(tmp_path, dark=dark, width=width)
    try:
        browser.get(address)
        assert browser.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches") is dark
        browser.find_element(By.TAG_NAME, "summary").click()
        assert _axe(browser) == []
    finally:
        browser.quit()


def test_nothing_is_wider_than_a_phone(address: str, tmp_path: Path) -> None:
    browser = _browser(tmp_path)
    try:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        )
        browser.get(address)
        browser.find_element(By.TAG_NAME, "summary").click()
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        browser.quit()


def test_it_can_be_read_without_a_script(address: str, tmp_path: Path) -> None:
    browser = _browser(tmp_path, script=False)
    try:
        browser.get(address)
        assert _shown(browser) == ["nginx", "redis", "hostile"]
        assert "lxc launch lxdocker:nginx" in browser.find_element(By.TAG_NAME, "main").text
        # What would need a script is not offered.
        assert not browser.find_element(By.ID, "search").is_displayed()
        assert not any(one.is_displayed() for one in browser.find_elements(By.TAG_NAME, "button"))
    finally:
        browser.quit()
