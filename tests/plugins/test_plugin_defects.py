"""Every defect of a plugin becomes one sentence with the remedy; the rest of the plugin, and all others, go on."""

from __future__ import annotations

from itertools import count
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from histrio.cli.plugin_report import describe_plugins
from histrio.config.settings import AdmissionSettings
from histrio.config.topology import EngineTable
from histrio.contracts.backend import Probe
from histrio.contracts.hooks import hookimpl
from histrio.errors import BackendError, PluginError, TopologyError
from histrio.plan.policies import check_policies
from histrio.plugins.asked import asked
from histrio.plugins.registry import Plugins, Registry
from tests.plugins.plugin_pieces import BACKEND, DRAFTER, EDGE, FORMATS, GRAMMAR, POLICIES, SAMPLER

ALL = [BACKEND, SAMPLER, GRAMMAR, FORMATS, DRAFTER, POLICIES, EDGE]
NAMES = ("abacus", "loud", "rhymes", "shouts", "whispers", "parrot", "slowest", "bouncer", "telegraph")
_numbers = count()


def module(source: str) -> ModuleType:
    """The source as a module of its own."""
    made = ModuleType(f"plugin_{next(_numbers)}")
    exec(source, vars(made))
    return made


def registries(plugins: Plugins) -> list[Registry[Any]]:
    found: list[Registry[Any]] = [plugins.backends, plugins.samplers, plugins.grammars, plugins.drafters]
    found += [plugins.tool_formats, plugins.reasoning_formats]
    return [*found, plugins.batching_policies, plugins.admission_policies, plugins.edges]


def added(*sources: str) -> Plugins:
    """Plugins of these sources, the first as `mine`, the others beside it."""
    plugins = Plugins()
    for index, source in enumerate(sources):
        plugins.add(module(source), "mine" if index == 0 else f"other {index}")
    return plugins


