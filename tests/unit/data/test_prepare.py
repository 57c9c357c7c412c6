"""The stage ``prepare`` on small made-up files."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import yaml
from fakes.listening import Listener

import ollama_bridge.data.making_splits
import ollama_bridge.data.packages
from ollama_bridge.data.chats.forms import A_LINE
from ollama_bridge.data.prepare import prepare
from ollama_bridge.errors import ConfigError, DataError
from ollama_bridge.examples import Example, read_examples
from ollama_bridge.recipe.config import DataSection, TaskSection
from ollama_bridge.reporting import StageReused
from ollama_bridge.storage.artifacts import Corpus

SENTIMENT = TaskSection(kind="classify", system="Which?", labels=("positive", "negative"))
REPLY = TaskSection(kind="reply", system="Answer.")
_WORDS = ["film", "book", "tea", "cake", "band", "song", "game", "shoe", "road", "boat", "lamp"]
_WORDS += ["door", "tree", "moon", "star", "rain"]


def sentence(chooser: random.Random) -> str:
    return " ".join(chooser.choices(_WORDS, k=9)) + f" {chooser.randrange(10**9)}"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made-up versions of the fetched folders, in the real formats."""
    chooser = random.Random(0)
    folder = tmp_path / "packages"
    (folder / "english").mkdir(parents=True)

    def write(name: str, ids: list[str]) -> None:
        lines = [f"{i}\t{chooser.choice([-2.5, -0.1, 1.25])}\t{sentence(chooser)}" for i in ids]
        (folder / name).write_bytes("".join(f"{line}\r\n" for line in lines).encode())

    write("movieReviewSnippets_GroundTruth.txt", [str(n) for n in range(300)])
    write("amazonReviewSnippets_GroundTruth.txt", [f"{d}_{n}" for d in range(30) for n in range(5)])
    write("tweets_GroundTruth.txt", [str(n) for n in range(100)])
    (folder / "english" / "conversations.yml").write_text(
        "categories: [conversations]\nconversations:\n"
        "- [Good day, Hello, 'How are you?', Fine, I see]\n- [Hi, Hello]\n"
    )
    pairs = "".join(f"- ['What is {word}?', It is {word}., Or so.]\n" for word in _WORDS)
    (folder / "english" / "food.yml").write_text(f"categories: [food]\nconversations:\n{pairs}")
    (folder / "english" / "humor.yml").write_text("conversations:\n- [Tell a joke, No]\n")
    monkeypatch.setattr(
        ollama_bridge.data.packages, "fetch_package_file", lambda asset, *, reporter: folder
    )
    return folder


def recipe_of(path: Path) -> dict[str, object]:
    return {"source": "table", "path": path}


def examples(corpus: Corpus) -> dict[str, list[Example]]:
    return {
        name: list(read_examples(corpus.split_path(name)))
        for name in ("train", "validation", "test")
    }


def test_vader_is_split_by_review(packages: Path, tmp_path: Path) -> None:
    """Clear ratings only, labels by sign, amazon's reviews whole, sizes nearly as asked."""
    data = DataSection(source="vader", test_examples=60, validation_examples=30)
    corpus = prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / "out")
    splits = examples(corpus)
    # A review that is too large for the last free places stays out, so a few may be missing.
    assert 57 <= len(splits["test"]) <= 60
    assert 27 <= len(splits["validation"]) <= 30
    reviews = [{one.group for one in part} for part in splits.values()]
    assert not reviews[0] & reviews[1] | reviews[0] & reviews[2] | reviews[1] & reviews[2]
    amazon = [one for part in splits.values() for one in part if one.id.startswith("amazon-")]
    assert len(amazon) > 50
    assert all(one.group == one.id.partition("_")[0] for one in amazon)
    for one in splits["test"]:
        assert [turn.role for turn in one.messages] == ["system", "user", "assistant"]
        assert one.messages[-1].content == one.label
    card = json.loads((corpus.path / "card.json").read_text())
    assert card["read"] == {"movie": 300, "amazon": 150, "tweet": 100}
    left_out = sum(sum(counts.values()) for counts in card["left_out"].values())
    assert sum(card["read"].values()) - left_out == sum(map(len, splits.values()))
    assert card["inputs"]["movie"]["sha256"] == corpus.manifest.work.inputs["movie"]
    assert corpus.datasets == ("vaderSentiment",)


