"""Tests that the migrations build the schema of `store.tables.core` on each database, with conditions of indexes."""

import re
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from jobworker.store.database.database import Database
from jobworker.store.tables import core
from tests.servers import PostgresServer

#: Query that describes a PostgreSQL database: one text for each column, constraint and index.
_POSTGRESQL_DESCRIPTION = """
    SELECT 'column ' || table_name || '.' || column_name,
           concat_ws(' ', row_number() OVER (PARTITION BY table_name ORDER BY ordinal_position), data_type,
                     character_maximum_length, is_nullable, column_default)
      FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL SELECT 'index ' || indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT 'constraint ' || conname, pg_get_constraintdef(oid)
      FROM pg_constraint WHERE connamespace = 'public'::regnamespace
"""
#: The text of CREATE TABLE is not compared, because a column that is added later follows the constraints there.
_SQLITE_DESCRIPTION = """
    SELECT 'column ' || m.name || '.' || c.name,
           c.cid || ' ' || c.type || ' ' || c."notnull" || ' ' || ifnull(c.dflt_value, '-') || ' ' || c.pk
      FROM sqlite_master AS m, pragma_table_xinfo(m.name) AS c WHERE m.type = 'table'
    UNION ALL SELECT 'foreign key ' || m.name || '.' || f."from", f."table" || ' ' || f."to" || ' ' || f.on_delete
      FROM sqlite_master AS m, pragma_foreign_key_list(m.name) AS f WHERE m.type = 'table'
    UNION ALL SELECT 'unique ' || m.name || ' ' || group_concat(c.name), u.origin
      FROM sqlite_master AS m, pragma_index_list(m.name) AS u, pragma_index_info(u.name) AS c
     WHERE m.type = 'table' AND u."unique" GROUP BY m.name, u.name
    UNION ALL SELECT 'without rowid ' || name, wr FROM pragma_table_list WHERE type = 'table'
    UNION ALL SELECT 'index ' || name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL
"""


@pytest.fixture
def empty_database_url(database_url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of an empty database of the same kind as `database`."""
    if database_url.startswith("sqlite"):
        yield database_url + ".empty"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    server.create_database("empty")
    yield server.get_url("empty")
    server.drop_database("empty")


def test_migrations_build_the_same_database_as_the_schema(database: Database, empty_database_url: str) -> None:
    declared = Database(empty_database_url)
    with declared.write() as connection:
        core.metadata.create_all(connection)
    by_schema, by_migrations = describe_database(declared), describe_database(database)
    declared.dispose()

    only_schema = {name: by_schema[name] for name in by_schema if by_migrations.get(name) != by_schema[name]}
    only_migrations = {
        name: by_migrations[name] for name in by_migrations if by_schema.get(name) != by_migrations[name]
    }
    assert only_migrations == only_schema, "store/migrations must be brought up to store/tables/core.py"


def test_alembic_finds_no_difference(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_object": is_reflectable})
        assert compare_metadata(context, core.metadata) == []


def test_comparison_with_alembic_reports_removed_column(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.text("ALTER TABLE queues ADD COLUMN paused INTEGER"))
    with database.read() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), core.metadata)
    assert ["remove_column" for difference in differences if difference[0] == "remove_column"] == ["remove_column"]


def describe_database(database: Database) -> dict[str, str]:
    """Return descriptions of tables, columns, constraints and indexes by name, without Alembic's own table."""
    statement = _SQLITE_DESCRIPTION if database.is_sqlite else _POSTGRESQL_DESCRIPTION
    with database.read() as connection:
        rows = connection.execute(sa.text(statement)).all()
    return {name: re.sub(r"\s+", " ", str(described)) for name, described in rows if "alembic_version" not in name}


def is_reflectable(schema_item: object, name: str | None, *_: object) -> bool:
    """Return whether Alembic can reflect this object: not indexes on expressions of SQLite (another test does)."""
    return name not in ("ix_executions_ready", "ix_executions_limited")
