"""Links: another host is asked only where that is allowed, at the address looked at, within limits."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from adapters.items import fetching
from engine.errors import PromptError

PUBLIC = "93.184.215.14"
Answer = tuple[int, dict[str, str], Iterable[bytes]]


class Internet:
    """A server on loopback that stands behind every address, and names that lead where a test says.

    Only the connection itself is led astray and its encryption left out; all checks are the real ones.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, list[list[str]]] = {}
        self.paths: dict[str, Callable[[], Answer]] = {}
        self.asked: list[str] = []
        self.connected: list[str] = []
        self.certified: list[str] = []
        internet = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                internet.asked.append(f"{self.headers['Host']}{self.path}")
                internet.headers = dict(self.headers)
                status, headers, body = internet.paths[self.path]()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # Nobody has to listen to the end.
                    for piece in body:
                        self.wfile.write(piece)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=[0.01], daemon=True).start()

        def resolve(host: str, *_: object, **__: object) -> list:
            answers = internet.names[host]
            found = answers.pop(0) if len(answers) > 1 else answers[0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in found]

        def lead(address: tuple[str, int], timeout: float) -> socket.socket:
            internet.connected.append(address[0])
            raw = socket.socket()
            raw.settimeout(timeout)
            raw.connect(self.server.server_address)
            return raw

        class Plain(ssl.SSLContext):
            def wrap_socket(self, raw: socket.socket, server_hostname: str, **_: object) -> socket.socket:
                internet.certified.append(server_hostname)
                return _WithoutHandshake(raw)

        monkeypatch.setattr(fetching.socket, "getaddrinfo", resolve)
        monkeypatch.setattr(fetching.socket, "create_connection", lead)
        monkeypatch.setattr(fetching.ssl, "create_default_context", lambda: Plain(ssl.PROTOCOL_TLS_CLIENT))


class _WithoutHandshake(socket.socket):
    def __init__(self, raw: socket.socket) -> None:
        timeout = raw.gettimeout()
        super().__init__(fileno=raw.detach())
        self.settimeout(timeout)

    def do_handshake(self) -> None:
        pass


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Internet]:
    internet = Internet(monkeypatch)
    internet.names = {"files.test": [[PUBLIC]], "other.test": [[PUBLIC]]}
    internet.paths = {"/a?b=c": lambda: (200, {}, [b"content"])}
    yield internet
    internet.server.shutdown()
    internet.server.server_close()


def fetch(url: str, *hosts: str, limit: int = 1000, seconds: float = 20) -> bytes:
    return fetching.fetch(url, hosts or ("files.test",), limit, seconds)


def test_an_allowed_host_is_asked_at_the_address_that_was_looked_at(internet: Internet):
    assert fetch("https://files.test/a?b=c#part") == b"content"
    assert internet.asked == ["files.test/a?b=c"]
    assert internet.connected == [PUBLIC]
    assert internet.certified == ["files.test"]


def test_no_token_goes_along(internet: Internet):
    fetch("https://files.test/a?b=c")
    assert {name.lower() for name in internet.headers} == {"host", "accept-encoding"}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://other.test/a", "does not have it"),
        ("https://sub.files.test/a", "does not have it"),
        ("https://files.test.evil.test/a", "does not have it"),
        ("https://evil.test\\@files.test/a", "."),
        ("http://files.test/a", "https"),
        ("file:///etc/passwd", "https"),
        ("ftp://files.test/a", "https"),
        ("//files.test/a", "https"),
        ("files.test/a", "https"),
        ("", "https"),
        ("https://files.test:8080/a", "443"),
        ("https://files.test:x/a", "not a web address"),
        ("https://[files.test/a", "not a web address"),
        ("https://user@files.test/a", "user's name"),
        ("https://user:pass@files.test/a", "user's name"),
        ("https://@files.test/a", "user's name"),
        ("https://files.test:443@other.test/a", "user's name"),
        ("https://other.test#@files.test/a", "does not have it"),
        ("https://other.test?@files.test/a", "does not have it"),
        ("https://other.test/@files.test/a", "does not have it"),
        ("https://other.test\\.files.test/a", "does not have it"),
        ("https://files。test/a", "does not have it"),
        ("https://files．test/a", "does not have it"),
        ("https://ｆiles.test/a", "does not have it"),
        ("https://fileſ.test/a", "does not have it"),
        ("https://files%2etest/a", "does not have it"),
        ("https://files.test\0/a", "does not have it"),
        ("https:///a", "does not have it"),
        ("https://./a", "does not have it"),
        ("https://127.0.0.1/a", "does not have it"),
        ("https://[::]/a", "does not have it"),
        ("https://files.test/a b", "characters"),
        ("https://files.test/ä", "characters"),
    ],
)
def test_anything_else_is_refused_before_a_name_is_looked_up(internet: Internet, url: str, reason: str):
    with pytest.raises(PromptError, match=reason):
        fetch(url)
    assert internet.connected == []


