"""The tools that agents are offered, and the schemas of what these take and give.

Rules:

- Agents get the environment's own tools, or ``step``; beside them ``reset``, unless the session is
  held by a client that begins its episodes. A tool of the environment whose name is one of ours
  keeps it.
- The reward, ``info``, the state, the seed, the choice of a task and reset options are not an
  agent's to see or set, unless the author or the operator says so. Legal actions are always told.
- Pictures that an environment renders are an agent's to see where that is said and the environment
  renders; sessions that agents open then have a render mode.
- If nothing else names the session, ``reset`` gives a handle, and every other tool takes it.
- Results fit the schema that is declared for them: arrays are lists, pictures the texts
  that stand for them, and numbers that JSON has not are texts.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from openenv_async.environment import AGENT_ACCESS
from openenv_async.schemas.legal import ACTION_MASK, LEGAL_ACTIONS
from openenv_async.schemas.refs import resolved
from openenv_async.schemas.tools import object_fields, with_definitions
from openenv_async.spec import EnvironmentSpec
from openenv_async.types import Tool

__all__ = ["OF_RESULT", "TOLD_ALWAYS", "Naming", "Offer", "checked_access"]

TOLD_ALWAYS: Final = (LEGAL_ACTIONS, ACTION_MASK)
"""The parts of an info that agents are told."""
OF_RESULT: Final = ("done", "terminated", "truncated")
"""Fields of an observation that say what a result says beside it."""
_HANDLE: Final = "session"
"""The argument, and the field of a reset's result, that names a session; see ``Offer.handle``."""

_REWARDS: Final = frozenset({"reward", "rewards"})
_OBSERVATION: Final = "observation"
_DEFS: Final = "$defs"
_TASK_NAMES: Final = ("task_id", "split", "index")
_OF_OPENENV: Final = frozenset({"reward", "done", "metadata"})
"""The fields by which an observation is known as one of OpenEnv's, whose metadata is an info."""
_HANDLE_SCHEMA: Final = {"type": "string", "description": "the handle that reset gave"}


def checked_access(access: Collection[str]) -> frozenset[str]:
    """Return what agents may see and set.

    Raises:
        ValueError: a name is not one of ``AGENT_ACCESS``.
    """
    if isinstance(access, str):
        raise ValueError(f"agent_access must be a list of names, got {access!r}: [{access!r}]")
    for name in access:
        if name not in AGENT_ACCESS:
            raise ValueError(
                f"agents cannot be given access to {name!r:.60}: it must be one of"
                f" {', '.join(AGENT_ACCESS)}"
            )
    return frozenset(access)


class Naming(enum.Enum):
    """The way in which the session of a request is named."""

    BY_HANDLE = "an argument of every tool"
    BY_REQUEST = "a header or the address"
    HELD = "the same, and somebody else begins its episodes"


