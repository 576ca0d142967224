"""`edgecam review`: the few faces that only somebody of the house can name."""

from __future__ import annotations

import argparse
import base64
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional

from edgecam.cli.common import Backend, Sub, add_common, backend, emit, note
from edgecam.errors import ConfigError, StoreError

_NOBODY = "nobody"
_INLINE = ("iTerm.app", "WezTerm")  # codespell:ignore


def add_parser(sub: Sub) -> None:
    """Add the subcommand."""
    parser = sub.add_parser("review", help="answer the open questions: who is this? (at most three a day)")
    parser.add_argument("question", nargs="?", help="answer this one without being asked (with WHO)")
    parser.add_argument("who", nargs="?", help=f"a person's name, or `{_NOBODY}` of the house")
    parser.add_argument("--anyone", action="store_true", help="WHO may be somebody who was not asked about")
    parser.add_argument("--list", action="store_true", help="only show the questions")
    add_common(parser)
    parser.set_defaults(func=_review)


def _review(args: argparse.Namespace) -> int:
    if (args.question is None) != (args.who is None):
        raise ConfigError("an answer is a question and WHO: edgecam review QUESTION NAME")
    if args.question is not None:
        return _tell(_answer(args, args.question, args.who), as_json=args.json)
    with backend(args) as state:
        questions = state.call("questions.list")
    for question in questions:
        if args.json:
            emit(question)
        elif args.list or not sys.stdin.isatty():
            print(_text(question))
        else:
            _ask(args, question)
    if not questions:
        note("no open questions")
    return 0


def _text(question: Dict[str, Any]) -> str:
    who = " or ".join(question["people"]) or "somebody of the house"
    visits = ", ".join(f"{face['visit']} track {face['track']}" for face in question["faces"])
    return f"{question['question']}: is this {who}? ({visits})"


def _ask(args: argparse.Namespace, question: Dict[str, Any]) -> None:
    """Show the faces and take an answer from the terminal; an empty one leaves the question open.

    The state is free while the user thinks.
    """
    print(_text(question))
    with backend(args) as state:
        pictures = [_picture(state, face) for face in question["faces"]]
    with tempfile.TemporaryDirectory(prefix="edgecam-review-") as folder:
        for number, picture in enumerate(pictures, 1):
            if picture is None:
                print(f"  {number}: its picture is not kept (any more)")
            elif not _show(picture):
                path = Path(folder) / f"{number}.png"
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(handle, "wb") as file:
                    file.write(picture)
                print(f"  {number}: {path} (deleted after your answer)")
        choices = ", ".join([*question["people"], _NOBODY])
        try:
            said = input(f"  Who is it? ({choices}; empty: later) ").strip()
        except EOFError:
            said = ""
    if said:
        try:
            _tell(_answer(args, question["question"], said), as_json=False)
        except (ConfigError, StoreError) as err:
            note(f"  {err}")


def _answer(args: argparse.Namespace, question: str, who: str) -> Dict[str, Any]:
    name = None if who.lower() == _NOBODY else who
    with backend(args) as state:
        return state.one("questions.answer", question=question, name=name, anyone=args.anyone)


def _tell(answer: Dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        emit(answer)
    else:
        print(f"{answer['question']}: {answer['person'] or 'nobody of the house'} ({answer['faces']} faces)")
    return 0


def _picture(state: Backend, face: Dict[str, Any]) -> Optional[bytes]:
    try:
        return base64.b64decode(state.one("visits.picture", visit=face["visit"], track=face["track"])["png"])
    except StoreError:
        return None


def _show(png: bytes) -> bool:
    """Draw a picture in a terminal that can (kitty's and iTerm2's protocols); return whether it could."""
    if not sys.stdout.isatty() or "TMUX" in os.environ or "STY" in os.environ:
        return False  # not into a file, and not into a multiplexer, which swallows it
    data = base64.b64encode(png).decode("ascii")
    if "KITTY_WINDOW_ID" in os.environ:
        parts: List[str] = [data[i : i + 4096] for i in range(0, len(data), 4096)]
        for i, part in enumerate(parts):
            head = "a=T,f=100," if i == 0 else ""
            sys.stdout.write(f"\x1b_G{head}m={int(i + 1 < len(parts))};{part}\x1b\\")
    elif os.environ.get("TERM_PROGRAM") in _INLINE:
        sys.stdout.write(f"\x1b]1337;File=inline=1;size={len(png)}:{data}\x07")
    else:
        return False
    sys.stdout.write("\n")
    sys.stdout.flush()
    return True
