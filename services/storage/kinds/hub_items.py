"""What can go of a Hugging Face hub cache: repositories, detached revisions, and what downloads left behind.

The paths of a repository or of a revision are those that huggingface_hub's own ``delete_revisions`` would remove,
shared payloads included. One difference, on the safe side: a blob that another repository's snapshot leads to stays.
"""

from __future__ import annotations

import os

from services.storage.kinds.hub_layout import Repo, Revision, add_blobs, repo_name
from services.storage.kinds.hub_scan import scan_repo
from services.storage.kinds.hub_store import Store, listed_links, scan_store
from services.storage.kinds.locks import is_locked
from services.storage.kinds.measure import Tally
from services.storage.kinds.rule import Look, names

_HOUR = 3600.0
_AGAIN = "huggingface_hub fetches it again when it is asked for."


def list_hub(look: Look) -> None:
    """Put a hub cache's items into ``look``: whole repositories as they are read, everything once all are."""
    for hub in look.places:
        Hub(look, hub).run()


class Hub:
    """One cache folder. Its repositories are read first, since what is shared can only be judged then."""

    def __init__(self, look: Look, hub: str) -> None:
        self._look = look
        self._hub = hub
        self._store: Store | None = None
        self._links: dict[str, set[str]] = {}  # payload → all blobs that lead to it
        self._payloads: dict[str, str] = {}  # blob → payload
        self._foreign: set[str] = set()
        self.repos: list[Repo] = []

    def run(self) -> None:
        """Read and list everything."""
        first = len(self._look.items)
        for folder in names(self._hub):
            name, path = repo_name(folder), f"{self._hub}/{folder}"
            if self._look.box.stop.is_set():
                return
            if name and os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
                repo = scan_repo(path, name, self._look.tick)
                self.repos.append(repo)
                self._look.add(name, path, tally=repo.tally, suggested=False)
        del self._look.items[first:]
        self._join()
        held = self._locks()
        for repo in self.repos:
            self._list_repo(repo, held.get(repo.path.rsplit("/", 1)[-1], ()))
        self._list_no_exist()
        self._list_unreferenced_payloads()

    def _join(self) -> None:
        """Find out what is shared between repositories."""
        for repo in self.repos:
            self._foreign |= repo.foreign
            for blob, payload in repo.shared.items():
                self._links.setdefault(payload, set()).add(blob)
            self._payloads |= repo.shared
        self._store = scan_store(self._hub)
        if self._store:
            self._look.take(f"{self._hub}/blobs", self._store.rest)
            for status in (*self._store.payloads.values(), *self._store.manifests.values()):
                self._look.removable.add(status)

    def _list_repo(self, repo: Repo, held: tuple[str, ...]) -> None:
        fresh = any(self._look.box.now - blob[4] < _HOUR for blob in repo.incomplete.values())
        busy = held or (("a download of the last hour",) if fresh else ())
        others = tuple(self._users_of(repo))
        named = set(repo.refs.values())
        detached = [revision for revision in repo.revisions.values() if revision.commit not in named]
        notes = []
        if not repo.has_snapshots:
            notes.append("No download of it was ever finished.")
        elif detached and len(detached) == len(repo.revisions):
            notes.append("It was downloaded by commit: no branch or tag leads to it.")
        self._add(
            repo.name, [repo.path], repo.tally, set(repo.shared), used_by=(*busy, *others), suggested=False,
            note=" ".join(notes),
        )  # fmt: skip
        if len(detached) < len(repo.revisions):  # else the repository itself says it all
            for group, needed in _groups(repo, detached):
                blobs = sorted(blob for blob in needed - self._foreign if blob in repo.blobs)
                self._list_detached(repo, group, blobs, busy)
        self._list_left_behind(repo, busy)

    def _list_detached(self, repo: Repo, group: list[Revision], blobs: list[str], busy: tuple[str, ...]) -> None:
        tally = Tally()
        for revision in group:
            tally.merge(revision.tally)
        add_blobs(tally, map(repo.blobs.__getitem__, blobs))
        commits = "+".join(sorted(revision.commit[:8] for revision in group))
        several = len(group) > 1
        self._add(
            f"{repo.name}@{commits}", [*sorted(revision.path for revision in group), *blobs], tally, set(blobs),
            used_by=busy,
            note=f"No branch or tag leads to {'these commits' if several else 'this commit'} any more"
            + ("; they share files, so they go together." if several else "."),
        )  # fmt: skip

    def _list_left_behind(self, repo: Repo, busy: tuple[str, ...]) -> None:
        if repo.incomplete:
            tally = Tally()
            add_blobs(tally, repo.incomplete.values())
            self._add(
                f"{repo.name} incomplete", sorted(repo.incomplete), tally, set(), used_by=busy,
                note="Downloads that were broken off.", restore="The download starts anew.",
            )  # fmt: skip
        broken = [link for revision in repo.revisions.values() for link in revision.broken] + repo.lost_refs
        if broken:
            self._add(
                f"{repo.name} broken", sorted(broken), self._look.measure(*broken), set(), used_by=busy,
                note="Links to files, and names of commits, that are not here; they make the hub reject the whole "
                "repository.", restore=_AGAIN,
            )  # fmt: skip
        orphans = sorted(repo.blobs.keys() - repo.used - self._foreign)
        if orphans and repo.has_snapshots:
            tally = Tally()
            add_blobs(tally, map(repo.blobs.__getitem__, orphans))
            young = any(self._look.box.now - repo.blobs[blob][5] < _HOUR for blob in orphans)
            used_by = busy or (("a download of the last hour",) if young else ())
            self._add(
                f"{repo.name} unused", orphans, tally, set(orphans), used_by=used_by,
                note="Files that no snapshot leads to.", restore=_AGAIN,
            )  # fmt: skip

    def _add(
        self,
        name: str,
        parts: list[str],
        tally: Tally,
        blobs: set[str],
        *,
        used_by: tuple[str, ...] = (),
        suggested: bool | None = None,
        note: str = "",
        restore: str = "",
    ) -> None:
        """An item of ``parts``, and of the shared payloads that nothing but ``blobs`` leads to."""
        own = Tally()
        own.merge(tally)
        payloads = []
        if self._store:
            for payload in sorted({self._payloads[blob] for blob in blobs & self._payloads.keys()}):
                if self._only(payload, blobs):
                    own.add(self._store.payloads[payload])
                    own.add(self._store.manifests[payload])
                    payloads += [payload, f"{payload}.refs"]
        self._look.add(
            name, *parts, *payloads, tally=own, counted=False, used_by=used_by, suggested=suggested, note=note,
            restore=restore,
        )  # fmt: skip

    def _only(self, payload: str, blobs: set[str]) -> bool:
        """Whether nothing but ``blobs`` leads to ``payload``; without a readable manifest the hub keeps it too."""
        if self._store is None or payload not in self._store.payloads or payload not in self._store.manifests:
            return False
        listed = listed_links(self._hub, payload)
        return listed is not None and (listed | self._links.get(payload, set())) <= blobs

    def _users_of(self, repo: Repo) -> list[str]:
        """Other repositories whose snapshots lead into this one."""
        if not any(blob.startswith(repo.path + "/") for blob in self._foreign):
            return []
        return [r.name for r in self.repos if r is not repo and any(b.startswith(repo.path + "/") for b in r.foreign)]

    def _list_no_exist(self) -> None:
        folders = [p for repo in self.repos if os.path.isdir(p := f"{repo.path}/.no_exist")]  # noqa: PTH112
        if folders:
            self._look.add(
                ".no_exist", *folders, counted=False, risk="none", note="Notes of files that the hub lacks.",
                restore="The hub is asked again.",
            )  # fmt: skip

    def _list_unreferenced_payloads(self) -> None:
        if not self._store:
            return
        free = [payload for payload in sorted(self._store.payloads) if self._only(payload, set())]
        if free:
            tally = Tally()
            for payload in free:
                tally.add(self._store.payloads[payload])
                tally.add(self._store.manifests[payload])
            parts = [part for payload in free for part in (payload, f"{payload}.refs")]
            self._look.add(
                "shared unused", *parts, tally=tally, counted=False, note="Shared files that no repository leads to.",
                restore=_AGAIN,
            )  # fmt: skip

    def _locks(self) -> dict[str, tuple[str, ...]]:
        """Repository folder → who holds a lock of it; the lock files themselves become an item."""
        held: dict[str, tuple[str, ...]] = {}
        folder = f"{self._hub}/.locks"
        newest = 0.0
        for repo in names(folder):
            for name in names(f"{folder}/{repo}"):
                path = f"{folder}/{repo}/{name}"
                try:
                    changed = os.lstat(path).st_mtime
                except OSError:
                    continue
                newest = max(newest, changed)
                # Taking a lock sets its time; a download of more than a day is not looked for among thousands
                if self._look.box.now - changed < 24 * _HOUR and is_locked(path):
                    held[repo] = ("a download that holds a lock",)
        if newest:
            young = ("a download of the last hour",) if self._look.box.now - newest < _HOUR else ()
            self._look.add(
                ".locks", folder, risk="none", used_by=next(iter(held.values()), young),
                note="Left by downloads; nothing waits for them.", restore="Made anew by the next download.",
            )  # fmt: skip
        return held


def _groups(repo: Repo, detached: list[Revision]) -> list[tuple[list[Revision], set[str]]]:
    """``detached`` in groups that share blobs which nothing else needs, with those: only together they free them."""
    commits = {revision.commit for revision in detached}
    kept = set().union(*(r.blobs for r in repo.revisions.values() if r.commit not in commits))
    groups: list[tuple[list[Revision], set[str]]] = []
    for revision in sorted(detached, key=lambda r: r.commit):
        mine, blobs = [revision], revision.blobs - kept
        apart = []
        for group, theirs in groups:
            if theirs.isdisjoint(blobs):
                apart.append((group, theirs))
            else:
                mine, blobs = group + mine, theirs | blobs
        groups = [*apart, (mine, blobs)]
    return groups
