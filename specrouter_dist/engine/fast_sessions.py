"""The fast engine's sessions: slots, reserved pages, and pages shared between forks."""

from dataclasses import dataclass

from specrouter_dist.engine.kv_cache import PAGE_TOKENS, KvCache, PageTable, pages_for
from specrouter_dist.engine.lora import Adapter
from specrouter_dist.engine.prefix_cache import PrefixCache
from specrouter_dist.errors import EngineError, NoRoomError
from specrouter_dist.speculation.messages import TokenArray

_KEPT_SHARE = 0.5
"""Most of the pages that sessions may leave behind for later ones."""


@dataclass(slots=True)
class Session:
    """One session's reservation."""

    table: PageTable
    reserved: int
    """Positions that may be fed."""
    stop_ids: TokenArray
    """Nothing is drawn behind one of them."""
    adapter: Adapter | None = None
    """Which its rows run through."""
    fed: int = 0
    """Positions that have been, whatever was taken back: nothing may be fed behind a gap."""

    @property
    def owner(self) -> bytes:
        """Whose keys and values these are: those of other adapters are of no use to it."""
        return b"" if self.adapter is None else self.adapter.name.encode()


class SessionTable:
    """Open sessions by slot.

    Args:
        cache: whose pages they reserve.
        max_sessions: how many may be open at once.
        prefix_cache: whether pages are kept for later sessions.
    """

    def __init__(self, cache: KvCache, max_sessions: int, *, prefix_cache: bool) -> None:
        self._cache = cache
        num_kept = int(cache.allocator.num_free * _KEPT_SHARE) if prefix_cache else 0
        self._prefixes = PrefixCache(cache.allocator, num_kept)
        self._max_sessions = max_sessions
        self._sessions: dict[int, Session] = {}
        self._free_slots = list(range(max_sessions - 1, -1, -1))
        self._num_pages = cache.allocator.num_free

    @property
    def kv_share(self) -> float:
        """Share of the pages that are in use or kept."""
        return 1 - self._cache.allocator.num_free / self._num_pages

    def __getitem__(self, slot: int) -> Session:
        """The session in ``slot``.

        Raises:
            EngineError: none is.
        """
        if slot not in self._sessions:
            raise EngineError(f"slot: {slot} is not open")
        return self._sessions[slot]

    def open(self, num_positions: int, stop_ids: TokenArray, adapter: Adapter | None = None) -> int:
        """Takes a slot and pages for ``num_positions``.

        Raises:
            NoRoomError: one of them is used up; nothing has been taken.
        """
        self._require_slot()
        pages = self._prefixes.take(pages_for(num_positions))
        table = PageTable(pages, self._cache.device)
        return self._add(Session(table, num_positions, stop_ids, adapter))

    def fork(self, slot: int, length: int, num_positions: int | None = None) -> int:
        """Takes a slot for ``num_positions`` (None: as many as ``slot`` has), the first ``length``
        of which are shared.

        Whole pages are held by both, the rest of the last one is copied.

        Raises:
            EngineError: fewer positions have been fed, or are reserved.
            NoRoomError: slots or pages are used up; nothing has been taken.
        """
        parent = self[slot]
        reserved = parent.reserved if num_positions is None else num_positions
        if not 0 <= length <= min(parent.fed, reserved):
            raise EngineError(f"length: must be 0 to {min(parent.fed, reserved)}, got {length}")
        self._require_slot()
        num_shared = length // PAGE_TOKENS
        shared = parent.table.pages[:num_shared]
        fresh = self._prefixes.take(pages_for(reserved) - num_shared)
        self._cache.allocator.share(shared)
        if length % PAGE_TOKENS:
            self._cache.copy_page(parent.table.pages[num_shared], fresh[0])
        table = PageTable(shared + fresh, self._cache.device)
        session = Session(table, reserved, parent.stop_ids, parent.adapter, length)
        return self._add(session)

    def reuse(self, slot: int, tokens: TokenArray) -> int:
        """Copies the known pages of ``tokens`` into a session that has been fed nothing.

        Copies, since a session whose pages lie in one run is read as a view in every step.

        Returns:
            how many positions are valid now, a multiple of the page below ``len(tokens)``.
        """
        session = self[slot]
        assert session.fed == 0, f"slot {slot} has been fed"
        found = self._prefixes.find(tokens, session.owner)
        for source, target in zip(found, session.table.pages, strict=False):
            self._cache.copy_page(source, target)
        session.fed = PAGE_TOKENS * min(len(found), len(session.table.pages))
        return session.fed

    def publish(self, slot: int, tokens: TokenArray) -> None:
        """Leaves the whole pages of ``tokens``, which the session holds, to later sessions."""
        session = self[slot]
        self._prefixes.publish(tokens, session.table.pages, session.owner)

    def close(self, slot: int) -> None:
        """Frees the slot, and its pages unless a fork holds them.

        Raises:
            EngineError: it is not open.
        """
        self._cache.allocator.drop(self[slot].table.pages)
        del self._sessions[slot]
        self._free_slots.append(slot)

    def own_pages(self, slot: int, start: int, stop: int) -> None:
        """Copies the pages of positions ``[start, stop)`` that another session reads as well; those
        that are only kept for later ones are kept no more.

        Raises:
            NoRoomError: no page is free to take their place; nothing has changed.
        """
        session = self[slot]
        allocator = self._cache.allocator
        pages = session.table.pages
        touched = range(start // PAGE_TOKENS, pages_for(stop))
        for i in touched:
            self._prefixes.give_up(pages[i])
        shared = [i for i in touched if allocator.users(pages[i]) > 1]
        if not shared:
            return
        fresh = self._prefixes.take(len(shared))
        replaced = list(pages)
        for i, page in zip(shared, fresh, strict=True):
            self._cache.copy_page(pages[i], page)
            replaced[i] = page
        allocator.drop([pages[i] for i in shared])
        session.table = PageTable(replaced, self._cache.device)

    def _require_slot(self) -> None:
        if not self._free_slots:
            raise NoRoomError(f"all {self._max_sessions} session slots are used up")

    def _add(self, session: Session) -> int:
        slot = self._free_slots.pop()
        self._sessions[slot] = session
        return slot
