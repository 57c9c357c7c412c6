"""Registers a GGUF under a tag of the daemon, after proving that the tag serves its checkpoint.

The model is created under a candidate's name and checked there; only then does the tag get it. So
a refused model leaves no tag, and a previous good version stays until a better one is proven.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from ollama_bridge.candidate import Candidate, digest_of
from ollama_bridge.client import Client
from ollama_bridge.daemon.era import NO_ADAPTER, NO_LOGPROBS, REWRITES_GGUF, has_limit
from ollama_bridge.daemon.placement import FileState, PlacedBlob, place_blob, taken_back
from ollama_bridge.digests import canonical_json, digest_file
from ollama_bridge.errors import (
    ArtifactError,
    DaemonError,
    MissingExtraError,
    ParityError,
    RequestRejectedError,
    RunnerCrashedError,
)
from ollama_bridge.modelfile import Modelfile, check_tag
from ollama_bridge.modelfile.grammar import bare_or_quoted
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.reporting import Note, NullReporter, Reporter, Timed, tell_bytes
from ollama_bridge.storage.artifacts import (
    MANIFEST_NAME,
    AdapterFile,
    GGUFFile,
    RegisteredModel,
    Work,
)
from ollama_bridge.storage.atomic_files import write_text_atomic
from ollama_bridge.storage.drafts import Draft, open_draft
from ollama_bridge.verify.certificate import Certificate
from ollama_bridge.verify.parity import check_parity

_STAGE = "register"
_WITHOUT_ADAPTER = f"leave --adapter out: {NO_ADAPTER.instead}, and proven too"
# Behind the tag of a model that was kept although its proof failed.
UNVERIFIED = "-unverified"
# What Go says of EPERM and EACCES.
_NOT_ITS_OWN = ("operation not permitted", "permission denied")


def register(
    gguf: GGUFFile,
    modelfile: Modelfile,
    tag: str,
    *,
    client: Client,
    out_dir: str | Path,
    adapter: AdapterFile | None = None,
    reporter: Reporter | None = None,
    force: bool = False,
    link: bool = True,
) -> RegisteredModel:
    """Register a GGUF and prove what is served.

    Args:
        gguf: The converted model and its reference values.
        modelfile: Template, system prompt and parameters.
        tag: The tag to make, such as ``review-sentiment:latest``.
        client: Speaks to the daemon.
        out_dir: Folder of the artefact: Modelfile, exact request, certificate.
        adapter: What is served on top of the GGUF, for daemons that take one; the reference values
            are then those of the adapted model.
        reporter: Hears of progress.
        force: Keep a model whose proof fails, under the tag with ``-unverified`` behind it; the tag
            itself is as it was.
        link: Where the daemon's store is a folder of ours, hard-link the GGUF into it (or copy it,
            where it cannot be linked) instead of uploading it.

    Raises:
        ConfigError: no legal tag.
        ArtifactError, GGUFError: the GGUF was changed or is damaged.
        DiskFullError: no room; nothing half is left in the daemon's store.
        ParityError: the daemon would not serve the checkpoint; the tag is as it was.
        DaemonError: the daemon failed, or takes no adapter; the tag is as it was.
    """
    out_dir = Path(out_dir)
    reporter = reporter or NullReporter()
    tag = check_tag(tag)
    if force:
        check_tag(f"{tag}{UNVERIFIED}")
    job = _Job(gguf, adapter, modelfile, tag, client, reporter, force=force, link=link)
    work = Work(
        kind=RegisteredModel.kind,
        stage=_STAGE,
        version=1,
        inputs={"gguf": gguf.digest} | ({"adapter": adapter.digest} if adapter is not None else {}),
        settings={"request": job.request(job.tag), "force": force},
    )
    with Timed(reporter, _STAGE) as timer, open_draft(out_dir, work) as draft:
        if draft.finished is not None:
            done = RegisteredModel(out_dir, draft.finished)
            if job.is_served(done):
                timer.reuse(out_dir)
                return done
            reporter.emit(Note(_STAGE, "info", f"the daemon no longer has this {job.tag}"))
            draft.restart()
        certificate = job.run()
        job.write(draft, certificate)
        manifest = draft.commit(
            {
                "tag": certificate.tag,
                "type": certificate.type,
                "verdict": certificate.verdict,
                "passed": certificate.passed,
                "forced": certificate.forced,
                "tag_digest": certificate.tag_digest,
            }
        )
        timer.finish(out_dir, manifest.facts)
        return RegisteredModel(out_dir, manifest)


@dataclass(frozen=True)
class _Job:
    gguf: GGUFFile
    adapter: AdapterFile | None
    modelfile: Modelfile
    tag: str
    client: Client
    reporter: Reporter
    force: bool
    link: bool

    def request(self, name: str) -> dict[str, object]:
        request = self.modelfile.to_request(name, blob_digest=self.gguf.blob_digest)
        if self.adapter is not None:
            request["adapters"] = {"adapter.gguf": self.adapter.blob_digest}
        return request

    @property
    def candidate(self) -> Candidate:
        """What is proven before the tag gets it."""
        return Candidate(self.client, self.tag)

    @property
    def files(self) -> tuple[GGUFFile | AdapterFile, ...]:
        """What the daemon has to have."""
        return (self.gguf,) if self.adapter is None else (self.gguf, self.adapter)

    def is_served(self, done: RegisteredModel) -> bool:
        """Whether the daemon's tag still is, byte for byte, the one that was proven."""
        proven = done.facts.get("tag_digest")
        return bool(proven) and digest_of(self.client, str(done.facts["tag"])) == proven

    def run(self) -> Certificate:
        reference = ReferenceValues.read(self.gguf.reference_path)
        self._tell_limits(reference)
        checked = [self._check_file(file) for file in self.files]
        version = self._check_version()
        self.candidate.remove_leftovers()
        with self.candidate.removed():
            self._create([state for _, state in checked])
            created = self.candidate.digest
            self._check_blobs(version)
            self.candidate.unload_sharers()
            certificate = self._prove(reference, checked[0][0], version)
            forced = self.force and not certificate.passed
            tag = f"{self.tag}{UNVERIFIED}" if forced else self.tag
            certificate = certificate.model_copy(update={"tag": tag, "forced": forced})
            if forced:
                self.reporter.emit(Note(_STAGE, "warning", f"{tag}: {certificate.verdict}"))
            else:
                self._raise_if_failed(certificate)
            digest = self.candidate.publish(tag, created)
        return certificate.model_copy(update={"tag_digest": digest})

    def _tell_limits(self, reference: ReferenceValues) -> None:
        """A tag gets less context than most models have, for memory is taken for all of it."""
        made_for = reference.context_length
        context = self.modelfile.parameters.get("num_ctx")
        limit = self.modelfile.parameters.get("num_predict")
        if reference.thinks and isinstance(limit, int) and 0 <= limit < made_for:
            said = (
                f"{self.tag} thinks before it answers, and thoughts and answer together are cut "
                f"off after {limit} tokens (num_predict); for more, raise num_ctx and num_predict, "
                "as PARAMETER or in a request's options"
            )
            self.reporter.emit(Note(_STAGE, "info", said))
        if isinstance(context, int) and context < made_for:
            said = (
                f"{self.tag} has a context of {context} tokens, its model was made for "
                f"{made_for}: a request can raise it with options.num_ctx"
            )
            self.reporter.emit(Note(_STAGE, "info", said))

    def _prove(
        self, reference: ReferenceValues, metadata: dict[str, object], version: str
    ) -> Certificate:
        try:
            return check_parity(
                self.client,
                self.candidate.name,
                reference,
                type=str(self.gguf.facts.get("type") or self.gguf.manifest.work.settings["type"]),
                modelfile=self.modelfile,
                metadata=metadata,
                blob_digest=self.gguf.blob_digest,
                reporter=self.reporter,
            )
        except RequestRejectedError as exc:
            if self.adapter is None:
                raise
            # Some architectures run on an engine of Ollama's that has no adapters.
            raise DaemonError(
                f"Ollama {version} does not run this model with an adapter: {exc.message}",
                hint=_WITHOUT_ADAPTER,
            ) from exc

    def write(self, draft: Draft, certificate: Certificate) -> None:
        """Write the artefact's files: the exact request always, the text where it is exact."""
        relative = [os.path.relpath(f.gguf_path.absolute(), draft.out_dir) for f in self.files]
        portable = self.modelfile.replace_from(relative[0])
        request = canonical_json(self.request(self.tag)) + "\n"
        write_text_atomic(draft.path / "request.json", request)
        write_text_atomic(draft.path / "certificate.json", certificate.to_json())
        differences = portable.text_differences()
        if differences:
            self.reporter.emit(
                Note(
                    _STAGE,
                    "warning",
                    "sent through the API only; a Modelfile cannot carry it: "
                    + "; ".join(differences),
                )
            )
            return
        adapters = "".join(f"ADAPTER {bare_or_quoted(path)}\n" for path in relative[1:])
        write_text_atomic(draft.path / "Modelfile", portable.to_text() + adapters)

    def _check_file(self, file: GGUFFile | AdapterFile) -> tuple[dict[str, object], FileState]:
        """Never send a file that is not what was converted, or that could harm the daemon."""
        try:
            from ollama_bridge.models.gguf.reader import read_gguf
        except ImportError as exc:
            raise MissingExtraError("gguf", "convert") from exc
        path = file.gguf_path
        metadata = dict(read_gguf(path).metadata)
        state = FileState.of(path)
        # What was just converted was hashed while it was written. A file that was moved or copied
        # here may keep its age, but not the time at which it got its name.
        named_at_ns = path.stat().st_ctime_ns
        manifest_at_ns = (file.path / MANIFEST_NAME).stat().st_mtime_ns
        written = file.is_as_written(path.name) and named_at_ns < manifest_at_ns
        if not written and f"sha256:{digest_file(path)}" != file.blob_digest:
            raise ArtifactError(
                f"{path} was changed after it was converted",
                hint=f"remove the folder to convert it again: rm -r {quote(str(file.path))}",
            )
        return metadata, state

    def _check_version(self) -> str:
        version = self.client.version()
        if has_limit(version, NO_LOGPROBS):
            raise DaemonError(
                f"Ollama {version} reports no log-probabilities, so nothing can be proven with it",
                hint="update Ollama to 0.12.11 or later",
            )
        if self.adapter is not None and has_limit(version, NO_ADAPTER):
            raise DaemonError(
                f"Ollama {version} accepts no LoRA adapter",
                hint=_WITHOUT_ADAPTER,
            )
        return version

    def _create(self, states: Sequence[FileState]) -> None:
        request = self.request(self.candidate.name)
        with contextlib.ExitStack() as afterwards:
            for file, state in zip(self.files, states, strict=True):
                blob = self._send_blob(file, state)
                if blob is not None:
                    afterwards.callback(blob.restore_time)
            try:
                self.client.create(request)
            except (RequestRejectedError, RunnerCrashedError) as exc:
                # A daemon of another user may not touch what is ours: it gets files of its own.
                with contextlib.ExitStack() as taken:
                    if exc.message.endswith(_NOT_ITS_OWN):
                        for file in self.files:  # be it that an earlier call, or a pull, placed it
                            taken.enter_context(taken_back(self.client, file.blob_digest))
                    # A starting daemon prunes blobs that no tag uses: one may be gone again.
                    lost = [one for one in self.files if not self.client.has_blob(one.blob_digest)]
                    if not lost:
                        raise
                    for file in lost:
                        self._upload(file)
                self.client.create(request)

    def _send_blob(self, file: GGUFFile | AdapterFile, state: FileState) -> PlacedBlob | None:
        path, digest = file.gguf_path, file.blob_digest
        if self.client.has_blob(digest):
            return None
        placed = place_blob(self.client, path, digest, state=state) if self.link else None
        if placed is None:
            self._upload(file)
        else:
            said = f"{placed.how} into the daemon's model store: {placed.path}"
            self.reporter.emit(Note(_STAGE, "info", said))
        return placed

    def _upload(self, file: GGUFFile | AdapterFile) -> None:
        told = tell_bytes(self.reporter, _STAGE)
        self.client.upload_blob(file.gguf_path, file.blob_digest, on_progress=told)

    def _check_blobs(self, version: str) -> None:
        if has_limit(version, REWRITES_GGUF):
            said = f"Ollama {version} rewrites a GGUF: {REWRITES_GGUF.instead}"
            self.reporter.emit(Note(_STAGE, "info", said))
            return
        shown = self.client.show(self.candidate.name).modelfile
        for file in self.files:
            if file.blob_digest.replace(":", "-") not in shown:
                raise DaemonError(
                    f"the daemon did not accept the file that was sent ({file.blob_digest})",
                    model=self.tag,
                    hint="is something between this program and the daemon? ollama-bridge doctor",
                )

    def _raise_if_failed(self, certificate: Certificate) -> None:
        try:
            certificate.raise_if_failed()
        except ParityError as exc:
            kept = (
                "the previous version stays"
                if digest_of(self.client, self.tag)
                else "no tag was made"
            )
            raise ParityError(f"{exc.message}; {kept}", layer=exc.layer, hint=exc.hint) from exc
