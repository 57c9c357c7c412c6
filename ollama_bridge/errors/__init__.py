"""Every error that ollama_bridge raises on purpose, in one tree.

The branch says who has to act, the message what happened with the values that matter, and
``hint`` the next thing to type:

    OllamaBridgeError
    ├── ConfigError                 the recipe, an option or a name is wrong        exit 2
    │   ├── RecipeError             all problems of one recipe, with file and key
    │   ├── ModelReferenceError     a model reference that cannot be read
    │   ├── ModelfileError          a Modelfile that cannot say what was asked
    │   └── MissingExtraError       an optional part is not installed
    ├── DataError                   the user's rows are wrong                       exit 2
    ├── ArtifactError               a folder of ours is damaged, locked or full     exit 1
    │   └── DiskFullError
    ├── DaemonError                 Ollama did not do what was asked                exit 3
    │   ├── DaemonUnreachableError  nothing answers at that address
    │   ├── DaemonInstallError      no daemon could be found, built or started
    │   ├── RequestRejectedError    the daemon answered with an error status
    │   │   ├── ModelNotFoundError
    │   │   ├── ContextOverflowError    the prompt is too long; says by how many tokens
    │   │   ├── UnsupportedFeatureError the model cannot think, call tools, see, ...
    │   │   └── DaemonBusyError         try again later
    │   ├── RunnerCrashedError      the daemon reported a failure while answering
    │   ├── ContextReducedError     the model runs with a shorter context than was asked for
    │   ├── ReplyInvalidError       the answer is not what the API promises
    │   │   └── RenderingHiddenError  it does not say how it renders a prompt
    │   ├── StreamBrokenError       the answer ended without its terminal event
    │   ├── RepetitionError         Ollama ended an answer that repeats one token
    │   ├── OutputInvalidError      no answer is what the schema asks for
    │   ├── ToolLoopError           the model never comes to an answer for calling tools
    │   └── DaemonTimeoutError      a finite limit ran out; ``phase`` says which
    ├── RegistryError               a registry did not do what was asked            exit 6
    │   ├── RegistryBusyError       it does not answer or breaks off: try again
    │   └── RegistryContentError    what it sent is not what it promised
    ├── ModelError                  a checkpoint or GGUF cannot be used             exit 4
    │   ├── UnsafeCheckpointError   pickle or remote code
    │   ├── UnsupportedArchitectureError
    │   └── GGUFError               damaged or hostile GGUF
    ├── TrainingError               training cannot start or went wrong             exit 4
    ├── ConversionError             a student cannot be written as asked            exit 4
    ├── TemplateError               a chat template that cannot be used             exit 4
    └── ParityError                 the daemon does not serve what was trained      exit 5

Catch everything at once with::

    try:
        build(recipe)
    except OllamaBridgeError as error:
        print(error, error.hint)
"""

from __future__ import annotations

from ollama_bridge.errors.daemon import (
    CallPhase,
    ContextOverflowError,
    ContextReducedError,
    DaemonBusyError,
    DaemonError,
    DaemonInstallError,
    DaemonTimeoutError,
    DaemonUnreachableError,
    ModelNotFoundError,
    OutputInvalidError,
    RefusedAnswer,
    RenderingHiddenError,
    RepetitionError,
    ReplyInvalidError,
    RequestRejectedError,
    RunnerCrashedError,
    StreamBrokenError,
    ToolLoopError,
    UnsupportedFeatureError,
)
from ollama_bridge.errors.model import (
    ConversionError,
    GGUFError,
    ModelError,
    ParityError,
    TemplateError,
    TrainingError,
    UnsafeCheckpointError,
    UnsupportedArchitectureError,
)
from ollama_bridge.errors.registry import (
    RegistryBusyError,
    RegistryContentError,
    RegistryError,
)
from ollama_bridge.errors.root import (
    OllamaBridgeError,
)
from ollama_bridge.errors.user import (
    ArtifactError,
    ConfigError,
    DataError,
    DiskFullError,
    MissingExtraError,
    ModelfileError,
    ModelReferenceError,
    RecipeError,
)

__all__ = [
    "ArtifactError",
    "CallPhase",
    "ConfigError",
    "ContextOverflowError",
    "ContextReducedError",
    "ConversionError",
    "DaemonBusyError",
    "DaemonError",
    "DaemonInstallError",
    "DaemonTimeoutError",
    "DaemonUnreachableError",
    "DataError",
    "DiskFullError",
    "GGUFError",
    "MissingExtraError",
    "ModelError",
    "ModelNotFoundError",
    "ModelReferenceError",
    "ModelfileError",
    "OllamaBridgeError",
    "OutputInvalidError",
    "ParityError",
    "RecipeError",
    "RefusedAnswer",
    "RegistryBusyError",
    "RegistryContentError",
    "RegistryError",
    "RenderingHiddenError",
    "RepetitionError",
    "ReplyInvalidError",
    "RequestRejectedError",
    "RunnerCrashedError",
    "StreamBrokenError",
    "TemplateError",
    "ToolLoopError",
    "TrainingError",
    "UnsafeCheckpointError",
    "UnsupportedArchitectureError",
    "UnsupportedFeatureError",
]
