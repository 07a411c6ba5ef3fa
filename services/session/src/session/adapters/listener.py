"""Hears on Postgres what other processes append."""

import asyncio
import uuid
from datetime import timedelta

import asyncpg
import sqlalchemy as sa
import structlog

from servicekit.errors import ServiceError
from session.adapters.database import PostgresDatabase
from session.adapters.news import CHANNEL, RunNews

log = structlog.get_logger()

_NOTIFY = sa.select(sa.func.pg_notify(sa.literal_column(f"'{CHANNEL}'"), sa.bindparam("b_beat")))


class Listener:
    """One connection that listens, for the life of the process.

    It hears itself every `beat`, by way of the pool. A connection that is gone, that
    nobody answers on, or that a proxy deals out to others is found so; followers look
    for themselves, once a second, until there is one that hears.
    """

    def __init__(
        self,
        *,
        database: PostgresDatabase,
        news: RunNews,
        beat: timedelta = timedelta(seconds=10),
        patience: timedelta = timedelta(seconds=5),
    ) -> None:
        self._database = database
        self._news = news
        self._beat_s = beat.total_seconds()
        self._patience_s = patience.total_seconds()
        self._name = f"beat-{uuid.uuid4().hex}"  # no run's id
        self._heard = asyncio.Event()
        news.hears(others=False)

    async def run(self) -> None:
        """Never returns."""
        while True:
            try:
                await self._listen()
            except (
                OSError,
                TimeoutError,
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                ServiceError,
            ) as error:
                log.warning("listening_failed", error=str(error) or type(error).__name__)
            if self._news.heard_from_others:
                self._news.hears(others=False)
            await asyncio.sleep(1)

    async def _listen(self) -> None:
        async with self._database.own_connection() as connection:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, self._on_notification)
            while not lost.is_set():
                self._heard.clear()
                await self._database.write(lambda c: c.execute(_NOTIFY, {"b_beat": self._name}))
                async with asyncio.timeout(self._patience_s):
                    await self._heard.wait()
                if not self._news.heard_from_others:
                    self._news.hears(others=True)
                    log.info("listening")
                try:
                    async with asyncio.timeout(self._beat_s):
                        await lost.wait()
                except TimeoutError:
                    continue
            raise ConnectionError("the connection that listens was lost")

    def _on_notification(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        if payload == self._name:
            self._heard.set()
        else:
            self._news.tell(str(payload))