def test_reviews_wait_for_answers_and_dialogues_have_them(packages: Path, tmp_path: Path) -> None:
    """Review prompts end on the user; dialogues alternate, end on answers, repeat no question."""
    data = DataSection(
        source="reviews",
        test_examples=40,
        validation_examples=20,
        max_examples=50,
        dialogue_examples=9,
    )
    heard = Listener()
    corpus = prepare(data, REPLY, seed=0, out_dir=tmp_path / "out", reporter=heard)
    assert corpus.datasets == ("vaderSentiment", "chatterbot-corpus")
    splits = examples(corpus)
    assert len(splits["train"]) == 50
    everything = [one for part in splits.values() for one in part]
    dialogues = [one for one in everything if one.id.startswith("dialogue")]
    prompts = [one for one in everything if not one.id.startswith("dialogue")]
    assert all(one.messages[-1].role == "user" for one in prompts)
    assert not any("tweet" in one.id for one in prompts)
    roles = ["system", "user", "assistant", "user", "assistant"]
    assert all([turn.role for turn in one.messages] == roles for one in dialogues)
    questions = [turn.content for one in dialogues for turn in one.messages if turn.role == "user"]
    assert len(dialogues) == 9
    assert len(set(questions)) == len(questions)
    assert not any("joke" in question for question in questions)


def test_a_small_file_of_the_users_scales_the_splits(tmp_path: Path) -> None:
    """Of 300 rows 60 and 30 are held out, and the user is told."""
    chooser = random.Random(1)
    path = tmp_path / "mine.csv"
    rows = [f"{sentence(chooser)},{'positive' if n % 3 else 'negative'}" for n in range(300)]
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8-sig")
    data = DataSection(source="table", path=path)
    heard = Listener()
    corpus = prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / "out", reporter=heard)
    assert corpus.facts == {"train": 210, "validation": 30, "test": 60}
    assert any("300 usable examples are too few" in note for note in heard.notes)
    labels = {name: {one.label for one in part} for name, part in examples(corpus).items()}
    assert all(found == {"positive", "negative"} for found in labels.values())


def test_a_label_of_few_texts_is_told(tmp_path: Path) -> None:
    """Three texts are one for each split: it counts in macro F1 as any other, and is not learnt."""
    chooser = random.Random(2)
    labels = ["positive"] * 40 + ["negative"] * 40 + ["neutral"] * 3
    rows = [{"text": sentence(chooser), "label": label} for label in labels]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    task = TaskSection(kind="classify", system="", labels=("positive", "negative", "neutral"))
    heard = Listener()
    corpus = prepare(
        DataSection(source="table", path=path),
        task,
        seed=0,
        out_dir=tmp_path / "corpus",
        reporter=heard,
    )
    (told,) = [note for note in heard.notes if "few texts" in note]
    assert "'neutral' has 1 to be trained on and 1 to be tested on" in told
    assert "positive" not in told
    card = json.loads((corpus.path / "card.json").read_text())
    assert told in card["notes"]


def test_same_work_is_reused_and_bitwise_the_same(packages: Path, tmp_path: Path) -> None:
    """The second run finds the first; another folder gets the same bytes; a seed is other work."""
    data = DataSection(source="vader", test_examples=60, validation_examples=30)
    heard = Listener()
    first = prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / "a")
    again = prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / "a", reporter=heard)
    assert any(isinstance(event, StageReused) for event in heard.events)
    other = prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / "b")
    assert first.digest == again.digest == other.digest
    assert prepare(data, SENTIMENT, seed=1, out_dir=tmp_path / "b").digest != first.digest


def test_the_files_place_does_not_matter_but_its_content_does(tmp_path: Path) -> None:
    """A corpus is keyed by the file's digest, not by its path."""
    chooser = random.Random(1)
    rows = [f"{sentence(chooser)},{'positive' if n % 2 else 'negative'}" for n in range(40)]
    digests = []
    for name, extra in (("a", []), ("b", []), ("c", ["one more text,positive"])):
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(["text,label", *rows, *extra]))
        data = DataSection(source="table", path=path)
        digests.append(prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / name).digest)
    assert digests[0] == digests[1] != digests[2]


