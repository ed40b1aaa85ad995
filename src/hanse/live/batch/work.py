"""A batch that is being worked on: which lines wait, which run, what they took.

Here: `Work`, made of the input file, the stream of commits and the notes of begun runs, so that it is the same after any crash; what
a line's answer means (`judge`) and what is committed of it. Not here: sending (`runner`), states of a batch (`keeper`).
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from secrets import token_hex
from typing import Final, Literal

import msgspec

from hanse.live.batch.asking import LINE_BYTES_MAX, Whole
from hanse.live.batch.commits import Commits, Note, add
from hanse.live.batch.lines import Index, Line, read_line
from hanse.live.batch.store import RunLog
from hanse.live.batch.values import BatchMeta, Tally, who_of
from hanse.model.told import UNREADABLE

SEEN_MIN: Final = 8
"""Lines answered at a site before their mean says more than a prediction."""
SEEN_SHARE: Final = 0.1
"""Of the newest line in that mean: the last ten or twenty count."""
TOKENS_GUESSED: Final = 128
"""Of an answer whose line says no `max_tokens` and before any was seen: a short chat turn."""
BODY_BYTES_PER_TOKEN: Final = 4.0
"""English text, as everywhere; JSON around it counts as text until lines were answered."""
TRIES_MAX: Final = 5
"""Answers 5xx that speak of the line as likely as of the engine; then the line has failed. Full engines and cuts do not count."""

WINDOW_FIRST: Final = 2.0
"""Lines in flight of a batch that begins."""

Verdict = Literal["done", "no_room", "again"]


class Broken(Exception):
    """A batch cannot go on."""

    code: str
    """Of its error, as its client reads it."""
    param: str | None = None


class InputGone(Broken):
    """The input file of a batch cannot be read any more, or is another one."""

    code = "input_file_gone"
    param = "input_file_id"


class OutputFull(Broken):
    """Answers of a batch take so much of the stream of commits that there is no room for more."""

    code = "output_too_large"


class Lane:
    """A batch's lines to one site, or (under no name) to whichever has room."""

    __slots__ = ("failing", "quiet_until_s", "running", "window")

    def __init__(self) -> None:
        self.window = WINDOW_FIRST
        """How many lines may be in flight: each batch finds its own room, since each has its own model, law and class."""
        self.quiet_until_s = 0.0
        """On the loop's clock: nothing is sent before."""
        self.running = 0
        self.failing = False
        """The last answer was a failure of the engine, as likely as of its line."""

    def open(self, now_s: float) -> bool:
        """Whether one more line may go."""
        return self.running < int(self.window) and now_s >= self.quiet_until_s


