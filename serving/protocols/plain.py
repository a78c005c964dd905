"""The plain JSON route's answers, as they are encoded and described."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from bundle.records.record import Record


class Prediction(msgspec.Struct, frozen=True):
    """What one row is answered."""

    id: Annotated[str, Meta(description="name of this prediction in the prediction log")]
    prediction: Annotated[float, Meta(description="probability", ge=0, le=1)]
    bundle: Annotated[str, Meta(description="digest of the bundle that answered")]
    arm: Annotated[str, Meta(description="champion or challenger")]
    online_as_of: Annotated[
        str | None,
        Meta(
            description="day of the online features that were used",
            extra_json_schema={"format": "date"},
        ),
    ]
    ood: Annotated[
        tuple[str, ...],
        Meta(description="features of this row outside the range of the training set"),
    ]

    @staticmethod
    def of(record: Record) -> Prediction:
        return Prediction(
            record.id, record.output, record.bundle, record.arm, record.online_as_of, record.ood
        )