_ASKED = '"messages": [{"role": "user", "content": "What is %d?"}, {"role": "assistant", '
_ASKED += '"content": "Number %d."}]'


def test_unusable_texts_are_counted(tmp_path: Path) -> None:
    """Too long texts, forged turns, duplicates and contradictions are left out and counted."""
    chooser = random.Random(1)
    rows = [f"{sentence(chooser)},{'positive' if n % 2 else 'negative'}" for n in range(40)]
    rows += [
        "bad<|im_end|>,positive",
        f"{'long ' * 50},positive",
        rows[0],
        "so so,positive",
        "so so,negative",
    ]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["text,label", *rows]))
    data = DataSection(source="table", path=path, max_chars=200)
    heard = Listener()
    corpus = prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / "out", reporter=heard)
    assert "control tokens: <|im_end|> in row-42" in heard.notes
    said = "one text under different labels: row-45 (positive), row-46 (negative); left out"
    assert said in heard.notes
    card = json.loads((corpus.path / "card.json").read_text())
    assert {reason: counts["table"] for reason, counts in card["left_out"].items()} == {
        "exact duplicate": 1,
        "holds a control token of a chat format": 1,
        "longer than 200 characters": 1,
        "same text under different labels": 2,
    }


@pytest.mark.parametrize("others", [0, 40])
def test_texts_that_are_rendered_already_are_told_how_to_be_given(
    tmp_path: Path, others: int
) -> None:
    """With the marks of a chat template they would be turns within a turn."""
    chooser = random.Random(1)
    rows = [
        {"text": f"{mark}{sentence(chooser)}", "label": ("positive", "negative")[n % 2]}
        for mark, count in (("<|im_start|>user\n", 9), ("", others))
        for n in range(count)
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    data, heard = DataSection(source="table", path=path), Listener()
    if others:
        prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / "out", reporter=heard)
        (said,) = (note for note in heard.notes if note.startswith("9 of 49 texts hold control"))
    else:
        with pytest.raises(DataError, match="9 holds a control token") as caught:
            prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / "out")
        said = str(caught.value.hint)
    assert said.endswith(
        f"give what was said without a chat template's marks; as messages {A_LINE}"
    )


def test_what_a_limit_leaves_out_is_said_with_what_lifts_it(tmp_path: Path) -> None:
    """Typed as it stands, the change of the note keeps all."""
    chooser = random.Random(1)
    rows = [f"{sentence(chooser)},{'positive' if n % 2 else 'negative'}" for n in range(60)]
    long = [f"{'long ' * n}{sentence(chooser)},positive" for n in (50, 70, 60)]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["text,label", *rows, *long]))
    recipe = recipe_of(path) | {"max_chars": 200, "max_examples": 30}
    kept = {}
    for name in ("limited", "all"):
        heard = Listener()
        data = DataSection.model_validate(recipe)
        corpus = prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / name, reporter=heard)
        kept[name] = sum(corpus.facts.values())
        found = re.findall(r"--set data\.(\w+)=(\w+) keeps them all", " ".join(heard.notes))
        recipe |= {key: yaml.safe_load(value) for key, value in found}
    assert kept == {"limited": 48, "all": 63}
    assert dict(recipe)["max_examples"] is None
    assert not found


