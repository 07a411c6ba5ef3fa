"""Text that only grows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import TextPiece
from gateway.core.transcript import RESTART, SEPARATOR, TextGap, Transcript


def feed(transcript: Transcript, *pieces: tuple[str, int, str]) -> list[str]:
    return [transcript.add(TextPiece(*piece)) for piece in pieces]


def test_pieces_pass_unchanged() -> None:
    assert feed(Transcript(), ("m", 0, "It "), ("m", 3, "is")) == ["It ", "is"]


def test_a_repeated_text_is_sent_only_where_it_goes_further() -> None:
    transcript = Transcript()
    feed(transcript, ("m", 0, "It is"))
    assert feed(transcript, ("m", 0, "It"), ("m", 2, " is"), ("m", 5, " blue")) == ["", "", " blue"]
    assert transcript.answer_offset == 0


def test_a_different_text_is_marked_and_sent_whole() -> None:
    transcript = Transcript()
    feed(transcript, ("m", 0, "It is red"))
    assert feed(transcript, ("m", 0, "It is"), ("m", 5, " blue")) == ["", f"{RESTART}It is blue"]
    assert transcript.answer_offset == len("It is red" + RESTART)
    assert feed(transcript, ("m", 10, ".")) == ["."]


def test_what_is_said_before_a_tool_is_another_text_and_no_retry() -> None:
    transcript = Transcript()
    feed(transcript, ("m1", 0, "Let me look."))
    transcript.end_text()
    assert feed(transcript, ("m2", 0, "It is"), ("m2", 5, " blue.")) == [f"{SEPARATOR}It is", " blue."]
    assert transcript.finish("It is blue.") == ""
    assert transcript.answer_offset == len("Let me look." + SEPARATOR)


def test_a_text_under_a_new_name_that_was_never_ended_is_a_retry() -> None:
    transcript = Transcript()
    feed(transcript, ("m1", 0, "Let me"))
    assert feed(transcript, ("m2", 0, "It is")) == [f"{RESTART}It is"]


@pytest.mark.parametrize(
    ("sent", "answer", "more"),
    [
        ("", "It is.", "It is."),
        ("It", "It is.", " is."),
        ("It is. \n", "It is.", ""),
        ("It was.", "It is.", f"{RESTART}It is."),
        ("It is. And more", "It is.", f"{RESTART}It is."),
    ],
)
def test_the_whole_answer_completes_what_was_sent(sent: str, answer: str, more: str) -> None:
    transcript = Transcript()
    if sent:
        feed(transcript, ("m", 0, sent))
    assert transcript.finish(answer) == more


def test_a_missing_piece_is_an_error() -> None:
    transcript = Transcript()
    feed(transcript, ("m", 0, "ab"))
    with pytest.raises(TextGap):
        feed(transcript, ("m", 3, "d"))


@given(st.data())
def test_whatever_is_begun_anew_the_client_ends_with_the_answer(data: st.DataObject) -> None:
    texts = st.text(alphabet="ab\n", max_size=8)
    transcript, sent = Transcript(), ""
    for _ in range(data.draw(st.integers(0, 4))):
        text, offset = data.draw(texts), 0
        message = data.draw(st.sampled_from(["m1", "m2"]))
        while offset < len(text):
            size = data.draw(st.integers(1, 4))
            sent += transcript.add(TextPiece(message, offset, text[offset : offset + size]))
            offset += len(text[offset : offset + size])
        if data.draw(st.booleans()):
            transcript.end_text()
    answer = data.draw(texts.filter(str.strip))
    sent += transcript.finish(answer)
    assert sent[transcript.answer_offset :].strip() == answer.strip()
