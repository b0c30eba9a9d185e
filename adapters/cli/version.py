"""The versions of the app and of what it runs on."""

from importlib import metadata

from adapters.platform.manifest import NAME, VERSION

PACKAGES = ("torch", "transformers", "dtlpy")


def versions() -> str:
    """The app's version and those of its main packages, in a line."""
    return ", ".join([f"{NAME} {VERSION}", *(f"{name} {installed(name) or 'missing'}" for name in PACKAGES)])


def installed(package: str) -> str | None:
    """The version of an installed package, without importing it; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
