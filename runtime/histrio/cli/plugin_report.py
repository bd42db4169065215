"""What `rt-launch --plugins` prints: every plugin, what it offers, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from histrio.contracts.backend import BackendFactory, Probe
from histrio.contracts.engine_backend import EngineFactory
from histrio.errors import HistrioError
from histrio.plugins.asked import asked
from histrio.plugins.registry import LoadedPlugin, Plugins

__all__ = ["describe_plugins", "plugin_sentences"]

SLOW_IMPORT_S = 1.0
"""Every process imports every plugin, so that this is added to each start and restart."""


def describe_plugins(plugins: Plugins) -> str:
    """Plugins with their defects, then hooks with their plugins, then all names of each kind. Raises nothing."""
    sections = [
        ("plugins", _plugins(plugins)),
        ("cannot load", [_line(each.name, each.reason) for each in plugins.failed]),
        ("hooks", [_line(hook, ", ".join(owners) or "-") for hook, owners in plugins.providers.items()]),
        ("backends", [_backend(each, plugins.backends.owners[each.name]) for each in plugins.backends]),
        ("samplers", list(_samplers(plugins))),
        ("grammars", [_line(each.name, ", ".join(each.kinds), plugins.grammars.owners) for each in plugins.grammars]),
        ("drafters", _names(plugins.drafters.owners)),
        ("batching policies", _names(plugins.batching_policies.owners)),
        ("admission policies", _names(plugins.admission_policies.owners)),
        ("services", _names(plugins.edges.owners)),
    ]
    shown = [(title, lines) for title, lines in sections if lines or title != "cannot load"]
    return "\n\n".join("\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in shown)


def plugin_sentences(plugins: Plugins) -> Iterator[str]:
    """What a log has to say of plugins that are not as they should be; nothing of sound ones."""
    for failed in plugins.failed:
        yield f"the plugin {failed.name} cannot load: {failed.reason}"
    for defect in plugins.defects:
        yield f"the plugin {defect.plugin}: {defect.text}"
    for loaded in plugins.loaded:
        yield from (f"the plugin {loaded.name} {note}" for note in _notes(loaded))


def _plugins(plugins: Plugins) -> list[str]:
    lines: list[str] = []
    for loaded in plugins.loaded:
        lines.append(_line(loaded.name, ", ".join(loaded.offers) or "-"))
        defects = [each.text for each in plugins.defects if each.plugin == loaded.name]
        lines += [f"  - {text}" for text in [*defects, *_notes(loaded)]]
    return lines


def _notes(loaded: LoadedPlugin) -> Iterator[str]:
    if loaded.took_s > SLOW_IMPORT_S:
        took = f"computes for {loaded.took_s:.1f} s when it is imported"
        yield f"{took}, in every process: move heavy imports into its functions"
    if loaded.has_printed:
        yield "prints when it is imported (shown on standard error): remove that, or use logging"


def _backend(factory: BackendFactory | EngineFactory, owner: str) -> str:
    try:
        probe = asked("probe", factory.probe)
    except HistrioError as error:
        probe = Probe(False, str(error))
    state = f"available on {', '.join(probe.devices) or 'this machine'}" if probe.available else "not available"
    if factory.traits.level == "engine":
        state = f"a whole engine, {state}"
    why = "".join(f"; {text}" for text in (probe.reason, probe.remedy) if text)
    return f"{factory.name:<20} {state}{why}  ({owner})"


def _samplers(plugins: Plugins) -> Iterator[str]:
    for sampler in sorted(plugins.samplers, key=lambda each: each.order):
        yield _line(sampler.name, ", ".join(sampler.params.__struct_encode_fields__), plugins.samplers.owners)


def _names(owners: dict[str, str]) -> list[str]:
    return [_line(name, "", owners) for name in owners]


def _line(name: str, text: str, owners: dict[str, str] | None = None) -> str:
    parts: Iterable[str] = (text, f"({owners[name]})" if owners else "")
    return f"{name:<20} {'  '.join(part for part in parts if part)}"
