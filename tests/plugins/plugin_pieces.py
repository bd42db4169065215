"""Sound pieces of plugins as source text, for tests that break them in one place."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BACKEND", "DRAFTER", "EDGE", "GRAMMAR", "POLICIES", "SAMPLER", "install"]

BACKEND = """
from histrio.contracts.backend import Probe, Traits
from histrio.contracts.hooks import hookimpl


class Abacus:
    name = "abacus"
    traits = Traits(contract=1)

    def probe(self):
        return Probe(available=True, devices=["beads"])

    def supports(self, spec):
        return Probe(available=True)

    def create(self):
        raise NotImplementedError


@hookimpl
def register_backends(register):
    register(Abacus())
"""
SAMPLER = """
import msgspec
from histrio.contracts.hooks import hookimpl


class Params(msgspec.Struct, frozen=True):
    loudness: float = 0.0


class Loud:
    name = "loud"
    order = 50
    params = Params

    def __init__(self, max_slots):
        pass

    def open(self, slot, params, opening):
        return False

    def apply(self, xp, logits, rows):
        return logits


@hookimpl
def register_samplers(register):
    register(Loud)
"""
GRAMMAR = """
from histrio.contracts.hooks import hookimpl


class Rhymes:
    name = "rhymes"
    kinds = ("limerick",)

    def check(self, spec):
        pass

    def open(self, spec):
        raise NotImplementedError


@hookimpl
def register_grammars(register):
    register(Rhymes())
"""
DRAFTER = """
from histrio.contracts.options import NoOptions
from histrio.contracts.backend import Probe
from histrio.contracts.hooks import hookimpl


class Parrot:
    name = "parrot"
    options = NoOptions

    def supports(self, spec, tools):
        return Probe(available=True)

    def create(self, spec, tools):
        raise NotImplementedError


@hookimpl
def register_drafters(register):
    register(Parrot())
"""
FORMATS = """
from histrio.contracts.hooks import hookimpl
from histrio.contracts.tool_format import CallLayout


class Shouts:
    name = "shouts"
    marks = ("!",)
    layout = CallLayout(trigger="!")
    examples = ()

    def recognises(self, written):
        return False

    def parser(self, schemas):
        pass

    def structure(self, name, schema):
        pass

    def call_id(self, name, position):
        return name


class Whispers:
    name = "whispers"
    marks = None
    hidden_marks = ("...",)

    def recognises(self, written):
        return False

    def parser(self, reasoning, has_tools):
        pass


@hookimpl
def register_tool_formats(register):
    register(Shouts())


@hookimpl
def register_reasoning_formats(register):
    register(Whispers())
"""
POLICIES = """
from histrio.contracts.hooks import hookimpl
from histrio.contracts.options import NoOptions


class Slowest:
    name = "slowest"
    options = NoOptions

    def __init__(self, options):
        pass

    def handicap(self, command):
        return 0


class Bouncer:
    name = "bouncer"
    options = NoOptions

    def __init__(self, options):
        pass

    def admit(self, submission, load):
        pass

    def finished(self, submission):
        pass


@hookimpl
def register_batching_policies(register):
    register(Slowest)


@hookimpl
def register_admission_policies(register):
    register(Bouncer)
"""
EDGE = """
import msgspec
from histrio.contracts.hooks import hookimpl


class Settings(msgspec.Struct, rename="kebab"):
    port: int = 1


class Telegraph:
    name = "telegraph"
    settings = Settings

    async def run(self, context):
        pass


@hookimpl
def register_edges(register):
    register(Telegraph())
"""


def install(site: Path, module: str, source: str) -> None:
    """A distribution with one plugin module, as pip would leave it in a site folder."""
    (site / f"{module}.py").write_text(source)
    info = site / f"{module}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[histrio]\n{module}_entry = {module}\n")