def test_no_host_is_allowed_where_none_is_named(internet: Internet):
    with pytest.raises(PromptError, match="does not have it"):
        fetching.fetch("https://files.test/a?b=c", (), 1000)
    assert internet.connected == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::", "64:ff9b::a9fe:a9fe", "192.0.2.1",
        "::127.0.0.1", "::7f00:1", "::ffff:0:127.0.0.1", "64:ff9b:1::a9fe:a9fe", "fec0::1", "2001:0:7f00:1::",
        "::ffff:7f00:1", "0:0:0:0:0:ffff:a00:1", "fd00:ec2::254", "5f00::1", "198.18.0.1", "240.0.0.1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("beside", [[], [PUBLIC]])
def test_a_name_that_leads_into_a_private_network_is_refused(internet: Internet, address: str, beside: list):
    internet.names["files.test"] = [[*beside, address]]
    with pytest.raises(PromptError, match="private network"):
        fetch("https://files.test/a?b=c")
    assert internet.connected == []


ODD = [
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.0.0.1.",
    "0", "0.0.0.0", "[::]", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[0:0::1]",
    "169.254.169.254", "2852039166", "0xa9fea9fe", "[::ffff:169.254.169.254]", "10.1", "①②⑦.0.0.1",
    "localhost", "localhost.", "LOCALHOST",
]  # fmt: skip


