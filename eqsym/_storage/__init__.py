"""Files: checkpoints, histories, descriptions of objects, locked folders."""

from .checkpoints import (
    filled as filled,
    forget_after as forget_after,
    is_whole as is_whole,
    latest_checkpoint as latest_checkpoint,
    read_arrays as read_arrays,
    read_description as read_description,
    restore_checkpoint as restore_checkpoint,
    save_checkpoint as save_checkpoint,
    set_aside_damaged as set_aside_damaged,
)
from .folder import locked as locked, writable as writable
from .history import History as History, read_history as read_history
from .serialise import (
    arrays_of as arrays_of,
    compare as compare,
    decode as decode,
    encode as encode,
    is_key as is_key,
    Json as Json,
    opaque as opaque,
    pretty as pretty,
)
