"""Every error histrio raises on purpose, named for its cause.

HistrioError                    500
├── RequestError                400  the request is at fault; the text is safe to show
│   ├── ContextLengthExceeded   400
│   ├── ModelNotFound           404
│   └── Overloaded              429  with Retry-After
├── TopologyError                    a mistake in a topology file, with its path
├── PluginError                      a plugin cannot load, or two claim one name
├── ModelError                       the model cannot be served
│   ├── ModelUnavailable             not on disk and not to be had from the hub
│   ├── UnsupportedModel             an architecture or file format that is refused
│   └── DoesNotFit                   not enough memory, with the numbers
├── BackendError                     a backend cannot be used, with reason and remedy
├── GenerationStuck            422  an answer cannot go on as its request demands
├── RequestBrokeEngine         500  the replica failed again with this request alone in it
├── PluginFailed               500  a plugin failed at one request, which ends alone
├── EngineError                 503  generation is not possible now
│   ├── RequestTimeout          504  the request's own time limit passed
│   ├── EngineRestarted              the replica that answered is gone, and no other can go on
│   └── RestartLimitReached          a child failed too often
└── WireError                        frames that are not ours, or a peer that left
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "ContextLengthExceeded",
    "DoesNotFit",
    "EngineError",
    "EngineRestarted",
    "GenerationStuck",
    "HistrioError",
    "ModelError",
    "ModelNotFound",
    "ModelUnavailable",
    "Overloaded",
    "PluginError",
    "PluginFailed",
    "RequestBrokeEngine",
    "RequestError",
    "RequestTimeout",
    "RestartLimitReached",
    "TopologyError",
    "UnsupportedModel",
    "WireError",
    "is_out_of_memory",
    "is_request_code",
    "note_request_code",
    "request_code_of",
]

_REQUEST_CODE = "in the code of requests: "
_NO_MEMORY = (
    "outofmemory",
    "can'tallocatememory",
    "cannotallocatememory",
    "bad_alloc",
    "couldnotcreateaprimitive",  # oneDNN, which worked before
    "can'tstartnewthread",  # whose stack finds no room
)


class HistrioError(Exception):
    """Base of the tree; knows the HTTP status and the label it has in metrics."""

    status: int = 500
    code: str = "internal_error"
    type: str = "server_error"


class RequestError(HistrioError):
    """The client asked for something that cannot be done as asked."""

    status = 400
    code = "invalid_value"
    type = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code or type(self).code


class ContextLengthExceeded(RequestError):
    """Prompt, or prompt plus requested tokens, is longer than the model's context."""

    code = "context_length_exceeded"


class ModelNotFound(RequestError):
    """The request names a model that is not served here."""

    status = 404
    code = "model_not_found"


class Overloaded(RequestError):
    """All credits are taken; the client may try again."""

    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TopologyError(HistrioError):
    """A topology file says something that cannot be; `path` points into the file."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class PluginError(HistrioError):
    """A plugin cannot be loaded, or two plugins register one name."""


class ModelError(HistrioError):
    """The model cannot be served."""

    code = "model_error"


class ModelUnavailable(ModelError):
    """The model's files are not on this machine and cannot be fetched."""


class UnsupportedModel(ModelError):
    """The architecture or the file format is refused, and why."""


class DoesNotFit(ModelError):
    """Weights or blocks need more memory than there is; the text has the numbers."""


class BackendError(HistrioError):
    """A backend cannot be used here; the text has the reason and the remedy."""


class GenerationStuck(HistrioError):
    """An answer cannot go on as its request demands: a grammar or its fields leave no token.

    The same request would end the same way, so its status is none that clients try again by themselves.
    """

    status = 422
    type = "invalid_request_error"
    code = "generation_stuck"


class RequestBrokeEngine(HistrioError):
    """The replica went down while the request was in it, and again while the request was alone in it."""

    code = "request_broke_engine"


class PluginFailed(HistrioError):
    """Something that computes one request's tokens failed at it: a sampler, a grammar, or the model itself."""

    code = "plugin_failed"


class EngineError(HistrioError):
    """Generation is not possible now."""

    status = 503
    code = "engine_unavailable"


class RequestTimeout(EngineError):
    """The request did not finish within its time limit."""

    status = 504
    code = "request_timeout"


class EngineRestarted(EngineError):
    """Part of the answer was delivered, and the replica that follows cannot go on with it."""

    code = "engine_restarted"


class RestartLimitReached(EngineError):
    """A child failed more often than its limit allows."""


class WireError(HistrioError):
    """Frames of another protocol or version, or a peer that went away."""


def note_request_code(error: BaseException, whose: str) -> None:
    """Note in what code it was raised that works on single requests' behalf, such as `sampler 'mirostat' (module)`."""
    error.add_note(_REQUEST_CODE + whose)


def is_request_code(error: BaseException) -> bool:
    """Whether that was noted."""
    return bool(request_code_of(error))


def request_code_of(error: BaseException) -> str:
    """What was noted; empty for nothing."""
    notes = (note for note in getattr(error, "__notes__", ()) if note.startswith(_REQUEST_CODE))
    return next(notes, "").removeprefix(_REQUEST_CODE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the process, or its device, has no memory left. Each library has its own way to say so."""
    text = f"{type(error).__name__} {error}".lower().replace(" ", "")
    return isinstance(error, MemoryError) or any(each in text for each in _NO_MEMORY)
