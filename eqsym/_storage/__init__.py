"""Files: checkpoints, histories, descriptions of objects, locked folders."""

from .checkpoints import (
    common_checkpoint as common_checkpoint,
    filled as filled,
    forget_after as forget_after,
    is_whole as is_whole,
    latest_checkpoint as latest_checkpoint,
    read_arrays as read_arrays,
    read_description as read_description,
    restore_checkpoint as restore_checkpoint,
    restore_with_changes as restore_with_changes,
    resumable_checkpoint as resumable_checkpoint,
    save_checkpoint as save_checkpoint,
    warn_of_uncompared as warn_of_uncompared,
)
from .comparison import (
    compare as compare,
    Difference as Difference,
    in_precision as in_precision,
    listed as listed,
)
from .folder import locked as locked, writable as writable
from .history import History as History, read_history as read_history
from .programs import keep_compiled as keep_compiled
from .serialize import (
    arrays_of as arrays_of,
    decode as decode,
    encode as encode,
    is_key as is_key,
    is_known as is_known,
    Json as Json,
    pretty as pretty,
    uncompared as uncompared,
)