def test_a_long_search_is_told_before_it_begins(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that says nothing for half an hour looks as if it hung."""
    monkeypatch.setattr(ollama_bridge.data.making_splits, "_LONG_SEARCH_TEXTS", 2)
    for keeps in ("leave_out", "keep"):
        listener = Listener()
        data = DataSection.model_validate({"source": "vader", "near_duplicates": keeps})
        prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / keeps, reporter=listener)
        told = [note for note in listener.notes if "which may take long: --set data.near_" in note]
        assert len(told) == (keeps == "leave_out")


def test_texts_that_are_all_too_long_are_told_with_the_key(tmp_path: Path) -> None:
    """The way out is the hint of the error."""
    path = tmp_path / "mine.csv"
    path.write_text(f"text,label\n{'long ' * 50},positive\n{'long ' * 60},negative\n")
    data = DataSection.model_validate(recipe_of(path) | {"max_chars": 200})
    with pytest.raises(DataError, match="2 longer than 200 characters") as caught:
        prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / "out")
    assert str(caught.value.hint).startswith("--set data.max_chars=307 ")


def test_every_answer_to_a_question_is_kept(tmp_path: Path) -> None:
    """All of a question in one split; what is left out is said."""
    chooser = random.Random(1)
    questions = [f"What about {sentence(chooser)}?" for _ in range(20)]
    rows = [f"{question},{sentence(chooser)}" for question in questions for _ in range(5)]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["text,label", *rows, rows[0]]))
    heard = Listener()
    data = DataSection(source="table", path=path, test_examples=20, validation_examples=10)
    splits = examples(prepare(data, REPLY, seed=0, out_dir=tmp_path / "out", reporter=heard))
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 70,
        "validation": 10,
        "test": 20,
    }
    asked = [{one.prompt[-1].content for one in part} for part in splits.values()]
    assert sum(map(len, asked)) == len(set().union(*asked)) == 20
    assert "101 read; left out: 1 exact duplicate" in heard.notes


def test_a_text_that_differs_little_from_one_of_another_label_stays(tmp_path: Path) -> None:
    """And it is said that it does."""
    chooser = random.Random(1)
    rows = [f"{sentence(chooser)},{'positive' if n % 3 else 'negative'}" for n in range(40)]
    text = "I would {}recommend this to anyone who likes old films with a slow story"
    rows += [f"{text.format('')},positive", f"{text.format('not ')},negative"]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["text,label", *rows]))
    heard = Listener()
    data = DataSection(source="table", path=path)
    corpus = prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / "out", reporter=heard)
    assert sum(corpus.facts.values()) == 42
    (said,) = [note for note in heard.notes if "differ little" in note]
    assert said.startswith("1 text(s)")


def test_conversations_that_all_open_with_hi_are_split(tmp_path: Path) -> None:
    """And not refused as one document."""
    ask = '{"role": "user", "content": "%s"}, {"role": "assistant", "content": "Number %d."}'
    for number, opening in enumerate(("Hi", "Hi %d")):
        path = tmp_path / "mine.jsonl"
        first = [opening % n if "%" in opening else opening for n in range(90)]
        turns = [f"{ask % (one, 0)}, {ask % (f'What is {n}?', n)}" for n, one in enumerate(first)]
        path.write_text("\n".join(f'{{"messages": [{one}]}}' for one in turns))
        data = DataSection(source="messages", path=path)
        corpus = prepare(data, REPLY, seed=0, out_dir=tmp_path / f"out{number}")
        assert corpus.facts["test"] == 18


@pytest.mark.parametrize("source", ["table", "messages"])
def test_half_an_emoji_in_a_group_or_label_is_spelt_out(tmp_path: Path, source: str) -> None:
    """JSON can hold one, as what cuts texts by their UTF-16 leaves it; a corpus cannot."""
    path = tmp_path / "mine.jsonl"
    line = '{"text": "What is %d?", "label": "\\ud83d %d", "group": "chat \\ud83d %d", %s}'
    path.write_text("\n".join(line % (n, n, n, _ASKED % (n, n)) for n in range(40)))
    asked = {"source": source, "path": path, "group_col": "group"}
    corpus = prepare(DataSection.model_validate(asked), REPLY, seed=0, out_dir=tmp_path / "out")
    groups = {one.group for part in examples(corpus).values() for one in part}
    assert groups == {f"group-chat \\ud83d {n}" for n in range(40)}


def test_an_instruction_in_every_row_costs_no_rows(tmp_path: Path) -> None:
    """All are used, and a note says so."""
    chooser = random.Random(1)
    words = [" ".join(chooser.choices(_WORDS, k=5)) for _ in range(300)]
    rows = [
        f"{text},{'positive' if n % 3 else 'negative'}"
        for n, text in enumerate(dict.fromkeys(words))
    ]
    instruction = "Read what a customer says and say in one word what is thought of it. " * 3
    path = tmp_path / "mine.csv"
    found = {}
    for name, begin in (("plain", ""), ("framed", instruction)):
        path.write_text("\n".join(["text,label", *(f"{begin}{row}" for row in rows)]))
        heard = Listener()
        data = DataSection(source="table", path=path)
        found[name] = prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / name, reporter=heard)
        said = [note for note in heard.notes if "questions begin or end as many do" in note]
        assert len(said) == (name == "framed")
    assert found["plain"].facts == found["framed"].facts
    assert sum(found["framed"].facts.values()) == len(rows)


def test_near_duplicates_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    """The warning of many of them names the option, which is other work; exact ones go."""
    texts = [f"The parcel for order {n} came late and its box was broken" for n in range(40)]
    rows = [f"{text},{'positive' if n % 2 else 'negative'}" for n, text in enumerate(texts)]
    chooser = random.Random(1)
    rows += [f"{sentence(chooser)},{'positive' if n % 2 else 'negative'}" for n in range(99)]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["text,label", *rows, rows[0]]))
    heard = Listener()
    data = DataSection(source="table", path=path)
    corpus = prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / "out", reporter=heard)
    assert sum(corpus.facts.values()) == 101
    (said,) = [note for note in heard.notes if "near_duplicates" in note]
    assert said.startswith("38 near duplicates are left out by data.near_duplicates: ")
    assert said.endswith(": --set data.near_duplicates=keep keeps them all")
    asked = data.model_copy(update={"near_duplicates": "keep"})
    again = prepare(asked, SENTIMENT, seed=0, out_dir=tmp_path / "all")
    assert sum(again.facts.values()) == len(rows)
    assert again.manifest.work.key != corpus.manifest.work.key
    card = json.loads((again.path / "card.json").read_text())
    assert card["rules"]["near_duplicate"] == "keep"


_PARCEL = "Your parcel {} is waiting. Pay 1.99 EUR now to have it delivered to you today."
_ORDER = "Where is my order number {}? It was due yesterday and has not arrived."
_TEMPLATES = [
    (_ORDER, 60, 40),
    (_PARCEL, 300, 250),
    (_PARCEL.replace("parcel", "parcel of number"), 300, 250),
]


@pytest.mark.parametrize(("template", "count", "others"), _TEMPLATES)
def test_texts_of_one_template_are_near_duplicates(
    tmp_path: Path, template: str, count: int, others: int
) -> None:
    """Also where most texts are of it, so that it looks like an instruction."""
    chooser = random.Random(1)
    texts = [template.format(n) for n in chooser.sample(range(10**4, 10**5), count)]
    texts += [sentence(chooser) for _ in range(others)]
    labels = ["positive"] * count + ["positive", "negative"] * (others // 2)
    rows = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["text,label", *rows]))
    heard = Listener()
    data = DataSection(source="table", path=path)
    corpus = prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / "out", reporter=heard)
    kept = sum(corpus.facts.values()) - others
    assert 0 < kept < 0.2 * count
    (warned,) = [warning for warning in heard.warnings if "near_" in warning]
    assert warned.startswith(f"{count - kept} near duplicates are left out by ")
    assert sum("begin or end as many do" in note for note in heard.notes) == 1
    assert not any("instruction of all questions" in note for note in heard.notes)


def test_missing_files_and_labels(packages: Path, tmp_path: Path) -> None:
    """A missing file, a label that no row has, and labels that the source does not have."""
    data = DataSection(source="table", path=tmp_path / "no.csv")
    with pytest.raises(DataError, match="no such file"):
        prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / "out")
    data = DataSection(source="table", path=tmp_path)
    with pytest.raises(DataError, match="not a regular file"):
        prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / "out")
    path = tmp_path / "mine.csv"
    path.write_text("text,label\n" + "\n".join(f"text number {n},positive" for n in range(9)))
    data = DataSection(source="table", path=path)
    with pytest.raises(DataError, match="label 'negative'"):
        prepare(data, SENTIMENT, seed=0, out_dir=tmp_path / "out")
    task = TaskSection(kind="classify", system="", labels=("good", "bad"))
    with pytest.raises(ConfigError, match="labels positive and negative"):
        prepare(DataSection(source="vader"), task, seed=0, out_dir=tmp_path / "out")


def test_a_damaged_package_is_named(packages: Path, tmp_path: Path) -> None:
    """A line of the snippets that is none is named."""
    (packages / "tweets_GroundTruth.txt").write_text("1\t2.0\tfine\nbroken\n")
    with pytest.raises(DataError, match=r"tweets_GroundTruth.txt.*\n.*line 2"):
        prepare(DataSection(source="vader"), SENTIMENT, seed=0, out_dir=tmp_path / "out")
