"""Pages that sessions leave behind, found again by what they hold.

A page's key is a hash of its owner and all tokens up to its end, so a hit is a prefix. A page is
kept as one of its users (:class:`~specrouter_dist.engine.kv_cache.PageAllocator`) until the room is
wanted.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from specrouter_dist.engine.kv_cache import PAGE_TOKENS, PageAllocator
from specrouter_dist.errors import NoRoomError
from specrouter_dist.speculation.messages import TokenArray

_KEY_BYTES = 16
_TRIES_FOR_A_RUN = 64
"""Pages given up for the sake of a contiguous run, beyond those whose room is needed."""


class PrefixCache:
    """Whole pages by owner, tokens and all before them, the least recently used given up first.

    Args:
        allocator: of the pages.
        max_pages: most pages kept.
    """

    def __init__(self, allocator: PageAllocator, max_pages: int) -> None:
        self._allocator = allocator
        self._max_pages = max_pages
        self._pages: OrderedDict[bytes, int] = OrderedDict()
        self._keys: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._pages)

    def find(self, tokens: TokenArray, owner: bytes = b"") -> list[int]:
        """The owner's pages of the longest known prefix that leaves a token to be fed."""
        found: list[tuple[bytes, int]] = []
        for key in _keys(tokens, (len(tokens) - 1) // PAGE_TOKENS, owner):
            page = self._pages.get(key)
            if page is None:
                break
            found.append((key, page))
        # A page is of use only with all before it: the first ones are to be given up last.
        for key, _ in reversed(found):
            self._pages.move_to_end(key)
        return [page for _, page in found]

    def publish(self, tokens: TokenArray, pages: Sequence[int], owner: bytes = b"") -> None:
        """Keeps the whole pages of ``tokens``, which lie in ``pages`` and will not change."""
        keys = list(_keys(tokens, min(len(tokens) // PAGE_TOKENS, self._max_pages), owner))
        for key, page in reversed(list(zip(keys, pages, strict=False))):
            if key not in self._pages:
                self._allocator.share([page])
                self._pages[key], self._keys[page] = page, key
            self._pages.move_to_end(key)
        while len(self._pages) > self._max_pages:
            self._give_up_oldest()

    def take(self, count: int) -> list[int]:
        """``count`` pages for a session; what is kept gives way, and to a contiguous run too.

        Raises:
            NoRoomError: sessions hold too many; nothing has been given up then.
        """
        allocator = self._allocator
        if count > allocator.num_free:
            reclaimable = sum(allocator.users(page) == 1 for page in self._pages.values())
            num_free = allocator.num_free + reclaimable
            if count > num_free:
                raise NoRoomError(f"KV cache: {count} pages wanted, {num_free} free")
        while allocator.num_free < count:
            self._give_up_oldest()
        for _ in range(_TRIES_FOR_A_RUN):
            if not self._pages or allocator.has_run(count):
                break
            self._give_up_oldest()
        return allocator.take(count)

    def give_up(self, page: int) -> None:
        """Forgets a page, if it is kept: it is going to change, or its room is wanted."""
        key = self._keys.pop(page, None)
        if key is not None:
            del self._pages[key]
            self._allocator.drop([page])

    def _give_up_oldest(self) -> None:
        self.give_up(next(iter(self._pages.values())))


def _keys(tokens: TokenArray, num_pages: int, owner: bytes) -> Iterator[bytes]:
    key = owner
    for start in range(0, num_pages * PAGE_TOKENS, PAGE_TOKENS):
        content = tokens[start : start + PAGE_TOKENS].tobytes()
        key = hashlib.blake2b(key + content, digest_size=_KEY_BYTES).digest()
        yield key
