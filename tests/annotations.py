"""How the annotations of covjax are checked in every test run: by beartype, with NumPy's scalars taken for numbers."""

import beartype
import numpy as np

check = beartype.beartype(
    conf=beartype.BeartypeConf(
        hint_overrides=beartype.FrozenDict(
            {
                bool: bool | np.bool_,
                int: int | np.integer,
                float: float | int | np.floating | np.integer,
            }
        )
    )
)
