"""What nobody should send: files with wrong, missing and surplus bytes, forms that are none, headers of any kind."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from inference.outputs.classes import TOP_K
from inference.protocol import JSON, NPY
from tests.served.asking import npy
from tests.unit.test_inputs import SAMPLES, edits, noise, with_checksums

TYPES = (
    "",
    NPY,
    "image/png",
    "image/jpeg",
    "text/html",
    JSON,
    "application/x-npy; charset=x",
    "multipart/form-data",
    ";",
)
ACCEPTS = ("", "*/*", NPY, JSON, "text/html", "application/*", ",,;q=", f"{NPY}, {JSON};q=0.1")

# Without line breaks, which would end a header, and the names that say where a body ends, or who sends it.
VALUES = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=60)
NAMES = st.sampled_from(
    ["describe", "body", "data", "Content-Encoding", "Expect", "Connection", "Upgrade", "Cookie", "Host", "Range", "X"]
) | st.text(st.sampled_from("ABCxyz019-_!#$%&'*+.^`|~"), min_size=1, max_size=20)

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sent:
    headers: Headers
    body: bytes


@st.composite
def damaged(draw: st.DrawFn, files: Sequence[bytes]) -> bytes:
    """One of the files with bytes removed, put in or replaced, or cut off; a PNG's checksums may be right again."""
    whole = draw(st.sampled_from(files))
    body = bytearray(whole)
    for position, removed, inserted in draw(st.lists(edits, max_size=6)):
        at = position % (len(body) + 1)
        body[at : at + removed] = inserted
    if draw(st.booleans()):
        del body[draw(st.integers(0, len(body))) :]
    if whole.startswith(b"\x89PNG") and draw(st.booleans()):
        return with_checksums(bytes(body))
    return bytes(body)


@st.composite
def forms(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> Sent:
    """multipart/form-data whose boundary, names and ends need not be those that its header promises."""
    boundary = draw(st.sampled_from(["b", "b" * 70, "", " ", 'b"']))
    between = draw(st.just(boundary) | st.just("other"))
    parts = [
        f"--{between}\r\nContent-Disposition: {draw(st.sampled_from(DISPOSITIONS))}\r\n".encode()
        + draw(st.sampled_from(ENDS))
        + content
        for content in draw(st.lists(contents, max_size=3))
    ]
    end = draw(st.sampled_from([f"--{between}--\r\n", f"--{between}", "--", ""])).encode()
    kind = draw(
        st.sampled_from([f"multipart/form-data; boundary={boundary}", "multipart/form-data", "multipart/mixed"])
    )
    return Sent((("Content-Type", kind),), b"\r\n".join([*parts, end]))


DISPOSITIONS = ('form-data; name="body"', 'form-data; name="data"; filename="x"', "form-data", "attachment; name=", '"')
ENDS = (b"\r\n", b"Content-Type: image/png\r\n\r\n", b"Content-Transfer-Encoding: binary\r\n\r\n", b"", b"\r\n\r\n")


def anything(files: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=300) | damaged([*files, *(body for body, _ in SAMPLES), npy(noise(2, 28, 28, 1))])


@st.composite
def plain(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> Sent:
    headers = [
        ("Content-Type", draw(st.sampled_from(TYPES) | VALUES)),
        ("Accept", draw(st.sampled_from(ACCEPTS) | VALUES)),
        (TOP_K, draw(st.sampled_from(["1", "10", "0", "11", "-1", "²", "1e1"]) | VALUES)),
        *draw(st.lists(st.tuples(NAMES, VALUES), max_size=3)),
    ]
    kept = draw(st.lists(st.sampled_from(headers), max_size=4, unique=True))
    return Sent(tuple(kept), draw(contents))


def requests(files: Sequence[bytes]) -> st.SearchStrategy[Sent]:
    contents = anything(files)
    return plain(contents) | plain(contents) | forms(contents)
