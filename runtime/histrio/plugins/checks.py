"""What a plugin registers, held against its contract: every defect becomes one sentence with its remedy.

Checked are things as they are registered: a class or an object, its name, its methods with their parameters, and what
it declares. What a factory makes later is not known here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

import msgspec

from histrio.config.topology import TABLES
from histrio.contracts.backend import CONTRACT, OLDEST_CONTRACT, BackendFactory, Capability, Traits
from histrio.contracts.drafter import DrafterFactory
from histrio.contracts.engine_backend import ENGINE_CONTRACT, EngineFactory
from histrio.contracts.first_contract import FirstBackendFactory
from histrio.contracts.grammar import GrammarBackend, GrammarCapability
from histrio.contracts.honours import Honours
from histrio.contracts.hooks import EdgeService
from histrio.contracts.policy import AdmissionPolicy, BatchingPolicy, HearsOfEnds
from histrio.contracts.reasoning_format import ReasoningFormat
from histrio.contracts.request_fields import CORE_FIELDS
from histrio.contracts.sampler import Observer, Sampler, Stateful
from histrio.contracts.tool_format import CallLayout, FormatExample, ToolFormat
from histrio.messages import ReasoningMarks
from histrio.plugins.signatures import signature_fault

__all__ = ["CONTRACTS", "Contract", "faults", "words_for"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ENGINE_FIELDS = frozenset({"seed", "logprobs", "top_logprobs"})
"""Request fields that an engine honours itself."""
_LAST_ORDER = 299
_RESERVED = {
    "drafter": ("auto", "off"),
    "tool format": ("auto", "off"),
    "reasoning format": ("auto", "off"),
}
"""Kind → names that mean something else in a topology."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What one hook takes."""

    kind: str
    """What the item is called in messages."""
    protocol: type
    is_class: bool
    check: Callable[[Any], Iterator[str]]
    """Faults besides those of its methods."""
    optional: tuple[type, ...] = ()
    """Protocols whose methods it may have as well."""


def faults(item: object, contract: Contract) -> list[str]:
    """Everything that makes `item` unusable under the contract, in sentences; empty for a sound one."""
    wrong_form = _wrong_form(item, contract)
    if wrong_form:
        return [wrong_form]

    try:
        return [f"{words_for(item, contract)} {fault}" for fault in _faults(item, contract)]
    except Exception as error:  # an attribute that raises when it is read
        return [f"{words_for(item, contract)} cannot be examined ({type(error).__name__}: {str(error)[:200]})"]


def words_for(item: object, contract: Contract) -> str:
    """The thing by its name, or by its class where that is no name."""
    name = getattr(item, "name", None)
    if isinstance(name, str) and _NAME.fullmatch(name):
        return f"the {contract.kind} {name!r}"
    return f"the {contract.kind} of class {_class_of(item).__name__}"


def _class_of(item: object) -> type:
    return item if isinstance(item, type) else type(item)


def _wrong_form(item: object, contract: Contract) -> str:
    if item is None:
        return f"None was registered as a {contract.kind}: register the {_form(contract)} itself"
    if contract.is_class and not isinstance(item, type):
        name = type(item).__name__
        return f"a {contract.kind} is registered as a class, and this is an instance: register {name}, not {name}()"
    if not contract.is_class and isinstance(item, type):
        name = item.__name__
        return f"a {contract.kind} is registered as an instance, and this is a class: register {name}(), not {name}"
    return ""


def _form(contract: Contract) -> str:
    return "class" if contract.is_class else "instance"


def _faults(item: Any, contract: Contract) -> Iterator[str]:
    yield from _name_faults(item, contract)
    if contract.kind == "backend":
        traits = getattr(item, "traits", None)
        if not isinstance(traits, Traits):
            yield f"has no traits: set traits = Traits(contract={CONTRACT})"
            return
        newest = ENGINE_CONTRACT if traits.level == "engine" else CONTRACT
        if not OLDEST_CONTRACT <= traits.contract <= newest:
            yield _other_version(traits.contract, newest)
            return
    protocol = _protocol_of(item, contract)
    yield from _method_faults(item, protocol, contract)
    for optional in contract.optional:
        if all(hasattr(item, name) for name in _methods(optional)):
            yield from _method_faults(item, optional, contract)
    yield from contract.check(item)


def _other_version(version: int, newest: int) -> str:
    remedy = "update histrio" if version > newest else "update the plugin"
    return f"is written for version {version} of the contract, and this histrio has {newest}: {remedy}"


def _protocol_of(item: Any, contract: Contract) -> type:
    if contract.kind != "backend":
        return contract.protocol
    if item.traits.level == "engine":
        return EngineFactory
    return FirstBackendFactory if item.traits.contract == 1 else BackendFactory


def _name_faults(item: Any, contract: Contract) -> Iterator[str]:
    name = getattr(item, "name", None)
    if name is None:
        yield 'has no name: set name = "…", which a topology and messages call it by'
    elif not isinstance(name, str) or not _NAME.fullmatch(name):
        yield "has a name that is none: use letters, digits and . _ -, beginning with a letter or digit, 64 at most"
    elif name in _RESERVED.get(contract.kind, ()):
        yield f"has a name that means something else in a topology ({', '.join(_RESERVED[contract.kind])}): rename it"


def _methods(protocol: type) -> dict[str, Callable[..., Any]]:
    return {
        name: value
        for name, value in vars(protocol).items()
        if inspect.isfunction(value) and (name == "__init__" or not name.startswith("_"))
        if value.__qualname__.startswith(f"{protocol.__name__}.")
    }


