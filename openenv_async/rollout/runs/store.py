"""A run directory, open for writing: blocking, and by one writer at a time.

```
RUN/
  manifest.json             written first, as a whole
  lock                      held by whoever writes; names its process
  episodes-00000.jsonl.zst  a part: frames of lines, appended to
  arrays-00000.bin          the bytes of the arrays in its lines, if there are any
  attempts.jsonl            what failed and is played again, if there is any
  episodes-00001.parquet    a part that is sealed, if the run's format is Parquet
```

Parts are numbered in the order in which they were begun. A part has either frames or a
Parquet file; where both are there, somebody was interrupted between making the one and
removing the other, and the Parquet file counts.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import logging
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from ...errors import (
    LocalProtocolError,
    RunError,
    RunLocked,
    StorageFull,
)
from ..episodes import Attempt, Episode
from .appending import Entry, FramesFile, read_entries
from .attempts import find_failed, read_attempts, write_attempts
from .extras import arrow_json, parquet
from .frames import ArrayFile, whole_frames
from .manifest import (
    EpisodeFormat,
    Manifest,
    check_new,
    check_resumable,
    distribution_versions,
    read_manifest,
    write_manifest,
)
from .parquet import (
    drop_parquet_rows,
    parquet_entries,
    remove_frames,
    seal_part,
)
from .parts import Part, list_parts
from .rewriting import drop_lines, put_typical_first
from .salvaging import Salvaged, salvage_run

__all__ = ["RunStore", "storage_error"]

_logger = logging.getLogger("openenv_async.rollout")

_PART_BYTES: Final[dict[EpisodeFormat, int]] = {
    "jsonl": 256 << 20,
    # Less, because what is not sealed yet has to be sealed at the end.
    "parquet": 64 << 20,
}
"""Size at which a part is finished and the next one begins."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def storage_error(error: OSError, folder: Path) -> RunError:
    """What to raise when a run cannot be written to."""
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return RunError(
            f"expected a folder for the run at {str(folder)!r}, got a file",
            fault="caller",
        )
    if error.errno not in _FULL:
        return RunError(f"expected to write to {str(folder)!r}: {error}")
    free = shutil.disk_usage(folder).free
    return StorageFull(
        f"expected room for episodes at {str(folder)!r}, got {error.strerror!r} with "
        f"{free} bytes free: all acknowledged episodes are intact",
        detail={"free_bytes": free},
    )