class Offer:
    """The tools of one environment, as agents have them. Making it may block.

    Args:
        spec: of the environment.
        access: what agents may see and set.

    Attributes:
        tools: the environment's own, by name.
        reset, state, render, close, observe: the names of ours.
        render_mode: of the sessions that agents open; ``None``: they do not render.
        handle: the argument that names a session; it is another one where the environment has an
            argument of this name.
    """

    def __init__(self, spec: EnvironmentSpec, access: frozenset[str]) -> None:
        self.spec = spec
        self.access = access
        self.tools: dict[str, Tool] = {tool.name: tool for tool in spec.tools("step")}
        self.reset = self._free("reset")
        self.state = self._free("state")
        self.render = self._free("render")
        self.render_mode = spec.render_mode if "render" in access else None
        self.close = self._free("close")
        self.observe = self._free("observe")
        self.handle = _HANDLE if _HANDLE not in self._arguments() else f"openenv_{_HANDLE}"
        self._hidden = self._always_hidden()
        self._lists: dict[Naming, list[msgspec.Raw]] = {}

    def _free(self, name: str) -> str:
        return name if name not in self.tools else f"openenv_{name}"

    @property
    def session_options(self) -> dict[str, Any]:
        """The options of sessions that agents open."""
        return {} if self.render_mode is None else self.spec.render_options

    def _arguments(self) -> set[str]:
        """The names of everything that a tool or a reset takes."""
        names = set(self.spec.schema["reset"]["properties"])
        for tool in self.tools.values():
            names |= set(tool.parameters.get("properties") or ())
        return names

    def _always_hidden(self) -> frozenset[str]:
        hidden: set[str] = set()
        if "reward" not in self.access:
            hidden |= _REWARDS if self.spec.is_vector else {"reward"}
        if "info" not in self.access and self.spec.is_vector:
            hidden.add("infos")
        return frozenset(hidden) | self._info_in(object_fields(self.spec.schema["observation"]))

    def _info_in(self, fields: Collection[str]) -> frozenset[str]:
        is_kept = "info" in self.access or not _OF_OPENENV.issubset(fields)
        return frozenset() if is_kept else frozenset({"metadata"})

    def hides(self, fields: Collection[str]) -> frozenset[str]:
        """Return the names of those that agents do not see of an observation with these fields."""
        return self._hidden | self._info_in(fields)

    def listed(self, naming: Naming) -> list[msgspec.Raw]:
        """The tools, encoded, of a caller whose session is named in this way."""
        found = self._lists.get(naming)
        if found is None:
            tools = self._listed(naming)
            found = self._lists[naming] = [msgspec.Raw(_encode(tool)) for tool in tools]
        return found

    def _listed(self, naming: Naming) -> list[dict[str, Any]]:
        tools = []
        if naming is Naming.HELD:
            tools.append(
                {
                    "name": self.observe,
                    "description": "The last observation of the episode. Call it first.",
                    "inputSchema": self._with_handle(_NOTHING, naming),
                    "outputSchema": self._gives(None),
                    "annotations": {"readOnlyHint": True},
                }
            )
        else:
            tools.append(self._reset_tool(naming))
        for tool in self.tools.values():
            told: dict[str, Any] = {"name": tool.name}
            told["description"] = tool.description or f"{tool.name}."
            told["inputSchema"] = self._with_handle(tool.parameters, naming)
            told["outputSchema"] = self._gives(tool)
            tools.append(told)
        if "state" in self.access:
            tools.append(
                {
                    "name": self.state,
                    "description": "The environment's account of the episode.",
                    "inputSchema": self._with_handle(_NOTHING, naming),
                    "annotations": {"readOnlyHint": True},
                }
            )
        if self.render_mode is not None:
            tools.append(
                {
                    "name": self.render,
                    "description": "A picture of the episode as it stands.",
                    "inputSchema": self._with_handle(_NOTHING, naming),
                    "annotations": {"readOnlyHint": True},
                }
            )
        if naming is Naming.BY_HANDLE:
            tools.append(
                {
                    "name": self.close,
                    "description": "End the session, when it is not needed any more.",
                    "inputSchema": self._with_handle(_NOTHING, naming),
                }
            )
        return tools

    def _reset_tool(self, naming: Naming) -> dict[str, Any]:
        declared = self.spec.schema["reset"]
        properties = {
            name: _plain(schema)
            for name, schema in declared["properties"].items()
            if self._may_set(name)
        }
        parameters: dict[str, Any] = {"type": "object", "properties": properties}
        parameters["additionalProperties"] = (
            "options" in self.access and declared["additionalProperties"]
        )
        description = "Begin an episode. Call it first."
        if naming is Naming.BY_HANDLE:
            description = (
                f"Begin an episode. Call it first: it gives the {self.handle} that the"
                " other tools take."
            )
            told = "of a session that is to begin another episode"
            properties[self.handle] = {"type": "string", "description": told}
        gives = self._gives(None, handle=naming is Naming.BY_HANDLE)
        return {
            "name": self.reset,
            "description": description,
            "inputSchema": parameters,
            "outputSchema": gives,
        }

    def _may_set(self, name: str) -> bool:
        if name == "episode_id":
            return False
        if name == "seed":
            return "seed" in self.access
        own = name in self.spec.contract.reset_options
        if name in _TASK_NAMES and not own:
            return "task" in self.access
        return "options" in self.access

    def refused(self, options: Mapping[str, Any]) -> str | None:
        """Return the name of a reset's argument that an agent may not give, if there is one."""
        known = self.spec.schema["reset"]["properties"]
        for name in options:
            if not self._may_set(name) or (name not in known and not self._takes_any):
                return name
        return None

    @property
    def _takes_any(self) -> bool:
        return bool(self.spec.schema["reset"]["additionalProperties"])

    def _gives(self, tool: Tool | None, handle: bool = False) -> dict[str, Any]:
        """The schema of what a tool gives; ``None`` stands for reset."""
        properties: dict[str, Any] = {}
        definitions: dict[str, Any] = {}
        if tool is not None and tool.result_field is not None:
            properties["result"] = {} if tool.result is None else _relaxed(tool.result)
            required = ["result", "done"]
        else:
            definitions = self._observation()
            properties[_OBSERVATION] = {"$ref": f"#/{_DEFS}/{_OBSERVATION}"}
            required = [_OBSERVATION, "done"]
        properties["done"] = {"type": "boolean", "description": "the episode is over"}
        properties["truncated"] = {
            "type": "boolean",
            "description": "it was stopped before the task ended",
        }
        for name in TOLD_ALWAYS:
            properties[name] = {}
        if "reward" in self.access:
            properties["reward"] = {"type": ["number", "string", "null"]}
        if "info" in self.access:
            properties["info"] = {"type": "object"}
        if tool is None and "seed" in self.access:
            properties["seed"] = {"type": "integer"}
        if handle:
            properties[self.handle] = _HANDLE_SCHEMA
            required = [self.handle, *required]
        schema: dict[str, Any] = {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }
        return {**schema, _DEFS: definitions} if definitions else schema

    def _observation(self) -> dict[str, Any]:
        """The definitions of an observation as agents see it, itself among them."""
        whole = self.spec.schema["observation"]
        root, definitions = resolved(whole, whole), {}
        if isinstance(root, Mapping):
            root = {key: value for key, value in root.items() if key != _DEFS}
            for key in ("anyOf", "oneOf"):
                if key in root:
                    root[key] = [self._without_hidden(resolved(m, whole)) for m in root[key]]
            root = with_definitions(self._without_hidden(root), whole)
            definitions = root.pop(_DEFS, {})
        relaxed: dict[str, Any] = _relaxed({**definitions, _OBSERVATION: root})
        return relaxed

    def _without_hidden(self, schema: Any) -> Any:
        """The schema of an object without the fields that agents do not see."""
        fields = schema.get("properties") if isinstance(schema, Mapping) else None
        if not isinstance(fields, Mapping):
            return schema
        hidden = self.hides(fields)
        seen = {name: field for name, field in fields.items() if name not in hidden}
        gone = {*hidden, *OF_RESULT}
        required = [name for name in schema.get("required", ()) if name not in gone]
        return {**schema, "properties": seen, "required": required}

    def _with_handle(self, parameters: Mapping[str, Any], naming: Naming) -> dict[str, Any]:
        """The parameters of a tool, with the handle where it has to be given."""
        schema = copy.deepcopy(dict(parameters))
        schema["type"] = "object"
        schema.setdefault("properties", {})
        if naming is Naming.BY_HANDLE:
            schema["properties"] = {self.handle: _HANDLE_SCHEMA, **schema["properties"]}
            schema["required"] = [self.handle, *schema.get("required", ())]
        return schema


_NOTHING: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


def _plain(schema: Any) -> Any:
    """A schema without the keys that only our own clients read."""
    return {key: value for key, value in schema.items() if not key.startswith("x-")}


def _relaxed(schema: Any) -> Any:
    """A schema that what agents are told of a value fits, if the value fits the one that is given.

    References to the whole, or into it, follow it to where it stands among the definitions.
    """
    if isinstance(schema, list):
        return [_relaxed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "x-ndarray" in schema:
        return {"description": schema["description"]} if "description" in schema else {}
    made = {key: _relaxed(value) for key, value in schema.items()}
    ref = schema.get("$ref")
    if isinstance(ref, str) and ref.startswith("#") and not ref.startswith(f"#/{_DEFS}/"):
        made["$ref"] = f"#/{_DEFS}/{_OBSERVATION}{ref[1:]}"
    kinds = schema.get("type")
    if kinds == "number":
        made["type"] = ["number", "string"]
    elif isinstance(kinds, list) and "number" in kinds and "string" not in kinds:
        made["type"] = [*kinds, "string"]
    return made
