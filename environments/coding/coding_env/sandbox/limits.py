"""The limits of a worker."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one interpreter, and of a shell command. Sizes are bytes, durations seconds.

    Attributes:
        memory_size: address space beyond what an idle interpreter has; MemoryError past it.
        max_output_size: of stdout and of stderr, each, per call; the rest is left out and said so.
        max_flood_size: output per call past which the code is interrupted.
        max_disk_size: of all files in the private folder, and of those removed from it that are
            still open; one that is still mapped alone counts as ``max_file_size``.
        max_file_size: of each file.
        max_files: files and folders in the private folder; and folders in one another: 100.
        max_open_files: descriptors.
        max_processes: of a shell command, at once.
        cpu_timeout: CPU time per call; of each process of a shell command.
        total_cpu_timeout: CPU time per interpreter.
        threads: whether threads may be started. Their number is limited by memory alone: run
            the server with a limit of processes (``docker run --pids-limit``).
    """

    memory_size: int = 256 * _MIB
    max_output_size: int = 64 * 1024
    max_flood_size: int = 16 * _MIB
    max_disk_size: int = 32 * _MIB
    max_file_size: int = 16 * _MIB
    max_files: int = 500
    max_open_files: int = 64
    max_processes: int = 64
    cpu_timeout: float = 30.0
    total_cpu_timeout: float = 3600.0
    threads: bool = False
