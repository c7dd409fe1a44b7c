"""The one logger: structlog over the standard `thoonk_jobs` logger, so that an application decides what is shown.

Without any set-up, warnings go to standard error and nothing else is shown. No payload and no secret is ever logged.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog

log: Any = structlog.wrap_logger(
    logging.getLogger("thoonk_jobs"),
    processors=[
        structlog.stdlib.filter_by_level,
        structlog.processors.format_exc_info,
        structlog.processors.LogfmtRenderer(key_order=["event"], bool_as_flag=False),
    ],
    wrapper_class=structlog.stdlib.BoundLogger,
)
