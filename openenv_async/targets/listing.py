"""The installed environments, as a list that shows itself as a table."""

from __future__ import annotations

from dataclasses import dataclass

from openenv_async.targets.discovery import installed

__all__ = ["EnvironmentInfo", "EnvironmentList", "list_environments"]


@dataclass(frozen=True, slots=True)
class EnvironmentInfo:
    """An installed environment, as its distribution tells of it; nothing of it is loaded.

    Attributes:
        name: by which it is found.
        description, version: of the distribution.
        package: the distribution's name.
        entry: the entry point's ``module:Name``.
    """

    name: str
    description: str
    version: str
    package: str
    entry: str


class EnvironmentList(list[EnvironmentInfo]):
    """Installed environments; shown as a table in a terminal or notebook."""

    def __repr__(self) -> str:
        if not self:
            return "no environment is installed: pip install ./environments/echo of a clone"
        rows = [("name", "version", "package", "description")]
        rows += [(each.name, each.version, each.package, each.description) for each in self]
        widths = [max(len(row[column]) for row in rows) for column in range(3)] + [0]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    __str__ = __repr__


def list_environments() -> EnvironmentList:
    """The installed environments."""
    found = EnvironmentList()
    for name, point in installed().items():
        dist = point.dist
        summary = "" if dist is None else str(dist.metadata.json.get("summary", ""))
        version = dist.version if dist is not None else ""
        found.append(
            EnvironmentInfo(
                name, summary, version, dist.name if dist is not None else "", point.value
            )
        )
    return found
