"""Everything about PostgreSQL that is not the write path: connections, migrations, servers."""
