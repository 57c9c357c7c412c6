"""The rated snippets of vaderSentiment: reviews and tweets, each judged by 20 people.

As ``vader`` they are examples of a classification; as ``reviews`` they are prompts for which the
teacher writes answers.

Source: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
Social Media Text" (ICWSM 2014). A line is: id, mean rating from -4 to 4, text, parted by tabs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ollama_bridge.data.candidates import Candidate, Collected, Tally
from ollama_bridge.data.cleaning import clean_line
from ollama_bridge.data.labels import meant
from ollama_bridge.data.problems import Problems, read_text
from ollama_bridge.data.task_prompt import as_option
from ollama_bridge.errors import ConfigError
from ollama_bridge.examples import Example, Message
from ollama_bridge.recipe.config import DataSection, TaskSection

# The editorials of the collection are no reviews: few of them judge anything.
FILES = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "tweet": "tweets_GroundTruth.txt",
}
REVIEW_SOURCES = ("movie", "amazon")
# A prompt such as "i agree ." leaves nothing to answer.
_MIN_REVIEW_WORDS = 4


@dataclass(frozen=True)
class Snippet:
    """One rated text.

    Attributes:
        id: Unique over all files.
        document: Where it was taken from; amazon's ids begin with their review's number.
        source: movie, amazon or tweet.
        rating: Mean of the raters.
        text: Cleaned, one line.
    """

    id: str
    document: str
    source: str
    rating: float
    text: str


def snippet_files(folder: Path, sources: tuple[str, ...]) -> dict[str, Path]:
    """The files of some sources, by source."""
    return {source: folder / FILES[source] for source in sources}


def _read_snippets(path: Path, *, source: str) -> Iterator[Snippet]:
    """Read one file.

    Raises:
        DataError: a line that is not id, rating and text.
    """
    problems = Problems(path, unit="line")
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            own_id, rating, text = line.rstrip("\r").split("\t")
            snippet = Snippet(
                id=f"{source}-{own_id}",
                document=f"{source}-{own_id.partition('_')[0]}",
                source=source,
                rating=float(rating),
                text=clean_line(text),
            )
        except ValueError:
            problems.add(number, "not an id, a rating and a text")
            continue
        yield snippet
    problems.raise_if_any(hint="delete the file; it will be fetched again")


def collect_vader(files: dict[str, Path], data: DataSection, task: TaskSection) -> Collected:
    """Snippets with a clear rating as examples of ``positive`` and ``negative``.

    Raises:
        ConfigError: the task has other labels and no ``data.label_map`` for them.
        DataError: a file is damaged.
    """
    label_of = {sign: data.label_map.get(sign, sign) for sign in ("positive", "negative")}
    lost = [sign for sign, label in label_of.items() if label not in task.labels]
    if lost:
        guesses = {sign: meant(sign, task.labels) or "LABEL" for sign in lost}
        raise ConfigError(
            f"the vader source has the labels positive and negative, the task has "
            f"{', '.join(task.labels) or 'none'}",
            # All of it: one map takes the place of the one before.
            hint=as_option("data.label_map", {**data.label_map, **guesses}),
        )
    tally = Tally()
    candidates = []
    for source, path in files.items():
        for snippet in _read_snippets(path, source=source):
            tally.count_read(source)
            if abs(snippet.rating) < max(data.min_abs_rating, 1e-9):
                tally.leave_out(source, f"rated within {data.min_abs_rating} of neutral")
                continue
            if not snippet.text:
                tally.leave_out(source, "empty")
                continue
            label = label_of["positive" if snippet.rating > 0 else "negative"]
            candidates.append(_candidate(snippet, task, label))
    return Collected(tuple(candidates), tally)


def collect_reviews(files: dict[str, Path], task: TaskSection) -> Collected:
    """Review snippets as prompts without answers.

    Raises:
        DataError: a file is damaged.
    """
    tally = Tally()
    candidates = []
    for source, path in files.items():
        for snippet in _read_snippets(path, source=source):
            tally.count_read(source)
            if len(snippet.text.split()) < _MIN_REVIEW_WORDS:
                tally.leave_out(source, f"shorter than {_MIN_REVIEW_WORDS} words")
                continue
            candidates.append(_candidate(snippet, task, None))
    return Collected(tuple(candidates), tally)


def _candidate(snippet: Snippet, task: TaskSection, label: str | None) -> Candidate:
    messages = [Message("system", task.system)] if task.system else []
    messages.append(Message("user", snippet.text))
    if label is not None:
        messages.append(Message("assistant", label))
    example = Example(snippet.id, tuple(messages), snippet.document, label)
    return Candidate(example, snippet.source, snippet.text)