class RunStore:
    """Appends episodes to a run; its methods block and are called one at a time.

    Use `RunWriter` from async code.

    Args:
        folder: The run directory; made if need be.
        manifest: What the run is about.
        resume: Whether to go on with a run that is there.
        durable: Whether what is acknowledged outlives a loss of power, and not just of
            this process.
        forget: Statuses, such as `infrastructure_failed`: episodes that are there and
            ended so are dropped, so that they can be played again; what became of
            them stays in `earlier`.
        salvage: Whether to mend what is damaged: episodes that can't be read any more
            are dropped, so that they can be played again, and a copy of their file is
            kept as `….damaged`.
        part_bytes: Size at which a part is finished and the next one begins; None
            takes 256 MiB, or 64 MiB of what becomes Parquet.

    Raises:
        RunLocked: Somebody else writes to it.
        RunMismatch: It was begun with other settings.
        RunDamaged: What was acknowledged can't be read.
        StorageFull: No room is left.
        RunError: There is a run already, and it is not to be resumed; or the folder
            can't be written to.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        resume: bool = False,
        durable: bool = True,
        forget: Collection[str] = (),
        salvage: bool = False,
        part_bytes: int | None = None,
    ) -> None:
        self.folder = folder
        self._durable = durable
        self._part_bytes = part_bytes or _PART_BYTES[manifest.episode_format]
        self._done: set[bytes] = set()
        self.failed = 0
        """Episodes that were there already, and have failed."""
        self._failed: set[bytes] = set()
        self.earlier: dict[str, list[Attempt]] = {}
        """What became of episodes that failed and were dropped, by id."""
        self.salvaged: list[Salvaged] = []
        """What was damaged, and is mended."""
        self._part: FramesFile | None = None
        self._is_closed = False
        self._sealing: Future[None] | None = None
        if manifest.episode_format == "parquet":
            # Now, because importing them holds everything up.
            parquet()
            arrow_json()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _take_lock(folder)
        except OSError as error:
            raise storage_error(error, folder) from error
        # Its thread starts when there is something to seal.
        self._sealer = ThreadPoolExecutor(1, "seal")
        try:
            self.manifest = self._begin(manifest, resume=resume)
            self._clean_up()
            if salvage:
                self.salvaged = salvage_run(folder)
            self.earlier = read_attempts(folder)
            if forget:
                self._drop(forget)
            self._recover()
        except OSError as error:
            self._release()
            raise storage_error(error, folder) from error
        except BaseException:
            self._release()
            raise

    def _begin(self, manifest: Manifest, *, resume: bool) -> Manifest:
        found = read_manifest(self.folder)
        if found is None and list_parts(self.folder):
            raise RunError(
                f"expected a manifest beside the episodes at {str(self.folder)!r}",
                fault="caller",
            )
        if not resume:
            check_new(found, self.folder)
        if found is None or not resume:
            # Or one that was given up before its first episode: it is begun anew.
            versions = {**distribution_versions(), **manifest.versions}
            manifest = msgspec.structs.replace(manifest, versions=versions)
            write_manifest(self.folder, manifest)
            return manifest
        check_resumable(found, manifest, self.folder)
        if not manifest.runtime or manifest.runtime == found.runtime:
            return found
        # What is asked for now, so that readers know how much is missing.
        found = msgspec.structs.replace(found, runtime=manifest.runtime)
        write_manifest(self.folder, found)
        return found

    # What is there

    def _clean_up(self) -> None:
        """Remove what somebody was interrupted in making, or in removing."""
        for path in self.folder.glob("*.tmp"):
            path.unlink()
        for part in list_parts(self.folder):
            if part.is_sealed:
                remove_frames(self.folder, part.number)

    def _drop(self, statuses: Collection[str]) -> None:
        parts = list_parts(self.folder)
        failed = find_failed(parts, statuses)
        if not failed:
            return
        for part in parts:
            # Nothing is dropped of a run that is damaged.
            for _ in self._entries(part, growing=part is parts[-1]):
                pass
        self.earlier |= failed
        write_attempts(self.folder, self.earlier)
        for part in parts:
            if part.is_sealed:
                drop_parquet_rows(part.path, statuses)
            else:
                drop_lines(part.path, statuses, growing=part is parts[-1])

    def _recover(self) -> None:
        parts = list_parts(self.folder)
        for part in parts:
            if part.is_sealed or part is not parts[-1]:
                self._remember(self._entries(part))
            if not part.is_sealed and part is not parts[-1]:
                # Another one follows it, and so it is whole.
                self._seal(part)
        number = 0
        if parts:
            number = parts[-1].number + parts[-1].is_sealed
        self._open_part(number)

    def _entries(self, part: Part, *, growing: bool = False) -> Iterator[Entry]:
        """The episodes of a part, all of which is checked on the way."""
        if part.is_sealed:
            yield from parquet_entries(part.path)
            return
        arrays = ArrayFile(self.folder)
        for frame in whole_frames(part.path, growing=growing):
            yield from read_entries(part.path, frame, arrays)

    def _seal(self, part: Part) -> None:
        if self.manifest.episode_format == "parquet":
            seal_part(self.folder, part.number)

    def _open_part(self, number: int) -> None:
        part = FramesFile(self.folder, number, durable=self._durable)
        self._remember(part.entries)
        part.entries.clear()
        if part.torn:
            _logger.warning(
                "%s: cut off %d bytes of a last write that was interrupted; nobody was "
                "told that its episodes were written",
                part.path,
                part.torn,
            )
        self._part = part

    def _remember(self, entries: Iterable[Entry]) -> None:
        for id, status in entries:
            digest = _digest(id)
            self._done.add(digest)
            if status.endswith("_failed"):
                self.failed += 1
                self._failed.add(digest)

    def __contains__(self, id: str) -> bool:
        return _digest(id) in self._done

    def __len__(self) -> int:
        return len(self._done)

    def has_failed(self, id: str) -> bool:
        """Whether it is there, was when this was opened, and has failed."""
        return _digest(id) in self._failed

    # Appending

    def append(
        self, episodes: Sequence[Episode[object, object]]
    ) -> list[LocalProtocolError | None]:
        """Write episodes; those that it returns nothing for are there to stay.

        Returns:
            For each, why it was refused: it is there already, or has values that can't
            be written.

        Raises:
            StorageFull: No room is left. None of them is there.
            RunError: They could not be written. None of them is there.
        """
        refused: dict[int, LocalProtocolError] = {}
        fresh: dict[str, int] = {}
        for index, episode in enumerate(episodes):
            if episode.id in self or episode.id in fresh:
                refused[index] = LocalProtocolError(
                    f"expected an episode that is not in {str(self.folder)!r} yet, "
                    f"got {episode.id!r}"
                )
            else:
                fresh[episode.id] = index
        try:
            part = self._open_for_more()
            problems = part.append([episodes[index] for index in fresh.values()])
        except OSError as error:
            raise storage_error(error, self.folder) from error
        for index, problem in zip(fresh.values(), problems, strict=True):
            if problem is None:
                self._done.add(_digest(episodes[index].id))
            else:
                refused[index] = problem
        return [refused.get(index) for index in range(len(episodes))]

    def _open_for_more(self) -> FramesFile:
        """The part to append to; begins the next one when this one is full."""
        part = self._part
        assert part is not None
        if part.nbytes < self._part_bytes:
            return part
        self._finish_part(part)
        self._open_part(part.number + 1)
        assert self._part is not None
        return self._part

    def _finish_part(self, part: FramesFile) -> None:
        part.finish()
        self._wait_sealed()
        if self.manifest.episode_format == "parquet":
            # Beside what is appended meanwhile; one at a time, so that a disk that is
            # too slow for it slows the run down instead of filling up.
            self._sealing = self._sealer.submit(seal_part, self.folder, part.number)
        else:
            put_typical_first(part.path)

    def _wait_sealed(self) -> None:
        if self._sealing is not None:
            sealing, self._sealing = self._sealing, None
            sealing.result()

    # The end

    def close(self) -> None:
        """Finish the last part and let others write; idempotent.

        Raises:
            StorageFull: No room is left to seal it. All episodes are there, as JSON
                lines, and the next opening tries again.
            RunError: The same for other reasons.
        """
        if self._is_closed:
            return
        self._is_closed = True
        part, self._part = self._part, None
        try:
            if part is not None and part.count:
                self._finish_part(part)
            elif part is not None:
                part.close()
                part.path.unlink(missing_ok=True)
            self._wait_sealed()
        except OSError as error:
            raise storage_error(error, self.folder) from error
        finally:
            self._release()

    def _release(self) -> None:
        if self._part is not None:
            self._part.close()
        self._sealer.shutdown()
        self._lock.close()


def _take_lock(folder: Path) -> io.FileIO:
    """Lock a folder until the file is closed, or the process ends in whatever way."""
    path = folder / "lock"
    file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = file.read(32).decode(errors="replace").strip()
        file.close()
        raise RunLocked(
            f"expected to be the only writer to {str(folder)!r}, got process "
            f"{holder or '(unknown)'} writing to it",
            detail={"pid": int(holder)} if holder.isdigit() else None,
        ) from error
    except BaseException:
        file.close()
        raise
    file.truncate(0)
    file.write(f"{os.getpid()}\n".encode())
    return file


def _digest(id: str) -> bytes:
    # So that a million of ids take the same room, however long they are.
    return hashlib.blake2b(id.encode(), digest_size=12).digest()
