"""The base of everything: array types, numerics, devices, processes, interrupts."""

from .arguments import describe_arguments as describe_arguments
from .interrupts import (
    interactive as interactive,
    interruptible as interruptible,
    Interrupts as Interrupts,
)
from .kinds import (
    checked as checked,
    checked_but as checked_but,
    Numbers as Numbers,
)
from .math import (
    check_chunk as check_chunk,
    chunked_sum as chunked_sum,
    chunked_vmap as chunked_vmap,
    full_precision as full_precision,
    in_two as in_two,
    log_sum as log_sum,
    nearest_displacement as nearest_displacement,
    normalized as normalized,
    precise_einsum as precise_einsum,
    precise_matmul as precise_matmul,
    rescaled as rescaled,
    safe_sqrt as safe_sqrt,
    scaled_sum as scaled_sum,
    sum_of_determinants as sum_of_determinants,
)
from .processes import (
    is_first as is_first,
    on_all as on_all,
    on_first as on_first,
    on_host as on_host,
    put as put,
)
from .progress import duration as duration, progress_bar as progress_bar
from .sharding import (
    device_mesh as device_mesh,
    devices_in_use as devices_in_use,
    mesh_of as mesh_of,
    on_mesh as on_mesh,
    OPERATIONS as OPERATIONS,
    replicate as replicate,
    shard_walkers as shard_walkers,
    spread as spread,
    walker_devices as walker_devices,
    WALKERS as WALKERS,
)
from .shown import (
    AbstractModule as AbstractModule,
    AbstractSummarized as AbstractSummarized,
    as_fraction as as_fraction,
    formula as formula,
)
from .text import (
    aligned as aligned,
    data_frame as data_frame,
    html_table as html_table,
    in_blocks as in_blocks,
    in_columns as in_columns,
)
from .threads import set_up_threads as set_up_threads
from .types import (
    AbstractFixed as AbstractFixed,
    check_kind as check_kind,
    combine as combine,
    Electrons as Electrons,
    Integer as Integer,
    Key as Key,
    LogPsi as LogPsi,
    partition as partition,
    random_key as random_key,
    Walkers as Walkers,
    whole_number as whole_number,
)
