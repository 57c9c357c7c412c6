"""The one place that knows the order of the stages.

Read ``_Build.run`` from top to bottom: it is the product. Every stage finds its own finished work
again, so running it twice costs seconds and running it after a kill goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ollama_bridge.assets import home_dir
from ollama_bridge.client import Client
from ollama_bridge.daemon.ensure import ensure_daemon
from ollama_bridge.daemon.loaded import unload_all
from ollama_bridge.extras import require_training_extra
from ollama_bridge.packaged_teacher import provide_teacher
from ollama_bridge.publishing.papers import write_card
from ollama_bridge.recipe.config import DistillSection, Recipe
from ollama_bridge.reporting import JSONLReporter, Note, NullReporter, Once, Reporter, TeeReporter
from ollama_bridge.run_folder import EVENTS_NAME, hold_run, run_dir_of, tag_file_name
from ollama_bridge.storage.artifacts import (
    Checkpoint,
    Corpus,
    EvalReport,
    GGUFFile,
    RegisteredModel,
    SoftLabels,
)


@dataclass(frozen=True)
class BuildResult:
    """What a build made.

    Attributes:
        run_dir: Folder with every artefact and ``events.jsonl``.
        student: The distilled checkpoint.
        report: Scores in torch.
        served: Scores as the daemon serves it; None where the recipe leaves it out.
        models: The proven tags, the recipe's main tag first.
    """

    run_dir: Path
    student: Checkpoint
    report: EvalReport
    served: EvalReport | None
    models: tuple[RegisteredModel, ...]


def build(
    recipe: Recipe,
    *,
    out_dir: str | Path | None = None,
    host: str | None = None,
    reporter: Reporter | None = None,
) -> BuildResult:
    """From a model in Ollama to a smaller one that Ollama serves.

    Args:
        recipe: What to build.
        out_dir: Folder of the run; None: ``runs/NAME`` in our home folder.
        host: Address of the daemon; None: ``OLLAMA_HOST``, else the default port.
        reporter: Hears of progress, beside the run's ``events.jsonl``.

    Raises:
        OllamaBridgeError: what went wrong and what to do; finished stages are kept.
    """
    require_training_extra()
    from ollama_bridge.build_checks import check_models, check_tags

    check_tags(recipe)
    check_models(recipe)
    run_dir = run_dir_of(recipe, out_dir)
    with hold_run(run_dir), JSONLReporter(run_dir / EVENTS_NAME) as events:
        tee = TeeReporter(events, reporter or NullReporter())
        daemon = ensure_daemon(reporter=tee, host=host)
        with Client(daemon.host) as client:
            return _Build(recipe, run_dir, client, tee).run()


@dataclass(frozen=True)
class _Teacher:
    """The teacher's weights.

    Attributes:
        found: As the reference names them.
        tuned: The same on the task; ``found`` itself where the recipe does not tune.
    """

    found: Checkpoint
    tuned: Checkpoint

    @property
    def is_tuned(self) -> bool:
        """Whether they are two."""
        return self.tuned is not self.found


@dataclass(frozen=True)
class _Build:
    """The stages of one recipe, each with its section, its folder and the daemon.

    What a stage reads and what it makes is in its signature: no artefact is kept in here.
    """

    recipe: Recipe
    run_dir: Path
    client: Client
    reporter: Reporter

    def run(self) -> BuildResult:
        """All of them, in order. Where torch computes, the daemon holds no model."""
        corpus = self.prepare()
        for model in (self.recipe.teacher.model, self.recipe.student.model):
            provide_teacher(model, self.client, self.reporter)
        found = self.find_teacher()
        self.check_can_be_built(found, corpus)
        corpus = self.write_answers(corpus)
        unload_all(self.client, self.reporter)
        teacher = self.tune(found, corpus)
        start = self.find_start(teacher)
        labels = self.label(teacher, start, corpus)
        students = replace(self, reporter=Once(self.reporter))  # most notes are of both
        student = students.distill(start, labels, teacher, corpus)
        control = students.distill_control(start, corpus)
        report = self.evaluate(teacher, student, control, corpus)
        models = self.convert_and_register(student, corpus)
        served = self.evaluate_served(models[0], teacher, corpus)
        unload_all(self.client, self.reporter)
        write_card(models[0].tag, self.run_dir, host=self.client.host, reporter=self.reporter)
        return BuildResult(self.run_dir, student, report, served, models)

    def prepare(self) -> Corpus:
        """The texts, cleaned and split."""
        from ollama_bridge.data.prepare import prepare

        return prepare(
            self.recipe.data,
            self.recipe.task,
            seed=self.recipe.seed,
            out_dir=self.run_dir / "corpus",
            reporter=self.reporter,
        )

    def write_answers(self, corpus: Corpus) -> Corpus:
        """The corpus with the teacher's answers, where the recipe wants them."""
        from ollama_bridge.teacher.daemon import write_answers
        from ollama_bridge.teacher.respondent import find_or_recall

        section, out_dir = self.recipe.teacher, self.run_dir / "answers"
        if section.answers != "daemon":
            return corpus
        return write_answers(
            corpus,
            section,
            respondent=find_or_recall(section, self.client, [out_dir], self.reporter),
            out_dir=out_dir,
            labels=self.recipe.task.labels,
            reporter=self.reporter,
        )

    def find_teacher(self) -> Checkpoint | None:
        """The teacher's weights; None: the daemon alone is asked."""
        if not self.recipe.needs_teacher_weights:
            return None
        return self.resolve(self.recipe.teacher.model)

    def check_can_be_built(self, found: Checkpoint | None, corpus: Corpus) -> None:
        """That all can be trained, and the tags will not cut answers, while nothing is written."""
        from ollama_bridge.build_checks import check_start
        from ollama_bridge.train.finetune import check_tuning

        check_tuning(self.recipe.teacher.tune, self.run_dir / "teacher")
        start = self.find_start(None if found is None else _Teacher(found, found))
        version = self.client.version()
        check_start(
            self.recipe, start, corpus, self.reporter, teacher=found, daemon_version=version
        )

    def tune(self, found: Checkpoint | None, corpus: Corpus) -> _Teacher | None:
        """The teacher, tuned on the task where the recipe says so."""
        from ollama_bridge.build_checks import check_labels
        from ollama_bridge.length_checks import check_lengths
        from ollama_bridge.train.finetune import finetune

        if found is None:
            return None
        section, untuned = self.recipe.teacher.tune, _Teacher(found, found)
        if section is None:
            return untuned
        if self.recipe.teacher.answers == "daemon":  # it may have written them just now
            start = self.find_start(untuned)
            check_lengths(self.recipe, start, corpus, found, self.reporter, answers_given=True)
            check_labels(self.recipe, start, corpus, found, answers_given=True)
        tuned = finetune(
            found,
            corpus,
            section,
            system=self.recipe.task.system,
            labels=self.recipe.task.labels,
            out_dir=self.run_dir / "teacher",
            reporter=self.reporter,
        )
        return _Teacher(found, tuned)

    def find_start(self, teacher: _Teacher | None) -> Checkpoint:
        """Whose weights the student begins with."""
        if teacher is not None and self.recipe.student.model == "teacher":
            return teacher.tuned
        return self.resolve(self.recipe.student.model)

    def label(
        self, teacher: _Teacher | None, start: Checkpoint, corpus: Corpus
    ) -> SoftLabels | None:
        """The soft labels that the losses read, of torch or the daemon; None: they read none."""
        from ollama_bridge.teacher.daemon_labels import label_by_daemon
        from ollama_bridge.teacher.local import label
        from ollama_bridge.teacher.respondent import find_or_recall

        recipe, out_dir = self.recipe, self.run_dir / "labels"
        if not recipe.distill.reads_soft_labels:
            return None
        if recipe.teacher.soft_labels == "daemon":
            finished = [out_dir, self.run_dir / "answers"]
            labels = label_by_daemon(
                corpus,
                start,
                recipe.soft_labels,
                recipe.teacher,
                respondent=find_or_recall(recipe.teacher, self.client, finished, self.reporter),
                max_length=recipe.distill.max_length,
                out_dir=out_dir,
                reporter=self.reporter,
            )
            unload_all(self.client, self.reporter)
            return labels
        if teacher is None:
            return None
        return label(
            teacher.tuned,
            corpus,
            recipe.soft_labels,
            student=start,
            max_length=recipe.distill.max_length,
            dtype=recipe.distill.dtype,
            out_dir=out_dir,
            store_dir=home_dir() / "labels",
            reporter=self.reporter,
        )

    def distill(
        self,
        start: Checkpoint,
        labels: SoftLabels | None,
        teacher: _Teacher | None,
        corpus: Corpus,
    ) -> Checkpoint:
        """The student."""
        settings, weights = self.recipe.distill, None if teacher is None else teacher.tuned
        return self.train(start, corpus, labels, settings, teacher=weights, folder="student")

    def distill_control(self, start: Checkpoint, corpus: Corpus) -> Checkpoint | None:
        """The SFT control; None: the recipe leaves it out."""
        if not self.recipe.control.enabled:
            return None
        settings = self.recipe.control_settings
        return self.train(start, corpus, None, settings, teacher=None, folder="control")

    def train(
        self,
        start: Checkpoint,
        corpus: Corpus,
        labels: SoftLabels | None,
        settings: DistillSection,
        *,
        teacher: Checkpoint | None,
        folder: str,
    ) -> Checkpoint:
        """A student of the recipe's, as some settings train it."""
        from ollama_bridge.export import noise_types_of_files
        from ollama_bridge.train.distill import distill

        return distill(
            start,
            corpus,
            labels,
            settings,
            student=self.recipe.student,
            teacher=teacher,
            system=self.recipe.task.system,
            task_labels=self.recipe.task.labels,
            noise_types=noise_types_of_files(self.recipe),
            out_dir=self.run_dir / folder,
            reporter=self.reporter,
        )

    def evaluate(
        self,
        teacher: _Teacher | None,
        student: Checkpoint,
        control: Checkpoint | None,
        corpus: Corpus,
    ) -> EvalReport:
        """Scores in torch, on held-out texts that nothing was chosen by."""
        from ollama_bridge.evaluation.report import CONTROL, STUDENT, TEACHER, TUNED, ZERO_SHOT
        from ollama_bridge.evaluation.run import evaluate

        models: dict[str, Checkpoint] = {}
        if teacher is not None and teacher.is_tuned:
            models = {ZERO_SHOT: teacher.found, TUNED: teacher.tuned}
        elif teacher is not None:
            models = {TEACHER: teacher.found}
        models[STUDENT] = student
        if control is not None:
            models[CONTROL] = control
        return evaluate(
            models,
            corpus,
            self.recipe.evaluate,
            self.recipe.task,
            out_dir=self.run_dir / "report",
            reporter=self.reporter,
        )

    def convert_and_register(
        self, student: Checkpoint, corpus: Corpus
    ) -> tuple[RegisteredModel, ...]:
        """The proven tags, each registered as soon as its file is there; the main one first."""
        from ollama_bridge.export import export

        student = self.with_values(student, corpus, "student-values")
        files = export(self.recipe, student, corpus, self.run_dir, self.reporter)
        return tuple(self.register(gguf, tag) for tag, gguf in files)

    def evaluate_served(
        self, student: RegisteredModel, teacher: _Teacher | None, corpus: Corpus
    ) -> EvalReport | None:
        """Scores of the same texts through the daemon; None: the recipe leaves them out."""
        from ollama_bridge.evaluation.report import STUDENT, TEACHER
        from ollama_bridge.evaluation.served import evaluate_served

        if not self.recipe.evaluate.served:
            return None
        teacher_tag = self.serve_teacher(teacher, corpus)
        tags = {} if teacher_tag is None else {TEACHER: teacher_tag}
        return evaluate_served(
            {**tags, STUDENT: student.tag},
            corpus,
            self.recipe.evaluate,
            self.recipe.task,
            client=self.client,
            out_dir=self.run_dir / "served",
            reporter=self.reporter,
        )

    def serve_teacher(self, teacher: _Teacher | None, corpus: Corpus) -> str | None:
        """The tag of the teacher at the student's type, so that they differ in nothing else.

        Where its weights are not at hand, the daemon's own model gets the tag. None: the daemon in
        use does not have the model that taught.
        """
        from ollama_bridge.conversion import convert
        from ollama_bridge.export import teacher_tag_of
        from ollama_bridge.teacher.respondent import why_not_here

        section = self.recipe.teacher
        tag = teacher_tag_of(self.recipe)
        if teacher is None:
            why_not = why_not_here(section, self.client)
            if why_not is not None:
                message = f"the teacher is left out of the scores as served: {why_not}"
                self.reporter.emit(Note("served", "info", message))
                return None
            asked = section.model.removeprefix("ollama:")
            self.client.create({"model": tag, "from": asked, "system": self.recipe.task.system})
            return tag
        checkpoint = self.with_values(teacher.tuned, corpus, "teacher-values")
        gguf_type = self.recipe.export.types[0]
        out_dir = self.run_dir / f"teacher-{gguf_type}"
        gguf = convert(checkpoint, type=gguf_type, out_dir=out_dir, reporter=self.reporter)
        self.register(gguf, tag)
        return tag

    def with_values(self, checkpoint: Checkpoint, corpus: Corpus, folder: str) -> Checkpoint:
        """A model with the values that prove its tag, for who renders the tag's prompts."""
        from ollama_bridge.export import with_proving_values

        recipe, client, run_dir = self.recipe, self.client, self.run_dir
        return with_proving_values(
            recipe, checkpoint, corpus, client, run_dir / folder, self.reporter
        )

    def register(self, gguf: GGUFFile, tag: str) -> RegisteredModel:
        """The tag of a file, proven."""
        from ollama_bridge.registration import register
        from ollama_bridge.rendering import render

        system = self.recipe.task.system
        return register(
            gguf,
            render(gguf, settings=self.recipe.modelfile, system=system),
            tag,
            client=self.client,
            out_dir=self.run_dir / "tags" / tag_file_name(tag),
            reporter=self.reporter,
        )

    def resolve(self, reference: str) -> Checkpoint:
        """The checkpoint of a model reference, out of our cache where it is there."""
        from ollama_bridge.models.sources.resolve import resolve_model

        models, reporter = home_dir() / "models", self.reporter
        return resolve_model(reference, cache_dir=models, client=self.client, reporter=reporter)