@pytest.mark.parametrize("host", ODD)
def test_no_spelling_of_a_private_address_is_asked_even_where_it_is_allowed(
    monkeypatch: pytest.MonkeyPatch, host: str
):
    """The system's own resolver reads them."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("connected")

    monkeypatch.setattr(fetching.socket, "create_connection", never)
    bare = host.strip("[]")
    with pytest.raises(PromptError, match=r"private network|has no address"):
        fetch(f"https://{host}/a", bare, bare.rstrip("."))


@pytest.mark.parametrize(
    "host", ["FILES.test", "files.test.", "files.test:443", "files.test:", "fi\nles.test"]
)
@pytest.mark.parametrize("allowed", ["files.test", "Files.Test", "files.test."])
def test_other_spellings_of_an_allowed_host_are_that_host(internet: Internet, host: str, allowed: str):
    assert fetch(f"https://{host}/a?b=c", allowed) == b"content"
    assert internet.asked == ["files.test/a?b=c"]
    assert internet.certified == ["files.test"]


def test_a_name_that_changes_its_address_meanwhile_leads_nowhere_else(internet: Internet):
    internet.names["files.test"] = [[PUBLIC], ["127.0.0.1"]]
    assert fetch("https://files.test/a?b=c") == b"content"
    assert internet.connected == [PUBLIC]


def test_a_name_without_an_address_says_so(monkeypatch: pytest.MonkeyPatch):
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror("unknown")

    monkeypatch.setattr(fetching.socket, "getaddrinfo", unknown)
    with pytest.raises(PromptError, match=r"files\.test has no address"):
        fetch("https://files.test/a")


def test_a_redirect_goes_through_the_same_checks(internet: Internet):
    internet.paths["/from"] = lambda: (302, {"Location": "https://other.test/a?b=c"}, [b""])
    assert fetch("https://files.test/from", "files.test", "other.test") == b"content"
    with pytest.raises(PromptError, match=r"'other\.test'.*does not have it"):
        fetch("https://files.test/from")
    for place in (
        *(
            "http://files.test/a?b=c",
            "file:///etc/passwd",
            "https://127.0.0.1/a?b=c",
            "//127.1/a",
            "//[::]/a",
        ),
        *(
            "https://[",
            "//files.test:x",
            "https://files.test@other.test/",
            "https://files.test:8443/",
            "gopher:",
        ),
    ):
        internet.paths["/from"] = lambda place=place: (307, {"Location": place}, [b""])
        with pytest.raises(PromptError):
            fetch("https://files.test/from")
    internet.paths["/from"] = lambda: (302, {"Location": "https://other.test/a?b=c"}, [b""])
    internet.names["files.test"] = [[PUBLIC], ["127.0.0.1"]]
    internet.paths["/round"] = lambda: (302, {"Location": "/a?b=c"}, [b""])
    with pytest.raises(PromptError, match="private network"):
        fetch("https://files.test/round")
    internet.names |= {"files.test": [[PUBLIC]], "other.test": [["10.0.0.1"]]}
    with pytest.raises(PromptError, match="private network"):
        fetch("https://files.test/from", "files.test", "other.test")


def test_redirects_come_to_an_end(internet: Internet):
    internet.paths["/round"] = lambda: (302, {"Location": "/round"}, [b""])
    with pytest.raises(PromptError, match="redirects more than 3 times"):
        fetch("https://files.test/round")
    assert len(internet.asked) == 4


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "5000"}])
def test_no_more_is_read_than_the_limit(internet: Internet, headers: dict):
    internet.paths["/large"] = lambda: (200, headers, [b"x" * 5000])
    with pytest.raises(PromptError, match="sends more than 1000 bytes"):
        fetch("https://files.test/large")
    assert fetch("https://files.test/large", limit=5000) == b"x" * 5000


def test_a_host_that_breaks_off_or_refuses_gives_nothing(internet: Internet):
    internet.paths["/short"] = lambda: (200, {"Content-Length": "100"}, [b"half"])
    internet.paths["/denied"] = lambda: (403, {}, [b"secret"])
    with pytest.raises(PromptError, match="broke off"):
        fetch("https://files.test/short")
    with pytest.raises(PromptError, match=r"files\.test answers 403$"):
        fetch("https://files.test/denied")


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "100"}])
@pytest.mark.parametrize("drips", [False, True])
def test_a_host_that_never_ends_is_cut_off(internet: Internet, headers: dict, drips: bool):
    ended = threading.Event()

    def slow() -> Answer:
        return 200, headers, iter(lambda: b"" if ended.wait(0.01 if drips else 20) else b"x", b"")

    internet.paths["/slow"] = slow
    try:
        with pytest.raises(PromptError, match=r"0\.05 seconds"):
            fetch("https://files.test/slow", seconds=0.05)
    finally:
        ended.set()


def test_a_timeout_of_the_socket_is_told_like_one_of_the_whole(
    internet: Internet, monkeypatch: pytest.MonkeyPatch
):
    def late(address: tuple[str, int], timeout: float) -> socket.socket:
        raise TimeoutError

    monkeypatch.setattr(fetching.socket, "create_connection", late)
    with pytest.raises(PromptError, match="more than 20 seconds"):
        fetch("https://files.test/a?b=c")


def test_an_error_names_the_host_and_not_the_address_with_its_secrets(internet: Internet):
    internet.paths["/a?signature=secret"] = lambda: (500, {}, [b""])
    for url in ("https://files.test/a?signature=secret", "https://nobody.test/a?signature=secret"):
        with pytest.raises(PromptError) as raised:
            fetch(url)
        assert "secret" not in str(raised.value)
        assert ".test" in str(raised.value)
