"""The journal: the crash-safe local log of one process's records, and its queue.

It knows bytes and lines, and nothing of PostgreSQL, tenants or taxonomies. A journal is a directory
``ROOT/<journal id>/`` with numbered segments, a page of counters (the books) and two lock files. A
segment is a preallocated, memory-mapped file of lines. In memory mode the same segments are
anonymous maps and there is no directory.
"""

from tenantry.journal.books import COUNTED, DROP_REASONS, Books, Slot, cursor, peek
from tenantry.journal.dead import DeadJournal, adopt
from tenantry.journal.files import (
    ForeignFile,
    journal_directories,
    local_process,
    problems_of,
    refuse_foreign,
    remove_unfinished,
)
from tenantry.journal.live import Journal
from tenantry.journal.segments import (
    Chunk,
    Identity,
    Segment,
    close_line,
    emitted_at,
    oldest_row,
    read_header,
    tally,
)
from tenantry.journal.shelf import SEGMENT_BYTES

__all__ = [
    "COUNTED",
    "DROP_REASONS",
    "SEGMENT_BYTES",
    "Books",
    "Chunk",
    "DeadJournal",
    "ForeignFile",
    "Identity",
    "Journal",
    "Segment",
    "Slot",
    "adopt",
    "close_line",
    "cursor",
    "emitted_at",
    "journal_directories",
    "local_process",
    "oldest_row",
    "peek",
    "problems_of",
    "read_header",
    "refuse_foreign",
    "remove_unfinished",
    "tally",
]
