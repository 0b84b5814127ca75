"""Results as a table of pandas, which is an optional requirement."""

from collections.abc import Iterable, Mapping
from typing import Any

from sentiment_client.types import Row


def to_dataframe(rows: Iterable[Row]) -> Any:
    """Rows as a pandas.DataFrame."""
    try:
        import pandas as pd  # noqa: PLC0415  # it is needed only here
    except ImportError:
        raise ImportError("to_dataframe needs pandas: pip install sentiment-client[pandas]") from None
    return pd.DataFrame([_flat(row) for row in rows])


def _flat(row: Row) -> Mapping[str, Any]:
    scores = row.scores._asdict() if row.scores else dict.fromkeys(("negative", "neutral", "positive"))
    return {
        "index": row.index,
        "custom_id": row.custom_id,
        **{f"input_{name}" if name in scores or hasattr(row, name) else name: v for name, v in row.columns.items()},
        "text": row.text,
        "sentiment": row.sentiment,
        "confidence": row.confidence,
        **scores,
        "coverage": row.coverage,
        "error": row.error,
    }
