"""Questions about pictures, with their answers, that a model learns beside a robot's actions."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pizero.data.faults import DatasetError
from pizero.data.frames import Instant
from pizero.data.lerobot_metadata import confined
from pizero.data.processor import Processor
from pizero.records import from_data
from pizero.types import Batch

QUESTIONS = "questions.jsonl"

DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    Image.DecompressionBombWarning,
    Image.DecompressionBombError,
)
"""What a damaged picture makes Pillow raise."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One line of the file: a picture's file by the camera whose place it takes, a question, its answer."""

    images: dict[str, str]
    question: str
    answer: str


class QuestionSet:
    """A folder with `questions.jsonl`, a `Question` in each line, and RGB pictures inside of the folder."""

    def __init__(self, folder: Path, questions: Sequence[Question]) -> None:
        self.folder, self.questions = folder, tuple(questions)

    @classmethod
    def open(cls, folder: str | Path) -> QuestionSet:
        """Read a folder; ValueError (DatasetError where it is about a picture) names the file and the line.

        Of pictures only the kind is looked at: what is damaged further inside is found where it is read.
        """
        path = Path(folder) / QUESTIONS
        if not path.is_file():
            raise ValueError(f"expected questions in {path}, found no such file")
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
        found = cls(Path(folder), [_question(f"{path}, line {i + 1}", line) for i, line in enumerate(lines)])
        for index, question in enumerate(found.questions):
            for name in question.images.values():
                found._open(index, name).close()
        return found

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.questions)

    def read(self, indices: Sequence[int]) -> list[Instant | DatasetError]:
        """Return the pictures of some questions; where one cannot be had, the error that says why."""
        return [self._pictures(index) for index in indices]

    def encode(self, index: int, processor: Processor, pictures: Instant | None = None) -> Batch:
        """Return a question as a training sample, unbatched, with its pictures if they were read already.

        DatasetError if one is damaged, ValueError if the question breaks the robot's contract.
        """
        found = self._pictures(index) if pictures is None else pictures
        if isinstance(found, DatasetError):
            raise found
        question = self.questions[index]
        try:
            return processor.encode_question(found, question.question, question.answer)
        except ValueError as error:
            raise ValueError(f"{self._place(index)}: {error}") from None

    def check(self, processor: Processor) -> None:
        """Raise ValueError that names the first line whose cameras or length break a robot's contract."""
        for index, question in enumerate(self.questions):
            try:
                processor.question_tokens(question.images, question.question, question.answer)
            except ValueError as error:
                raise ValueError(f"{self._place(index)}: {error}") from None

    def _place(self, index: int) -> str:
        return f"{self.folder / QUESTIONS}, line {index + 1}"

    def _pictures(self, index: int) -> Instant | DatasetError:
        found: Instant = {}
        for camera, name in self.questions[index].images.items():
            try:
                found[camera] = self._decoded(index, name)
            except DatasetError as error:
                return error
        return found

    def _decoded(self, index: int, name: str) -> UInt8[np.ndarray, "height width 3"]:
        with self._open(index, name) as picture:
            try:
                picture.load()
            except DAMAGE as error:
                raise self._damaged(index, name, f"is no whole picture ({error})") from None
            return np.asarray(picture)

    def _open(self, index: int, name: str) -> Image.Image:
        """Return a picture that is RGB and not yet decoded."""
        if Path(name).is_absolute() or ".." in Path(name).parts:
            message = f"{self._place(index)}: {name!r} leads out of the folder of the questions"
            raise DatasetError("path-escapes", self.folder / name, message)
        try:
            path = confined(self.folder, self.folder / name)
        except DatasetError as error:
            raise DatasetError(error.code, error.place, f"{self._place(index)}: {error.message}") from None
        if not path.is_file():
            raise self._damaged(index, name, "is not there")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                picture = Image.open(path)
        except DAMAGE as error:
            raise self._damaged(index, name, f"is no picture ({error})") from None
        if picture.mode != "RGB":
            picture.close()
            raise self._damaged(index, name, f"is not RGB but {picture.mode!r}; convert it")
        return picture

    def _damaged(self, index: int, name: str, reason: str) -> DatasetError:
        message = f"{self._place(index)}: expected a picture in {name}, which {reason}"
        return DatasetError("image-damaged", self.folder / name, message)


def _question(place: str, line: bytes) -> Question:
    try:
        text = line.decode("utf-8")
        question: Question = from_data(Question, json.loads(text))
        f"{question.question}{question.answer}".encode()
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'{place}: expected {{"images": {{CAMERA: FILE}}, "question": TEXT, "answer": TEXT}}: {error}'
        ) from None
    empty = [name for name in ("question", "answer") if not getattr(question, name).strip()]
    empty += [] if question.images else ["images"]
    if empty:
        raise ValueError(f"{place}: expected a question, its answer and a picture, found no {empty[0]}")
    return question