DEFECTS = [
    (
        FORMATS,
        'marks = ("!",)',
        'marks = "!"',
        "has no marks: set marks to a tuple of the texts by",
    ),
    (FORMATS, 'layout = CallLayout(trigger="!")', "", "has no layout: set layout ="),
    (FORMATS, "    marks = None", '    marks = ("a", "b")', "has marks that are none: set marks to"),
    (FORMATS, "    def call_id(self, name, position)", "    def id(self, name, position)", "has no method call_id("),
    # which piece, what is replaced, by what, and what is said
    (
        BACKEND,
        "register(Abacus())",
        "register(Abacus)",
        "is registered as an instance, and this is a class: register Abacus(), not",
    ),
    (BACKEND, "register(Abacus())", "register(None)", "None was registered as a backend"),
    (
        BACKEND,
        "    def supports(self, spec):",
        "    def suports(self, spec):",
        "'abacus' has no method supports(spec): write one",
    ),
    (BACKEND, "supports(self, spec)", "supports(self)", "has the method supports(), which is called as supports(spec)"),
    (
        BACKEND,
        "supports(self, spec)",
        "supports(self, spec, config)",
        "has the method supports(spec, config), which is called",
    ),
    (
        BACKEND,
        "supports(self, spec)",
        "supports(self, placement)",
        "has the method supports(placement), which is called",
    ),
    (BACKEND, "supports(self, spec)", "supports(spec)", "has the method supports(), which is called as supports(spec)"),
    (BACKEND, "def probe(self)", "async def probe(self)", "has a probe that is called without await"),
    (BACKEND, "    def create(self):", "    create = 5\n    def other(self):", "has a create that cannot be called"),
    (BACKEND, "    traits = Traits(contract=1)\n", "", "has no traits: set traits = Traits(contract=2)"),
    (BACKEND, "contract=1", "contract=3", "version 3 of the contract, and this histrio has 2: update histrio"),
    (BACKEND, "contract=1", "contract=2", "has no method open(spec, progress): write one"),
    (BACKEND, "contract=1", "contract=0", "version 0 of the contract, and this histrio has 2: update the plugin"),
    (BACKEND, "contract=1", "contract=1, capabilities=['fly']", "declares the capability 'fly', which is none"),
    (BACKEND, "contract=1", "contract=1, level='engine'", "has fields that are no class of msgspec.Struct"),
    (BACKEND, "contract=1", "contract=1, level='engine'", "has no method can_continue(sampling): write one"),
    (BACKEND, '    name = "abacus"\n', "", "of class Abacus has no name: set name ="),
    (BACKEND, '"abacus"', '"two words"', "has a name that is none: use letters, digits"),
    (BACKEND, '"abacus"', '""', "has a name that is none"),
    (BACKEND, '"abacus"', "7", "has a name that is none"),
    (
        BACKEND,
        '    name = "abacus"\n',
        "    options = dict\n    name = 'abacus'\n",
        "has options that are no class of msgspec.Struct",
    ),
    (BACKEND, "@hookimpl\n", "", "register_backends is not marked, so it is never called: put @hookimpl"),
    (
        BACKEND,
        "register_backends",
        "register_backend",
        "register_backend is no hook: did you mean 'register_backends'?",
    ),
    (
        BACKEND,
        "@hookimpl\ndef register_backends",
        "def register_backend",
        "the hook is called register_backends, marked with",
    ),
    (
        BACKEND,
        "def register_backends(register)",
        "def register_backends(registry)",
        "register_backends(registry) is called as register_backends(register)",
    ),
    (
        BACKEND,
        "def register_backends(register)",
        "def register_backends(register, more)",
        "register_backends(register, more) is called as",
    ),
    (BACKEND, "def register_backends", "async def register_backends", "register_backends is called without await"),
    (BACKEND, "@hookimpl", "@hookimpl(wrapper=True)", "marked as a wrapper"),
    (BACKEND, "register(Abacus())", "raise OSError('late')", "register_backends raised OSError: late"),
    (BACKEND, "register(Abacus())", "raise SystemExit(2)", "register_backends raised SystemExit: 2"),
    (
        SAMPLER,
        "register(Loud)",
        "register(Loud(4))",
        "is registered as a class, and this is an instance: register Loud, not Loud()",
    ),
    (SAMPLER, "    order = 50\n", "", "'loud' has no order from 0 to 299"),
    (SAMPLER, "order = 50", "order = 300", "'loud' has no order from 0 to 299"),
    (SAMPLER, "order = 50", "order = True", "'loud' has no order from 0 to 299"),
    (SAMPLER, "params = Params", "params = dict", "has params that are no class of msgspec.Struct"),
    (SAMPLER, "loudness: float = 0.0", "loudness: float", "has the request field 'loudness' without a default"),
    (
        SAMPLER,
        "loudness: float",
        "max_tokens: float",
        "has the request field 'max_tokens', which every request has already",
    ),
    (SAMPLER, "(self, max_slots)", "(self)", "has the method __init__(), which is called as __init__(max_slots)"),
    (SAMPLER, "    def __init__(self, max_slots):\n        pass\n", "", "has no method __init__(max_slots): write one"),
    (
        SAMPLER,
        "apply(self, xp, logits, rows)",
        "apply(self, logits, xp, rows)",
        "has the method apply(logits, xp, rows), which is called",
    ),
    (
        SAMPLER,
        "    def apply",
        "    def observe(self, slots):\n        pass\n\n    def apply",
        "has the method observe(slots), which is called as observe(slots, ids, prob",
    ),
    (GRAMMAR, 'kinds = ("limerick",)', "kinds = ()", "has no kinds: set kinds"),
    (GRAMMAR, 'kinds = ("limerick",)', 'kinds = "limerick"', "has no kinds: set kinds"),
    (
        GRAMMAR,
        'kinds = ("limerick",)',
        'kinds = ("limerick",)\n    capabilities = ("sing",)',
        "declares a capability that is none",
    ),
    (DRAFTER, "    options = NoOptions\n", "", "the drafter 'parrot' has no options: set it to a msgspec struct"),
    (DRAFTER, '"parrot"', '"off"', "has a name that means something else in a topology (auto, off)"),
    (
        DRAFTER,
        "create(self, spec, tools)",
        "create(self, spec)",
        "has the method create(spec), which is called as create(spec, tools)",
    ),
    (POLICIES, "options = NoOptions", "options = NoOptions()", "has options that are no class of msgspec.Struct"),
    (POLICIES, "handicap(self, command)", "handicap(self, *, command)", "has the method handicap(*, command)"),
    (
        POLICIES,
        "finished(self, submission)",
        "finished(self)",
        "has the method finished(), which is called as finished(submission)",
    ),
    (EDGE, "async def run", "def run", "has a run that is no coroutine: write it as async def run(context)"),
    (EDGE, "port: int = 1", "port: int", "has the setting 'port' without a default"),
    (EDGE, '"telegraph"', '"engine"', "has the name of a table of the core (model, stage, engine, runtime, cluster)"),
    (EDGE, "settings = Settings", "settings = {}", "has no settings: set them to a msgspec struct"),
]