def _method_faults(item: Any, protocol: type, contract: Contract) -> Iterator[str]:
    where = f"{protocol.__module__}.{protocol.__name__}"
    for name, expected in _methods(protocol).items():
        if name == "__init__" and not contract.is_class:
            continue
        fault = signature_fault(item, name, expected)
        if fault:
            yield f"{fault}, as {where} has it"


def _is_struct(value: object) -> TypeGuard[type[msgspec.Struct]]:
    return isinstance(value, type) and issubclass(value, msgspec.Struct)


def _required(struct: type[msgspec.Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(struct) if field.required]


def _check_options(item: Any, key: str = "options") -> Iterator[str]:
    options = getattr(item, key, None)
    if options is None:
        yield f"has no {key}: set it to a msgspec struct with the keys of its table, or to NoOptions"
    elif not _is_struct(options):
        yield f"has {key} that are no class of msgspec.Struct: declare the keys of its table as one, or use NoOptions"


def _check_fields(struct: Any, attribute: str, honoured: frozenset[str] = frozenset()) -> Iterator[str]:
    """Request fields: a struct, all of whose fields have a default that does nothing and a name that is free."""
    if not _is_struct(struct):
        yield f"has {attribute} that are no class of msgspec.Struct: declare its request fields as one"
        return

    for name in _required(struct):
        yield f"has the request field {name!r} without a default: give it one that does nothing"
    for name in struct.__struct_encode_fields__:
        if name in CORE_FIELDS - honoured:
            yield f"has the request field {name!r}, which every request has already: rename it"


def _check_backend(factory: Any) -> Iterator[str]:
    if hasattr(factory, "options"):
        yield from _check_options(factory)
    unknown = [each for each in factory.traits.capabilities if each not in set(Capability)]
    if unknown:
        yield f"declares the capability {unknown[0]!r}, which is none: use histrio.contracts.backend.Capability"
    if factory.traits.level == "engine":
        yield from _check_fields(getattr(factory, "fields", None), "fields", _ENGINE_FIELDS)
        if factory.traits.contract > 1 and not isinstance(getattr(factory, "honours", None), Honours):
            yield "does not say which request fields it honours: set honours = histrio.contracts.honours.Honours(…)"


def _check_sampler(sampler: Any) -> Iterator[str]:
    order = getattr(sampler, "order", None)
    if not isinstance(order, int) or isinstance(order, bool) or not 0 <= order <= _LAST_ORDER:
        yield f"has no order from 0 to {_LAST_ORDER}: histrio.contracts.sampler.Sampler says which numbers are for what"
    yield from _check_fields(getattr(sampler, "params", None), "params")


def _check_grammar(backend: Any) -> Iterator[str]:
    kinds = getattr(backend, "kinds", None)
    if not isinstance(kinds, tuple | list) or not kinds or not all(isinstance(kind, str) and kind for kind in kinds):
        yield 'has no kinds: set kinds = ("…",) to the kinds of grammars that it enforces'
    unknown = [each for each in getattr(backend, "capabilities", ()) if each not in set(GrammarCapability)]
    if unknown:
        yield "declares a capability that is none: use histrio.contracts.grammar.GrammarCapability"


def _check_tool_format(item: Any) -> Iterator[str]:
    yield from _check_texts(item, "marks", "by which calls are told from text")
    if not isinstance(getattr(item, "layout", None), CallLayout):
        yield "has no layout: set layout = histrio.contracts.tool_format.CallLayout(trigger=…)"
    examples = getattr(item, "examples", None)
    if not isinstance(examples, tuple) or not all(isinstance(each, FormatExample) for each in examples):
        yield "has no examples: set examples to a tuple of histrio.contracts.tool_format.FormatExample"


def _check_reasoning_format(item: Any) -> Iterator[str]:
    yield from _check_texts(item, "hidden_marks", "by which reasoning is told from the answer")
    marks = getattr(item, "marks", None)
    if marks is not None and not isinstance(marks, ReasoningMarks):
        yield "has marks that are none: set marks to histrio.messages.ReasoningMarks(open, close), or None"


def _check_texts(item: Any, attribute: str, what_for: str) -> Iterator[str]:
    texts = getattr(item, attribute, None)
    if not isinstance(texts, tuple) or not all(isinstance(each, str) and each for each in texts):
        yield f"has no {attribute}: set {attribute} to a tuple of the texts {what_for}"


def _check_edge(service: Any) -> Iterator[str]:
    settings = getattr(service, "settings", None)
    if not _is_struct(settings):
        yield "has no settings: set them to a msgspec struct with the keys of its table"
    elif required := _required(settings):
        yield f"has the setting {required[0]!r} without a default: give every setting one"
    if getattr(service, "name", None) in TABLES:
        yield f"has the name of a table of the core ({', '.join(TABLES)}): rename it"


CONTRACTS = {
    "register_backends": Contract("backend", BackendFactory, False, _check_backend),
    "register_samplers": Contract("sampler", Sampler, True, _check_sampler, (Observer, Stateful)),
    "register_grammars": Contract("grammar backend", GrammarBackend, False, _check_grammar),
    "register_tool_formats": Contract("tool format", ToolFormat, False, _check_tool_format),
    "register_reasoning_formats": Contract("reasoning format", ReasoningFormat, False, _check_reasoning_format),
    "register_drafters": Contract("drafter", DrafterFactory, False, _check_options),
    "register_batching_policies": Contract("batching policy", BatchingPolicy, True, _check_options),
    "register_admission_policies": Contract("admission policy", AdmissionPolicy, True, _check_options, (HearsOfEnds,)),
    "register_edges": Contract("edge service", EdgeService, False, _check_edge),
}
"""Hook → what it takes."""
