"""The table of a SQL cache, and the statements on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import MEDIUMTEXT
from sqlalchemy.schema import CreateSchema

__all__ = ["BATCH", "Rows"]

BATCH: Final = 1000
"""Expired rows that one statement deletes."""

_MAX_ID: Final = 449  # of Microsoft's cache: twice that are the 900 bytes of SQL Server's keys


class Rows:
    """The table and the statements on it, none of which is of one dialect only.

    Times are seconds since the epoch.
    """

    def __init__(self, table: str, schema: str | None) -> None:
        # Keys are compared by their code points, also where the database ignores case.
        exact = sa.String(_MAX_ID)
        exact = exact.with_variant(sa.String(_MAX_ID, "utf8mb4_bin"), "mysql", "mariadb")
        exact = exact.with_variant(sa.NVARCHAR(_MAX_ID, "SQL_Latin1_General_CP1_CS_AS"), "mssql")
        self.table = sa.Table(
            table,
            sa.MetaData(),
            sa.Column("id", exact, primary_key=True),
            sa.Column(
                "value", sa.Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb"), nullable=False
            ),
            sa.Column("expires_at", sa.Double(), nullable=False, index=True),
            schema=schema,
        )
        self._columns = self.table.c

    def create(self, connection: sa.Connection) -> None:
        """Create schema, table and index where they are missing; SQLite has no schemas."""
        schema = self.table.schema if connection.dialect.name != "sqlite" else None
        if schema and not sa.inspect(connection).has_schema(schema):
            connection.execute(CreateSchema(schema))
        self.table.metadata.create_all(connection)

    def exist(self, connection: sa.Connection) -> bool:
        """Tell whether there is such a table."""
        return sa.inspect(connection).has_table(self.table.name, schema=self.table.schema)

    def select(self, key: str, now: float) -> sa.Select[Any]:
        """Read a value that has not expired."""
        c = self._columns
        return sa.select(c.value).where(c.id == key, c.expires_at > now)

    def insert(self, key: str, value: str, expires_at: float) -> sa.Insert:
        """Add a row; one with the same key is an IntegrityError."""
        return self.table.insert().values(id=key, value=value, expires_at=expires_at)

    def update(self, key: str, value: str, expires_at: float) -> sa.Update:
        """Change a row if it is there."""
        change = self.table.update().values(value=value, expires_at=expires_at)
        return change.where(self._columns.id == key)

    def take_over(self, key: str, value: str, expires_at: float, now: float) -> sa.Update:
        """Change a row if it has expired."""
        return self.update(key, value, expires_at).where(self._columns.expires_at <= now)

    def delete(self, key: str) -> sa.Delete:
        """Delete a row."""
        return self.table.delete().where(self._columns.id == key)

    def select_expired(self, now: float) -> sa.Select[Any]:
        """Find the keys of a batch of expired rows."""
        return sa.select(self._columns.id).where(self._columns.expires_at <= now).limit(BATCH)

    def delete_expired(self, keys: Sequence[str], now: float) -> sa.Delete:
        """Delete those of a batch that nobody has renewed."""
        c = self._columns
        return self.table.delete().where(c.id.in_(keys), c.expires_at <= now)