def test_sound_pieces_have_no_defects() -> None:
    plugins = added("\n".join(ALL))
    assert (plugins.failed, plugins.defects) == ([], [])
    assert [len(owners) for owners in plugins.providers.values()] == [1] * 9 + [0] * 3


@pytest.mark.parametrize(("piece", "old", "new", "said"), DEFECTS, ids=[str(n) for n in range(len(DEFECTS))])
def test_a_defect_is_said_and_the_rest_goes_on(piece: str, old: str, new: str, said: str) -> None:
    broken = piece.replace(old, new)
    assert broken != piece
    others = [each for each in ALL if each is not piece]
    plugins = added("\n".join([*others, broken]))
    texts = [defect.text for defect in plugins.defects]
    assert any(said in text for text in texts), texts
    assert all(len(text) < 500 for text in texts)
    assert all("\n" not in text for text in texts)
    listing = describe_plugins(plugins)
    assert all(f"  - {text}" in listing for text in texts)
    names = {name for registry in registries(plugins) for name in registry.owners}
    kept = {name for each in others for name in NAMES if f'"{name}"' in each}
    assert kept <= names, "the rest of the plugin"
    assert names <= kept | {name for name in NAMES if f'"{name}"' in piece}


def test_a_defective_piece_that_is_named_says_why() -> None:
    plugins = added(BACKEND.replace("supports(self, spec)", "supports(self)"), POLICIES.replace("admit", "let_in"))
    with pytest.raises(PluginError, match=r"has the method supports\(\), which is called as supports\(spec\).*by mine"):
        plugins.backends.get("abacus")
    with pytest.raises(
        TopologyError, match=r"engine.admission-policy: .*'bouncer' has no method admit\(submission, load"
    ):
        check_policies(EngineTable(admission=AdmissionSettings(admission_policy="bouncer")), plugins, is_engine=False)
    assert plugins.batching_policies.get("slowest").name == "slowest", "a control: its neighbour works"


def test_request_fields_and_kinds_of_others_are_not_taken_over() -> None:
    plugins = added(SAMPLER, SAMPLER.replace('"loud"', '"louder"'), GRAMMAR, GRAMMAR.replace('"rhymes"', '"verses"'))
    assert list(plugins.samplers.owners) == ["loud"]
    assert list(plugins.grammars.owners) == ["rhymes"]
    assert (
        "'louder' has the request field 'loudness', which the sampler 'loud' (mine) has already"
        in plugins.defects[0].text
    )
    assert "'verses' enforces 'limerick', which 'rhymes' (other 2) does already" in plugins.defects[1].text


def test_a_class_in_place_of_an_instance_is_named() -> None:
    class Plugin:
        @hookimpl
        def register_backends(self, register: object) -> None:
            raise AssertionError

    plugins = Plugins()
    plugins.add(Plugin, "mine")
    assert "names the class Plugin: make an instance in its module" in plugins.defects[0].text


def test_probes_that_raise_or_answer_nonsense_are_no_answers() -> None:
    def broken() -> Probe:
        raise SystemExit("no GPU")

    def refusing() -> Probe:
        raise BackendError("not here")

    assert asked("probe", broken).reason == "its probe raised SystemExit: no GPU"
    assert "answered a NoneType and no histrio.contracts.backend.Probe" in asked("supports", lambda: None).reason
    assert asked("probe", lambda: Probe(available=True, devices=["x"])) == Probe(available=True, devices=["x"])
    with pytest.raises(BackendError):
        asked("probe", refusing)


def test_the_listing_survives_a_probe_that_raises(capsys: pytest.CaptureFixture[str]) -> None:
    source = BACKEND.replace(
        "return Probe(available=True, devices", "print('x'); raise OSError('no driver'); return dict(a="
    )
    plugins = added(source.replace('["beads"])', "1)"), SAMPLER)
    assert "not available; its probe raised OSError: no driver" in describe_plugins(plugins)
    assert capsys.readouterr().out == ""


def test_an_attribute_that_raises_is_a_defect() -> None:
    source = BACKEND.replace(
        "    traits =", "    @property\n    def options(self):\n        raise KeyError('x')\n\n    traits ="
    )
    plugins = added(source, SAMPLER)
    assert "'abacus' cannot be examined (KeyError" in plugins.defects[0].text
    assert "loud" in plugins.samplers


def test_an_object_without_functions_offers_nothing() -> None:
    plugins = Plugins()
    plugins.add(SimpleNamespace(), "empty")
    assert "it offers nothing" in plugins.defects[0].text
