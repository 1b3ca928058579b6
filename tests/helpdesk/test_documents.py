import os
from pathlib import Path

import pytest
from helpdesk import documents
from helpdesk.documents import (
    MAX_CHUNK,
    MAX_FILES,
    Document,
    SourceBinary,
    SourceEmpty,
    SourceError,
    SourceForbidden,
    SourceMissing,
    SourceTooLarge,
    SourceUndecodable,
    SourceUnreadable,
    decode,
    kind_of_content_type,
    locate,
    make_document,
    parse,
    read_source,
    split,
)
from hypothesis import example, given
from hypothesis import strategies as st

LIMIT = 1024 * 1024
KINDS = st.sampled_from(["text", "markdown", "html"])
CHARSETS = st.none() | st.sampled_from(
    ["utf-8", "utf-16", "latin-1", "cp1252", "shift_jis", "iso2022_jp", "gb18030", "utf-7"]
)


def without_space(text: str) -> str:
    return "".join(text.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tenant"
    folder.mkdir()
    (tmp_path / "other.txt").write_text("another tenant's")
    return folder


# Splitting.

prose = st.lists(
    st.text() | st.sampled_from(["\n", "\n\n", " ", ". ", "word " * 300, "x" * 1_700, "\x85", "\r"])
).map("".join)


@given(prose)
@example("x" * MAX_CHUNK + " " + "y" * (MAX_CHUNK + 1))
@example("word. " * 2_000)
def test_split_loses_nothing_but_whitespace(text: str) -> None:
    assert without_space("".join(split(text))) == without_space(text)


@given(prose)
@example("# a\n\n" + "b" * MAX_CHUNK)
def test_chunk_is_neither_empty_nor_above_the_limit(text: str) -> None:
    assert all(chunk.strip() and len(chunk) <= MAX_CHUNK for chunk in split(text))


def test_paragraphs_share_a_chunk_of_about_800_characters() -> None:
    chunks = list(split("\n\n".join(["x" * 250] * 9)))
    assert [len(chunk) for chunk in chunks] == [754, 754, 754]


def test_heading_stays_with_the_long_paragraph_that_it_is_above() -> None:
    assert list(split("Refunds\n\n" + "x" * 1_000)) == ["Refunds\n\n" + "x" * 1_000]


def test_long_paragraph_is_split_where_a_sentence_ends() -> None:
    first, second = split("One more sentence. " * 100)
    assert first.endswith("sentence.")
    assert second.startswith("One")


# Decoding.


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff")))
def test_utf_8_is_read_with_and_without_a_byte_order_mark(text: str) -> None:
    assert decode(text.encode()) == decode(text.encode("utf-8-sig")) == text


@pytest.mark.parametrize(
    "raw, charset, text",
    [
        pytest.param("naïve".encode("latin-1"), "ISO-8859-1", "naïve", id="latin-1"),
        pytest.param("naïve".encode("utf-16"), None, "naïve", id="utf-16-by-its-mark"),
        pytest.param("naïve".encode("utf-16-le"), "utf-16le", "naïve", id="utf-16-le"),
        pytest.param("日本".encode("shift_jis"), "Shift_JIS", "日本", id="shift-jis"),
    ],
)
def test_text_is_decoded(raw: bytes, charset: str | None, text: str) -> None:
    assert decode(raw, charset) == text


@pytest.mark.parametrize(
    "raw, charset, error",
    [
        pytest.param(b"caf\xe9", None, SourceUndecodable, id="latin-1-unsaid"),
        pytest.param(b"text", "klingon", SourceUndecodable, id="unknown-charset"),
        pytest.param(b"text", "utf-8\0", SourceUndecodable, id="charset-with-nul"),
        pytest.param(b"+2AA-", "utf-7", SourceUndecodable, id="lone-surrogate"),
        pytest.param(b"61", "hex", SourceUndecodable, id="no-text-encoding"),
        pytest.param(b"a\0b", None, SourceBinary, id="nul"),
        pytest.param(b"\x89PNG\r\n\x1a\n\0\0", None, SourceBinary, id="png"),
        pytest.param(b"\0\xd8", "utf-16-le", SourceUndecodable, id="half-a-pair"),
    ],
)
def test_what_is_no_text_is_refused(
    raw: bytes, charset: str | None, error: type[SourceError]
) -> None:
    with pytest.raises(error):
        decode(raw, charset)


# Parsing.


@given(st.binary() | prose.map(lambda text: text.encode("utf-8", "replace")), KINDS, CHARSETS)
def test_any_bytes_give_a_document_or_a_declared_error(
    raw: bytes, kind: documents.Kind, charset: str | None
) -> None:
    try:
        document = make_document("a", raw, kind, charset)
    except SourceError as error:
        assert error.error_code.startswith("source_")  # noqa: PT017  # it may also succeed
    else:
        assert document.title
        assert document.chunks
        "".join([document.title, *document.chunks]).encode()  # PostgreSQL would refuse a surrogate
        assert "\0" not in "".join(document.chunks)


TAGS = ["p", "nav", "script", "title", "h1", "svg", "table", "td", "b", "template", "frameset"]

html = st.lists(
    st.sampled_from([f"<{tag}>" for tag in TAGS] + [f"</{tag}>" for tag in TAGS])
    | st.sampled_from(["<!--", "-->", "&#0;", "&#xD800;", "&nbsp;", "<", "a", " ", "<body "])
).map("".join)


@given(html)
def test_any_html_is_parsed(page: str) -> None:
    "".join(parse(page, "html")).encode()


def test_html_is_reduced_to_its_text() -> None:
    page = """<title> How to
      pay </title><style>p {}</style><nav>Home</nav>
      <h1>Paying</h1><p>By <b>c</b>ard,<br>or   not&nbsp;at all.<script>x()</script>
      <ul><li>one<li>two</ul><!-- no -->"""
    title, text = parse(page, "html")
    assert title == "How to pay"
    assert text.split("\n\n") != [text]
    assert [line for line in text.split("\n") if line] == [
        "Paying",
        "By card,",
        "or not at all.",
        "one",
        "two",
    ]


def test_first_heading_is_the_title_of_a_page_without_one() -> None:
    assert parse("<title> </title><h1>The <i>Guide</i></h1><h1>Other</h1>", "html")[0] == (
        "The Guide"
    )


def test_markdown_is_rendered_and_its_heading_is_the_title() -> None:
    document = make_document(
        "a.md", b"# Refunds\n\nWithin *30* days.\n\n|a|b|\n|-|-|\n|1|2|", "markdown"
    )
    assert document == Document("a.md", "Refunds", ("Refunds\n\nWithin 30 days.\n\na\nb\n\n1\n2",))


def test_document_without_a_title_is_called_by_its_name() -> None:
    assert make_document("guides/pay.txt", b"<b>", "text") == Document(
        "guides/pay.txt", "pay.txt", ("<b>",)
    )


@pytest.mark.parametrize("kind", ["text", "markdown", "html"])
def test_document_without_text_is_refused(kind: documents.Kind) -> None:
    with pytest.raises(SourceEmpty):
        make_document("a", b" \n\t\n ", kind)


def test_page_of_tags_alone_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(SourceTooLarge):  # parsing it would take longer than a test may
        parse("<div>" * 200_000, "html")


def test_deeply_nested_page_is_read() -> None:
    assert parse("<div>" * 10_000 + "deep", "html")[1].strip() == "deep"


@pytest.mark.parametrize(
    "content_type, name, kind, charset",
    [
        pytest.param("text/html; charset=Latin-1", "/", "html", "latin-1", id="html"),
        pytest.param("application/xhtml+xml", "/", "html", None, id="xhtml"),
        pytest.param("text/plain", "/README.md", "markdown", None, id="plain-by-suffix"),
        pytest.param("text/markdown", "/", "markdown", None, id="markdown"),
        pytest.param("text/csv", "/a.html", "text", None, id="other-text"),
        pytest.param(None, "/a.html", "html", None, id="none"),
        pytest.param("", "/", "text", None, id="empty"),
    ],
)
def test_content_type_says_the_kind(
    content_type: str | None, name: str, kind: str, charset: str | None
) -> None:
    assert kind_of_content_type(content_type, name) == (kind, charset)


@pytest.mark.parametrize("content_type", ["image/png", "application/pdf", "application/json"])
def test_content_type_that_is_no_text_is_refused(content_type: str) -> None:
    with pytest.raises(SourceBinary):
        kind_of_content_type(content_type, "/a.txt")


@given(st.text(st.characters(max_codepoint=255)), st.text())
def test_any_content_type_is_understood_or_refused(content_type: str, name: str) -> None:
    try:
        kind, charset = kind_of_content_type(content_type, name)
        make_document(name, b"text", kind, charset)
    except SourceError:
        pass


# Files.


@given(st.text())
@example("a/../../other.txt")
@example("\ud800")
def test_any_path_is_below_the_folder_or_refused(path: str) -> None:
    folder = Path("/srv/files/tenant")
    try:
        place = locate(folder, path)
    except SourceError:
        return
    assert place.resolve().is_relative_to(folder)


@pytest.mark.parametrize(
    "path", ["..", "../other.txt", "a/../../other.txt", "a/..", "/etc/passwd", "//a", "a\0.txt"]
)
def test_path_that_leaves_the_folder_is_refused(folder: Path, path: str) -> None:
    with pytest.raises(SourceForbidden):
        read_source(folder, path, LIMIT)


@pytest.mark.parametrize("path", ["link.txt", "."])
def test_symbolic_link_that_leaves_the_folder_is_refused(folder: Path, path: str) -> None:
    (folder / "a.txt").write_text("text")
    (folder / "link.txt").symlink_to("../other.txt")
    with pytest.raises(SourceForbidden):
        read_source(folder, path, LIMIT)


def test_link_to_a_folder_outside_is_neither_read_nor_followed(folder: Path) -> None:
    (folder / "a.txt").write_text("text")
    (folder / "up").symlink_to("..")
    with pytest.raises(SourceForbidden):
        read_source(folder, "up/other.txt", LIMIT)
    assert [document.url for document in read_source(folder, ".", LIMIT)] == ["a.txt"]


def test_links_in_a_circle_are_refused(folder: Path) -> None:
    (folder / "a.txt").symlink_to("b.txt")
    (folder / "b.txt").symlink_to("a.txt")
    with pytest.raises(SourceError):
        read_source(folder, "a.txt", LIMIT)


def test_folder_gives_the_documents_below_it_in_order(folder: Path) -> None:
    for name in ["b.txt", "a/c.MD", "a/ü\n'; --.rst", "a/image.png", ".hidden/d.htm"]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("text")
    found = read_source(folder, ".", LIMIT)
    assert [document.url for document in found] == [
        ".hidden/d.htm",
        "a/c.MD",
        "a/ü\n'; --.rst",
        "b.txt",
    ]
    assert len(read_source(folder, "a", LIMIT)) == 2


def test_one_unfit_document_refuses_the_folder(folder: Path) -> None:
    (folder / "a.txt").write_text("text")
    (folder / "b.txt").write_bytes(b"\0")
    with pytest.raises(SourceBinary):
        read_source(folder, ".", LIMIT)


@pytest.mark.parametrize("path", ["none.txt", "a.txt/none.txt", "none/none.txt"])
def test_missing_file_is_missing(folder: Path, path: str) -> None:
    (folder / "a.txt").write_text("text")
    with pytest.raises(SourceMissing):
        read_source(folder, path, LIMIT)


def test_tenant_that_never_uploaded_has_nothing(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        read_source(tmp_path / "nobody", ".", LIMIT)


def test_folder_without_documents_is_empty(folder: Path) -> None:
    with pytest.raises(SourceEmpty):
        read_source(folder, ".", LIMIT)


@pytest.mark.parametrize("size, fits", [(100, True), (101, False)])
def test_size_of_a_document_is_limited(folder: Path, size: int, fits: bool) -> None:
    (folder / "a.txt").write_text("x" * size)
    if fits:
        assert len(read_source(folder, "a.txt", 100)) == 1
    else:
        with pytest.raises(SourceTooLarge):
            read_source(folder, "a.txt", 100)


def test_number_of_documents_in_a_folder_is_limited(folder: Path) -> None:
    for number in range(MAX_FILES + 1):
        (folder / f"{number}.txt").touch()
    with pytest.raises(SourceTooLarge):
        read_source(folder, ".", LIMIT)


def test_size_of_a_folder_is_limited(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_FOLDER_BYTES", 7)
    (folder / "a.txt").write_text("text")
    assert read_source(folder, ".", LIMIT)
    (folder / "b.txt").write_text("text")
    with pytest.raises(SourceTooLarge):
        read_source(folder, ".", LIMIT)


def test_folders_may_nest_deeper_than_python_recurses(folder: Path) -> None:
    deepest = str(folder)
    for _ in range(1_500):
        deepest += "/a"
        os.mkdir(deepest)  # noqa: PTH102  # a Path of so many parts meets the limit itself
    file = Path(f"{deepest}/b.txt")
    file.write_text("text")
    with pytest.raises(SourceUnreadable):  # the name is too long, and no RecursionError
        read_source(folder, ".", LIMIT)
    file.unlink()
    for depth in range(1_500, 0, -1):  # pytest would meet the limit when it tidies up
        os.rmdir(f"{folder}{'/a' * depth}")  # noqa: PTH106


def test_pipe_is_refused_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "a.txt")
    with pytest.raises(SourceUnreadable):
        read_source(folder, "a.txt", LIMIT)


def test_name_that_is_too_long_is_refused(folder: Path) -> None:
    with pytest.raises(SourceUnreadable):
        read_source(folder, "x" * 300, LIMIT)


def test_name_that_is_not_utf_8_is_refused(folder: Path) -> None:
    (folder / os.fsdecode(b"\xff.txt")).write_text("text")
    with pytest.raises(SourceUndecodable):
        read_source(folder, ".", LIMIT)
