"""The server of a broker: somewhere, or embedded, which is started on demand and whose file is put on the disk."""

from __future__ import annotations

import asyncio

from thoonk_jobs.config import Config
from thoonk_jobs.embedded import EmbeddedServer
from thoonk_jobs.sync import DiskSync


class Server:
    """For one process."""

    def __init__(self, config: Config) -> None:
        self._url = config.server_url
        self._embedded = EmbeddedServer(config.directory) if config.embedded else None
        self._sync = DiskSync(self._embedded.directory) if self._embedded else None

    def start(self) -> str:
        """Where it is; starts an embedded one that does not run."""
        return self._embedded.start() if self._embedded else str(self._url)

    async def reach(self) -> str:
        """`start`, without holding up the event loop."""
        return await asyncio.to_thread(self._embedded.start) if self._embedded else str(self._url)

    def wrote(self) -> None:
        """Something may have been written."""
        if self._sync:
            self._sync.wrote()

    def close(self) -> None:
        """Puts the last writes on the disk."""
        if self._sync:
            self._sync.close()
