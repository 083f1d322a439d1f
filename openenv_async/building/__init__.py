"""Images of environments: built by a Docker Engine, pushed to a registry or to a Space."""

from __future__ import annotations

from openenv_async.building.base import build_base
from openenv_async.building.build import (
    BuildFailed,
    BuiltImage,
    build_image,
    check_image,
    image_name,
)
from openenv_async.building.push import PushFailed, push_image, registry_name
from openenv_async.building.space import SpaceOptions, stage_space, upload_space

__all__ = [
    "BuildFailed",
    "BuiltImage",
    "PushFailed",
    "SpaceOptions",
    "build_base",
    "build_image",
    "check_image",
    "image_name",
    "push_image",
    "registry_name",
    "stage_space",
    "upload_space",
]
