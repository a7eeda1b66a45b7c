"""A hook that is a URL, to which the document is posted."""

from __future__ import annotations

import threading

from urllib3.util import Url

from lxdocker.errors import LxdockerError
from lxdocker.http import url as urls
from lxdocker.http.failure import RequestError
from lxdocker.http.route import Place
from lxdocker.http.trust import Tls, make_context
from lxdocker.http.wire import Limits, Patience, Request, Wire
from lxdocker.log import RUN
from lxdocker.values import is_loopback

_PAUSES = (1.0, 4.0)  # seconds before the second and the third try
_MAX_ANSWER = 64 * 1024


class _SystemAuthorities:
    """TLS by this host's authorities, SSL_CERT_FILE included; plain HTTP where the URL says so."""

    def admit(self, url: Url, previous: Url | None) -> Tls | None:
        return None if url.scheme == "http" else Tls(make_context())

    def reached(self, url: Url, place: Place) -> None:
        pass


def post(url: str, document: bytes, timeout: float) -> None:
    """Posts ``document``, at most three times if the server can't be reached or is busy.

    A login in the URL is sent as basic authentication. Raises LxdockerError, which names the server but no other part
    of the URL: the path may be as secret as a login.
    """
    parsed = urls.parse(url)
    if parsed is None:
        raise LxdockerError("invalid URL of a hook", "", "give one such as https://HOST/PATH")
    server = f"{parsed.scheme}://{parsed._replace(auth=None).netloc}"
    if parsed.auth and parsed.scheme == "http" and not is_loopback(parsed.host or ""):
        raise LxdockerError(
            f"refusing to send a login to {server}", "others could read it on the way", "use an https URL"
        )
    RUN.info("hook: POST to %s", server)
    headers = {"Content-Type": "application/json"}
    if parsed.auth:
        headers["Authorization"] = urls.basic_of(parsed)
    share = round(timeout / 9, 1)
    wire = Wire(Limits(connect=share, piece=share * 2, head=share * 2, body=share, redirects=0))
    request = Request("POST", parsed._replace(auth=None).url, headers, _MAX_ANSWER, document, is_private=True)
    try:
        answer = wire.ask(request, _SystemAuthorities(), Patience(threading.Event(), _PAUSES))
    except RequestError as error:
        raise LxdockerError(f"cannot post to {server}", error.why, "check the URL and this host's network") from None
    finally:
        wire.close()
    if not 200 <= answer.status < 300:
        raise LxdockerError(f"{server} refused the POST", f"status {answer.status}", "check the URL")
