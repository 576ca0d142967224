from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecam.capture.redact import redact_pipeline, redact_text, redact_url

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://10.0.0.7:554/live/ch0", "rtsp://10.0.0.7:554/live/ch0"),
        ("rtsp://ann:hunter2@10.0.0.7/live", "rtsp://10.0.0.7/live"),
        ("rtsp://ann:p@hunter2/x?y@10.0.0.7/live", "rtsp://10.0.0.7/live"),
        ("http://cam/video?user=ann&pwd=hunter2&channel=2", "http://cam/video?user=***&pwd=***&channel=2"),
        ("http://cam/video?hunter2", "http://cam/video?***"),
        ("http://cam/video#hunter2", "http://cam/video"),
        ("rtsp://cam/user=ann;password=hunter2;channel=1", "rtsp://cam/user=***;password=***;channel=1"),
        ("/home/ann/clip.mp4", "/home/ann/clip.mp4"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redact_url(url) == shown


def test_foreign_text_is_cleaned() -> None:
    said = f"ERROR: Could not open rtsp://ann:{SECRET}@cam/x, user-pw={SECRET} password: '{SECRET}'"
    assert SECRET not in redact_text(said)
    assert "Could not open rtsp://cam/x" in redact_text(said)


def test_of_a_pipeline_only_the_elements_are_shown() -> None:
    pipeline = f'rtspsrc location="rtsp://a:{SECRET}@h/" user-pw={SECRET} ! video/x-raw,width=3 ! decodebin'
    assert redact_pipeline(pipeline) == "rtspsrc ..."


@given(st.text(st.characters(exclude_characters="\n", codec="ascii"), min_size=1), st.sampled_from(["rtsp", "https"]))
def test_no_password_survives(password: str, scheme: str) -> None:
    marked = f"<<{password}>>"
    assert marked not in redact_url(f"{scheme}://ann:{marked}@host/live?channel=1")


def test_a_password_with_an_exclamation_mark_does_not_end_a_stage() -> None:
    assert "S3cret" not in redact_pipeline("rtspsrc location=rtsp://h/x user-id=bob user-pw=Geheim!S3cretX ! decodebin")


def test_an_address_whose_scheme_was_forgotten_keeps_its_secret() -> None:
    assert redact_url("u:S3cretCam@h:554/x") == "h:554/x"
    assert redact_url("/home/ann@work/door.mp4") == "/home/ann@work/door.mp4"