class Work:
    """One batch in memory."""

    def __init__(self, meta: BatchMeta, index: Index, input_path: Path, runs: RunLog) -> None:
        self.id = meta.id
        self.endpoint = meta.endpoint
        self.created_at_s = meta.created_at_s
        self.expires_at_s = meta.expires_at_s
        self.who = who_of(meta)
        self.index = index
        self.runs = runs
        self.tally = Tally()
        self.waiting: deque[int] = deque()
        self.running: set[int] = set()
        self.committed = bytearray(len(index))
        self.broken: Broken | None = None
        """Why no line is begun any more."""
        self.over = False
        """No line is begun any more, whatever is left."""
        self.lanes: dict[str, Lane] = {}
        """By site."""
        self.step: tuple[object, int] = (None, -1)
        """Version of the schedule and its step that `begun` counts in."""
        self.begun: dict[str, float] = {}
        """Site -> lines begun within that step, with those begun ahead of the one before."""
        self._seen: dict[str, tuple[int, float]] = {}
        self.lost_runs = meta.lost_runs
        self.lost_wh = meta.lost_wh
        self._tries: dict[int, int] = {}
        self._extra: dict[int, tuple[int, float]] = {}
        self._file = input_path.open("rb")

    async def recall(self, commits: Commits) -> None:
        """What was committed before, and what was begun and is not committed."""
        async for line, note in commits.notes(self.id):
            self.see(line, note)
        done = self.tally.completed + self.tally.failed
        mean_wh = self.tally.energy_wh / done if done else 0.0
        for line, count in self.runs.counts().items():
            if line < len(self.committed) and not self.committed[line]:
                # What these took is nowhere: at most a whole run each, and that is what is counted.
                self._extra[line] = (count, count * mean_wh)
        self.waiting.extend(n for n in range(len(self.index)) if not self.committed[n])

    def see(self, line: int, note: Note) -> None:
        """A line is committed; again is not twice."""
        if not self.committed[line]:
            self.committed[line] = 1
            self.tally = add(self.tally, note)

    @property
    def left(self) -> int:
        """Lines that are not committed."""
        return len(self.index) - self.tally.completed - self.tally.failed

    def lane(self, site: str) -> Lane:
        """Of a site; empty: of no site in particular."""
        return self.lanes.setdefault(site, Lane())

    def saw(self, site: str, took_s: float) -> None:
        """A line was answered there."""
        count, mean_s = self._seen.get(site, (0, took_s))
        share = max(SEEN_SHARE, 1.0 / (count + 1))
        self._seen[site] = count + 1, mean_s + share * (took_s - mean_s)

    @property
    def request_s(self) -> dict[str, float]:
        """Site -> seconds that a line takes there of late, where enough were seen."""
        return {
            site: float(f"{mean_s:.2g}")  # rounded: nobody plans anew for a hundredth
            for site, (count, mean_s) in sorted(self._seen.items())
            if count >= SEEN_MIN
        }

    @property
    def tokens(self) -> tuple[float, float]:
        """Of a line, in and out: the mean of those answered, else what their bodies say."""
        done = self.tally.completed
        if done and self.tally.tokens_out:
            return float(f"{self.tally.tokens_in / done:.2g}"), float(
                f"{self.tally.tokens_out / done:.2g}"
            )
        count = max(len(self.index), 1)
        known = self.index.tokens_max_known
        out = self.index.tokens_max / known if known else TOKENS_GUESSED
        return sum(self.index.sizes) / count / BODY_BYTES_PER_TOKEN, float(out)

    def line(self, number: int) -> Line:
        """One line of the file, which was checked before.

        Raises:
            InputGone: it is not the file that it was.
        """
        found = read_line(self.index.read(self._file, number), self.endpoint)
        if not isinstance(found, Line):
            raise InputGone(f"the input file has changed since it was checked: {found.message}")
        return found

    def wasted(self, number: int, runs: int, wh: float) -> None:
        """Runs of a line that were begun in vain."""
        if runs:
            before = self._extra.get(number, (0, 0.0))
            self._extra[number] = before[0] + runs, before[1] + wh

    def lost(self, wh: float) -> None:
        """A whole run whose line had been committed already."""
        self.lost_runs += 1
        self.lost_wh += wh

    def judge(self, number: int, answer: Whole) -> Verdict:
        """What an answer of the gateway means for its line."""
        status = answer.status
        if status in (408, 429, 503):
            return "no_room"
        if status >= 500 and self._tries.get(number, 0) + 1 < TRIES_MAX:
            self._tries[number] = self._tries.get(number, 0) + 1
            return "again"
        return "done"

    def commit_of(self, number: int, line: Line, answer: Whole) -> tuple[bytes, Note]:
        """The result as its client reads it, and what is noted beside it."""
        measured = measured_of(answer)
        extra_runs, extra_wh = self._extra.get(number, (0, 0.0))
        request_id = answer.headers.get("x-request-id", token_hex(16))
        payload = b"" if answer.too_large else _result(request_id, line, answer)
        too_large = answer.too_large or len(payload) > LINE_BYTES_MAX
        if too_large:
            message = f"the answer has more than {LINE_BYTES_MAX} bytes; ask for fewer tokens"
            payload = error_row(request_id, line.custom_id, "answer_too_large", message)
        note = Note(
            run=request_id,
            ok=answer.status == 200 and not too_large,
            tokens_in=int(measured.get("tokens_in", 0)),
            tokens_out=int(measured.get("tokens_out", 0)),
            wh=measured.get("wh", 0.0),
            g=measured.get("g", 0.0),
            usd=measured.get("usd", 0.0),
            extra_runs=extra_runs,
            extra_wh=extra_wh,
        )
        return payload, note

    def close(self, *, ended: bool) -> None:
        """No more of it here."""
        self._file.close()
        self.runs.close(remove=ended)


_BREAKS: Final = tuple((c.encode(), f"\\u{ord(c):04x}".encode()) for c in "\u0085\u2028\u2029")
"""What ends a line for many readers, and in JSON stands in strings alone."""


def one_line(row: bytes) -> bytes:
    """A row of JSON that is one line for everybody."""
    for character, escape in _BREAKS:
        row = row.replace(character, escape)
    return row


def error_row(request_id: str, custom_id: str, code: str, message: str) -> bytes:
    """A line without an answer, as its client reads it."""
    row = msgspec.json.encode(
        {
            "id": f"batch_req_{request_id}",
            "custom_id": custom_id,
            "response": None,
            "error": {"code": code, "message": message},
        }
    )
    return one_line(row)


def _result(request_id: str, line: Line, answer: Whole) -> bytes:
    try:
        msgspec.json.decode(answer.body)  # formatting alone would let wrong UTF-8 through
        body = msgspec.Raw(msgspec.json.format(answer.body, indent=-1))  # on one line
    except UNREADABLE:
        body = msgspec.Raw(msgspec.json.encode(answer.body.decode("utf-8", "replace")))
    result = {
        "id": f"batch_req_{request_id}",
        "custom_id": line.custom_id,
        "response": {"status_code": answer.status, "request_id": request_id, "body": body},
        "error": None,
    }
    return one_line(msgspec.json.encode(result))


def measured_of(answer: Whole) -> dict[str, float]:
    """The figures in `x-hanse-measured`."""
    return _figures(answer.headers.get("x-hanse-measured", ""))


def extra_of(answer: Whole) -> tuple[int, float]:
    """Runs and Wh in `x-hanse-extra`."""
    found = _figures(answer.headers.get("x-hanse-extra", ""))
    return int(found.get("runs", 0)), found.get("wh", 0.0)


def _figures(text: str) -> dict[str, float]:
    found = {}
    for part in text.split(";"):
        name, _, value = part.strip().partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            continue
    return found
