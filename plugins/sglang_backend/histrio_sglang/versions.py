"""Which releases of SGLang are known to work, told without importing it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from histrio.errors import BackendError

__all__ = ["FIRST_TESTED", "LAST_TESTED", "check_version", "installed_version"]

FIRST_TESTED = (0, 5, 17)
LAST_TESTED = (0, 5, 23)


def installed_version() -> str | None:
    """SGLang's version, None where it is not installed."""
    try:
        return version("sglang")
    except PackageNotFoundError:
        return None


def check_version(*, force: bool) -> None:
    """Raise `BackendError` for a release outside the tested range, unless forced, and where there is no SGLang."""
    found = installed_version()
    first, last = ".".join(map(str, FIRST_TESTED)), ".".join(map(str, LAST_TESTED))
    if found is None:
        raise BackendError(f"SGLang is not installed in this environment: pip install 'sglang=={last}'")

    if force or FIRST_TESTED <= _numbers(found) <= LAST_TESTED:
        return

    raise BackendError(
        f"SGLang {found} is installed; this backend was tested with {first} to {last}: install one of these, or try "
        "it all the same with the option force-version = true"
    )


def _numbers(text: str) -> tuple[int, ...]:
    """0.5.21.post1 → (0, 5, 21): a post release counts as the release."""
    parts = text.split("+")[0].split(".")[:3]
    return tuple(int("".join(char for char in part if char.isdigit()) or "0") for part in parts)
